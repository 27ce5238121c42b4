"""The service: what happens. Doors call verbs, verbs ask the engine and the store, one window leads out.

The rooms, top to bottom; each may use those below it and none above:

    cli                        the command line
    torture                    breaks what a service stands on, and proves what must be true
    bench                      measures a running service, and the engine, beside their bare limits
    skill                      scores the shipped rules on history, beside textbook methods
    demo                       a client of a running service that replays real history
    main                       wiring
    connections                how many callers, how long they may take, how large a head may be
    api, dashboard, scheduler  doors: who comes in, and when
    access                     who is calling, and what that key may do
    house                      what the doors share
    ingest, deliver, subscribe verbs: accept signals, send what is owed, look after endpoints
    recover                    verb: owes a range of deliveries again
    rulebook, inquire          verbs: save rules and shelves; say why there is no alert
    tidy                       verb: months in order, nothing kept longer than it may be
    preview                    verb: say what a filter would have let through
    backtest, timetable        verbs: replay history and score it; play scenarios of rules
    evaluate                   verb: load, judge, write down
    policy, recall             what is asked of signals now; what a process remembers of series
    quotas, lately             how much each key may write; what pages show that takes long to count
    store                      all SQL, by noun
    premises                   the database that the settings name, opened
    tables                     the tables, for the store alone
    database, embedded         connections and transactions; a PostgreSQL of our own
    hosts                      which of several hosts is used, and when one is left
    doorstep                   the address that the service listens at
    outbound                   the only way out
    seals                      what must not be readable in the database
    documents                  the catalogue and the profiles, from YAML
    settings, telemetry        what an operator decides; what an operator sees
"""
