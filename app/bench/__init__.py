"""The bench: measures the product beside its bare limits, in one run on one machine.

Everything that is measured runs in processes of its own and is reached as users reach it:

    measures   what is measured, and in which order the parts take turns
    bed        starts what a measure needs: service, echo, sink, hand
    hand       a process that does what it is told: puts load on, and runs the bare limits
    load       signals over HTTP, as partners send them
    bare       what PostgreSQL and the sending client do without the product around them
    echo       the web framework alone
    sink       a receiver of webhooks that only notes when they came
    workload   the series that report, and their history
    judging    the engine alone, without a service around it
    questions  the rules that it is asked then
    plain      the formulas of these rules, without the engine
    page       tables for people, and docs/benchmarks.md

Nothing here asserts that a number is good enough: it prints what it found.
"""
