"""What befalls an endpoint, told to whoever subscribed to it."""

from __future__ import annotations

import enum


class EndpointEvent(enum.StrEnum):
    """The types of operational events; the names are a promise to subscribers."""

    failing = "endpoint.failing"
    suspended = "endpoint.suspended"
    recovered = "endpoint.recovered"
