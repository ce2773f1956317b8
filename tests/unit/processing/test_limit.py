"""A bulkhead: so many at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamflow.errors import ConfigurationError, LimitReached
from streamflow.processing.limit import Limit


async def test_so_many_are_within_and_the_others_wait_in_order() -> None:
    limit = Limit(2)
    within, most, order = 0, 0, []

    @limit
    async def call(number: int) -> int:
        nonlocal within, most
        within += 1
        most = max(most, within)
        order.append(number)
        await asyncio.sleep(0)
        within -= 1
        return number

    assert await asyncio.gather(*map(call, range(7))) == list(range(7))
    assert (most, order, limit.waiting) == (2, list(range(7)), 0)


async def test_where_enough_wait_the_next_is_refused() -> None:
    limit = Limit(1, waiting_max=1, name="billing")
    go_on = asyncio.Event()

    async def call() -> None:
        async with limit:
            await go_on.wait()

    calls = [asyncio.create_task(call()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(LimitReached, match=r"billing.*1 at work and 1 waiting"):
        await call()
    calls[1].cancel()  # who no longer waits makes room
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    calls.append(asyncio.create_task(call()))
    await asyncio.sleep(0)
    go_on.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), asyncio.CancelledError, type(None)]


@pytest.mark.parametrize(
    "options", [{"concurrent": 0}, {"concurrent": 1.5}, {"concurrent": 1, "waiting_max": -1}]
)
def test_what_can_not_work_is_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError, match="Limit"):
        Limit(**options)
