"""What becomes of an endpoint over time, and what its owner is told of it."""

from __future__ import annotations

import enum


class EndpointEvent(enum.StrEnum):
    """The types of what is told of an endpoint itself; the names are a promise to subscribers."""

    failing = "endpoint.failing"
    suspended = "endpoint.suspended"
    recovered = "endpoint.recovered"
