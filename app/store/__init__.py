"""All SQL, by noun.

    alerts         alerts, their transitions and the signals that fed them
    board          what the operators' board shows, in few queries
    deliveries     what is owed to whom, claimed, recorded
    findings       the state of each rule on each series
    partitions     the months of ``signals``
    partners       partners and their keys
    profiles       versions of mechanisms
    series         series and their state
    signals        what was reported
    subscriptions  who wants to hear what, and where

Functions take an open ``Connection`` first and never commit. Rows become values of ``alerts`` here
and nowhere else. A function exists because it contains SQL.
"""

from app.store import (
    alerts,
    board,
    deliveries,
    delivery_log,
    dossiers,
    findings,
    partitions,
    partners,
    profiles,
    series,
    signals,
    subscriptions,
)

__all__ = [
    "alerts",
    "board",
    "deliveries",
    "delivery_log",
    "dossiers",
    "findings",
    "partitions",
    "partners",
    "profiles",
    "series",
    "signals",
    "subscriptions",
]
