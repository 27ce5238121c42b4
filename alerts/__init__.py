"""The engine: what a signal means. Values and decisions; no I/O, no clock, no dice.

The rooms, top to bottom; each may use those below it and none above:

    payloads      events as bytes, one file a published format; the feed
    routing       who hears of a transition
    replay        recorded history through the engine, streamed, for backtests
    desk          the engine with a memory as narrow as the service's, for tests of rules
    skill         warnings scored against labelled disruptions
    retention     how long signals are kept, by sector and sharing label
    hindsight     judges a subject again when its past has changed
    overflow      too many alerts at once, told in one summary
    judgement     folds new samples of many series into findings and alerts
    tracks        what a judgement reads and gives, as values
    explanation   why, as data and as one plain sentence
    lifecycle     machine B: an alert, its level, its state, its severity
    findings      machine A: one rule on one series over time
    detectors     rule + window -> reading
    mechanisms    profiles: parties, levels, clocks, recommendations, rules; pure data
    rules         standing questions asked of a series
    catalogue     sectors, goods, indicators, event codes: what may be reported
    signals       what partners report, as values in time order
    signing       headers for bytes, keys and instant
    endpoints     what attempts mean for their endpoint: breaker, suspension, notices
    retries       what an attempt means: the next step
"""
