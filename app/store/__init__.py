"""All SQL, by noun.

    alerts           alerts, their transitions and the signals that fed them
    audit            who changed what, as a chain that shows tampering
    board            what the operators' board shows, in few queries
    calm             series moved on by calm signals, with nothing read before
    debts            how deliveries come to be owed
    deliveries       what is owed to whom, in which order
    delivery_log     deliveries and their attempts as they are shown
    distribution     the tables by series, spread over machines
    dossiers         everything one alert's page shows
    endpoint_health  how endpoints do, and how soon they hear
    endpoints        when something may be sent to whom, and what owners must be told
    findings         the state of each rule on each series
    finding_log      findings as they are shown
    jumps            what a clock that ran ahead has put off
    partitions       the months of ``signals``
    partners         partners and their keys
    profiles         versions of mechanisms
    publishing       what is held and known before transitions are written
    queue            deliveries claimed under a lease
    recorded         all that was ever reported, for backtests
    records          attempts recorded under a fence, and what follows
    recoveries       ranges of deliveries that are owed again, bit by bit
    retirement       what the record keeps no longer
    rules            versions of single rules, laid over the profiles
    series           series and their state
    shelves          what operators have quietened, until when and why
    signals          what was reported
    standing         how series and their scopes stand, read before they are judged
    subscriptions    who wants to hear what, and where
    transition_log   transitions as routing saw them, newest first
    vitals           how the database itself does

Functions take an open ``Connection`` first and never commit; those that take none give a ``Write``, which
their caller has written beside others in one round trip. Rows become values of ``alerts`` here
and nowhere else. A function exists because it contains SQL.
"""

from app.store import (
    alerts,
    audit,
    board,
    calm,
    debts,
    deliveries,
    delivery_log,
    distribution,
    dossiers,
    endpoint_health,
    endpoints,
    finding_log,
    findings,
    jumps,
    partitions,
    partners,
    profiles,
    publishing,
    queue,
    recorded,
    records,
    recoveries,
    retirement,
    rules,
    series,
    shelves,
    signals,
    standing,
    subscriptions,
    transition_log,
    vitals,
)

__all__ = [
    "alerts",
    "audit",
    "board",
    "calm",
    "debts",
    "deliveries",
    "delivery_log",
    "distribution",
    "dossiers",
    "endpoint_health",
    "endpoints",
    "finding_log",
    "findings",
    "jumps",
    "partitions",
    "partners",
    "profiles",
    "publishing",
    "queue",
    "recorded",
    "records",
    "recoveries",
    "retirement",
    "rules",
    "series",
    "shelves",
    "signals",
    "standing",
    "subscriptions",
    "transition_log",
    "vitals",
]
