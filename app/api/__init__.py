"""The doors: one file for each resource, its routes and its wire models beside each other.

A file here with a ``router`` is a door; there is no list to keep.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module

from fastapi import APIRouter
from starlette.routing import BaseRoute

_FIRST = ("signals", "health")


def first_routes() -> list[BaseRoute]:
    """The routes of the busiest door and of health, which a start waits for; the router asks them first."""
    return _routes(_FIRST)


def later_routes() -> list[BaseRoute]:
    """The routes of all other doors, in the order of their names. Making them takes a sixth of a start."""
    names = sorted(found.name for found in pkgutil.iter_modules(__path__))
    return _routes(name for name in names if name not in _FIRST)


def _routes(names: Iterable[str]) -> list[BaseRoute]:
    doors = [getattr(import_module(f"{__name__}.{name}"), "router", None) for name in names]
    return [route for door in doors if isinstance(door, APIRouter) for route in door.routes]
