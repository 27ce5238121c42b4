"""The doors: one file for each resource, its routes and its wire models beside each other.

A file here with a ``router`` is a door; there is no list to keep.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from fastapi import APIRouter
from starlette.routing import BaseRoute

_BUSIEST = "signals"


def routes() -> list[BaseRoute]:
    """The routes of all doors: the busiest first, for a request is held against one after the other,
    then in the order of their names.
    """
    names = sorted(found.name for found in pkgutil.iter_modules(__path__))
    names.sort(key=lambda name: name != _BUSIEST)
    doors = [getattr(import_module(f"{__name__}.{name}"), "router", None) for name in names]
    return [route for door in doors if isinstance(door, APIRouter) for route in door.routes]
