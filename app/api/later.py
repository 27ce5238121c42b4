"""The doors that a start does not wait for: pages, and all of the API but signals and health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.routing import BaseRoute


class Later:
    """Routes that are made once, beside the loop, for whoever needs them first.

    Args:
        routes: the router's, which they join.
        make: loads their modules and gives them; it blocks, for most of half a second.
    """

    def __init__(self, routes: list[BaseRoute], make: Callable[[], list[BaseRoute]]) -> None:
        self._routes = routes
        self._make = make
        self._making = asyncio.Lock()
        self.are_there = False

    async def come(self) -> None:
        """Returns when they are there. Raises what making them raises; the next who comes tries again."""
        async with self._making:
            if not self.are_there:
                self._routes += await asyncio.to_thread(self._make)
                self.are_there = True
