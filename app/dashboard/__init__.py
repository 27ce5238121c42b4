"""The operators' window: server-rendered pages that work without JavaScript and live with it.

``pages`` has the routes and what each page is made of, ``session`` signing in and out, ``frame``
templates, headers, files and pages about failures, ``plots`` what is drawn of a series, ``words``
times, amounts and changes as people say them. ``delivery_pages`` shows endpoints, deliveries and every
try, and ``delivery_words`` says how they stand; ``rules_pages`` and ``backtest_pages`` are the others.
"""

from __future__ import annotations

from starlette.routing import BaseRoute

from app.dashboard import backtest_pages, delivery_pages, pages, rules_pages, session


def routes() -> list[BaseRoute]:
    """The routes of all pages."""
    doors = (session, rules_pages, backtest_pages, delivery_pages, pages)
    return [route for door in doors for route in door.router.routes]
