"""The bench: measures the product beside its bare limits, in one run on one machine.

Everything that is measured runs in processes of its own and is reached as users reach it:

    measures   what is measured, in which order, and on which beds
    accepting  ingest, single, latency, crisis
    delivering deliver, scale
    holding    flat, reads, memory: what a service does that holds much
    bed        starts what a measure needs: service, echo, sink, hand
    hand       a process that does what it is told: puts load on, and runs the bare limits
    load       signals over HTTP, as partners send them
    forms      how a signal is written: as ours, and as the peer takes it
    peer       Alertmanager, where it is installed
    bare       what PostgreSQL and the sending client do without the product around them
    echo       the web framework alone
    bare_start the same with one route, to see how long it takes to start
    sink       a receiver of webhooks that only notes when they came
    workload   the series that report, and their history
    judging    the engine alone, without a service around it
    questions  the rules that it is asked then
    plain      the formulas of these rules, without the engine
    page       tables for people, and docs/benchmarks.md

Nothing here asserts that a number is good enough: it prints what it found.
"""
