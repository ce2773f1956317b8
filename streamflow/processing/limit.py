"""A bulkhead: so much of one kind at a time, so that a slow service can't hold everything else up.

As M. Nygard has it in "Release It!" (2007), and resilience libraries since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from streamflow.errors import ConfigurationError, LimitReached

P = ParamSpec("P")
R = TypeVar("R")


class Limit:
    """At most ``concurrent`` are within ``async with limit:`` at a time; others wait, in order.

    ``waiting_max``: where so many wait already, LimitReached is raised at once instead. Also a decorator of
    coroutine functions. It belongs to one event loop. Raises ConfigurationError.
    """

    def __init__(self, concurrent: int, *, waiting_max: int | None = None, name: str = "") -> None:
        if type(concurrent) is not int or concurrent < 1:
            raise ConfigurationError(f"Limit(concurrent={concurrent!r}) must be a whole number from 1 up")
        if waiting_max is not None and (type(waiting_max) is not int or waiting_max < 0):
            raise ConfigurationError(f"Limit(waiting_max={waiting_max!r}) must be a whole number from 0 up")
        self.name = name
        self.concurrent = concurrent
        self.waiting = 0
        self._waiting_max = waiting_max
        self._places = asyncio.Semaphore(concurrent)

    async def __aenter__(self) -> Self:
        full = self._places.locked()
        if full and self._waiting_max is not None and self.waiting >= self._waiting_max:
            raise LimitReached(self.name, self.concurrent, self.waiting)
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.release()

    def __call__(self, fun: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        @wraps(fun)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            async with self:
                return await fun(*args, **kwargs)

        return limited
