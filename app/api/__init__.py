"""The doors: one file for each resource, its routes and its wire models beside each other.

A file here with a ``router`` is a door; there is no list to keep.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from fastapi import APIRouter


def router() -> APIRouter:
    """All doors, in the order of their names."""
    doors = APIRouter()
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name):
        door = getattr(import_module(f"{__name__}.{found.name}"), "router", None)
        if isinstance(door, APIRouter):
            doors.include_router(door)
    return doors
