"""What every source must do: see `streamflow.connectors.base`.

Subclass `SourceContract` in a module of tests, and give it `new_source` and `add`; pytest runs what it
holds::

    class TestMySource(SourceContract):
        def new_source(self): ...
        async def add(self, number): ...
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import TypeVar, cast

from streamflow.clock import SystemClock
from streamflow.connectors.base import Place, Source, SourceBatch, SourceRecord

T = TypeVar("T")

RECORDS = 7


class SourceContract(ABC):
    """``limit_s``: so long a test waits for records before it fails."""

    limit_s = 20.0

    @abstractmethod
    def new_source(self) -> Source:
        """A source of one partition over the outside of this test, which is empty at first.

        Called again within a test it gives another source over the same outside, as after a restart. It looks
        for what is new every few milliseconds.
        """

    @abstractmethod
    async def add(self, number: int) -> None:
        """One more record comes to the outside; `number_of` finds the number in it."""

    def number_of(self, record: SourceRecord) -> int:
        """The number of a record that `add` has made; by default the field ``n`` of its JSON value."""
        return int(json.loads(record.value or b"{}")["n"])

    # -- what is held against it ---------------------------------------------------------------------

    def test_all_that_is_there_is_read_in_order(self) -> None:
        async def test() -> None:
            await self._add(range(RECORDS))
            assert await self._read(None, RECORDS) == list(range(RECORDS))

        self._run(test())

    def test_what_comes_later_is_read_by_who_waits_for_it(self) -> None:
        async def test() -> None:
            await self._add(range(2))
            waiting = asyncio.ensure_future(self._read(None, 4))
            await asyncio.sleep(0.05)
            await self._add(range(2, 4))
            assert await waiting == [0, 1, 2, 3]

        self._run(test())

    def test_reading_goes_on_behind_every_place_that_it_gave(self) -> None:
        async def test() -> None:
            await self._add(range(RECORDS))
            read = 0
            for batch in await self._batches(None, RECORDS):
                read += len(batch.records)
                await self._add(())  # nothing: the outside is as it was
                left = list(range(read, RECORDS))
                place = cast("Place", json.loads(json.dumps(batch.place)))
                assert await self._read(place, len(left)) == left
            assert read == RECORDS

        self._run(test())

    def test_behind_the_last_place_only_what_is_new_is_read(self) -> None:
        async def test() -> None:
            await self._add(range(3))
            place = (await self._batches(None, 3))[-1].place
            await self._add(range(3, 5))
            assert await self._read(place, 2) == [3, 4]

        self._run(test())

    def test_a_place_does_not_change_once_it_was_given(self) -> None:
        async def test() -> None:
            told: list[tuple[Place, str]] = []
            await self._add(range(3))
            for batch in await self._batches(None, 3):
                told.append((batch.place, json.dumps(batch.place)))
            await self._add(range(3, 6))
            for batch in await self._batches(told[-1][0], 3):
                told.append((batch.place, json.dumps(batch.place)))
            assert [json.dumps(place) for place, _ in told] == [text for _, text in told]

        self._run(test())

    def test_reading_leaves_everything_where_it_is(self) -> None:
        async def test() -> None:
            await self._add(range(RECORDS))
            first = await self._read(None, RECORDS)
            assert await self._read(None, RECORDS) == first

        self._run(test())

    def test_it_ends_at_once_where_it_is_cancelled(self) -> None:
        async def test() -> None:
            waiting = asyncio.ensure_future(self._read(None, 1))
            await asyncio.sleep(0.05)
            waiting.cancel()
            await asyncio.wait({waiting}, timeout=self.limit_s)
            assert waiting.cancelled()

        self._run(test())

    # -- steps ---------------------------------------------------------------------------------------

    async def _add(self, numbers: range | tuple[()]) -> None:
        for number in numbers:
            await self.add(number)

    async def _read(self, place: Place, count: int) -> list[int]:
        batches = await self._batches(place, count)
        return [self.number_of(record) for batch in batches for record in batch.records]

    async def _batches(self, place: Place, count: int) -> list[SourceBatch]:
        """Until so many records are there; what comes with the last of them is told as well."""
        found: list[SourceBatch] = []
        if not count:
            return found
        read = self.new_source().read(0, place, SystemClock())
        async with aclosing(cast("AsyncGenerator[SourceBatch, None]", read)) as batches:
            async for batch in batches:
                found.append(batch)
                if sum(len(each.records) for each in found) >= count:
                    break
        return found

    def _run(self, test: Coroutine[object, object, T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(self.limit_s):
                return await test

        return asyncio.run(limited())
