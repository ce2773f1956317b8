"""What every sink must do: see `streamflow.connectors.base`.

Subclass `SinkContract` in a module of tests, and give it `new_sink` and `written`; pytest runs what it
holds::

    class TestMySink(SinkContract):
        def new_sink(self): ...
        async def written(self, at): ...
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import TypeVar

from streamflow.connectors.base import Sink, SinkFenced, SinkPartition, SinkRecord, SinkWriter

T = TypeVar("T")

AT = SinkPartition("orders", 0)
ROUNDS = 10


def place_of(at: SinkPartition) -> str:
    """As the field ``of`` of a record's value has it."""
    return f"{at.topic}:{at.log}:{at.partition}"


def record(offset: int, number: int | None = None, at: SinkPartition = AT) -> SinkRecord:
    """Its value says its number ``n``, by default its offset, and which partition it is ``of``."""
    value = {"n": offset if number is None else number, "of": place_of(at)}
    return SinkRecord(offset, 1_760_000_000_000 + offset, b"ann", json.dumps(value).encode(), value)


class SinkContract(ABC):
    """``limit_s``: so long a test may take."""

    limit_s = 60.0

    @abstractmethod
    def new_sink(self) -> Sink:
        """A sink over the outside of this test, which is empty at first.

        Called again within a test it gives another one over the same outside, as another process would make
        it.
        """

    @abstractmethod
    async def written(self, at: SinkPartition) -> list[int]:
        """The field ``n`` of every record of this partition that readers of the outside see now, in order.

        Where partitions come together outside, the field ``of`` tells them apart: see `place_of`.
        """

    def bad_record(self, offset: int) -> SinkRecord | None:
        """A record that the sink can't take, such as a value of a wrong type; ``None``: it takes all."""
        return None

    # -- what is held against every sink -----------------------------------------------------------------

    def test_what_is_written_is_there_when_it_returns(self) -> None:
        async def test() -> None:
            writer = await self.new_sink().open(AT)
            await writer.write([record(0), record(1)])
            assert await self.written(AT) == [0, 1]
            await writer.write([record(2)])
            assert await self.written(AT) == [0, 1, 2]
            await writer.close()
            await writer.close()

        self._run(test())

    def test_offsets_are_ordered_and_not_counted(self) -> None:
        async def test() -> None:
            writer = await self.new_sink().open(AT)
            for batch in ([record(1_000), record(1_007)], [record(2**60 + 5)]):
                await writer.write(batch)
            assert await self.written(AT) == [1_000, 1_007, 2**60 + 5]
            await writer.close()

        self._run(test())

    def test_partitions_and_topics_and_their_logs_are_apart(self) -> None:
        async def test() -> None:
            sink = self.new_sink()
            places = [
                AT,
                SinkPartition("orders", 1),
                SinkPartition("order", 0),
                SinkPartition("orders", 0, "b"),
            ]
            for number, at in enumerate(places):
                writer = await sink.open(at)
                await writer.write([record(0, number, at)])
                await writer.close()
            assert [await self.written(at) for at in places] == [[0], [1], [2], [3]]

        self._run(test())

    def test_a_batch_with_a_bad_record_leaves_nothing_and_the_rest_can_be_written(self) -> None:
        async def test() -> None:
            bad = self.bad_record(1)
            if bad is None:
                return
            writer = await self.new_sink().open(AT)
            assert await self._error_of(writer, [record(0), bad, record(2)]) is not None
            assert await self.written(AT) == []
            await writer.close()
            writer = await self.new_sink().open(AT)
            await writer.write([record(0)])
            await writer.write([record(2)])
            assert await self.written(AT) == [0, 2]
            await writer.close()

        self._run(test())

    # -- what is held against those that are exactly once --------------------------------------------------

    def test_the_position_is_behind_the_last_record_for_whoever_opens_next(self) -> None:
        async def test() -> None:
            if not self._exactly_once():
                return
            writer = await self.new_sink().open(AT)
            positions = [writer.position]
            await writer.write([record(3), record(9)])
            assert [*positions, writer.position] == [None, 10]
            await writer.close()
            again = await self.new_sink().open(AT)
            assert again.position == 10
            await again.close()

        self._run(test())

    def test_what_is_given_again_is_not_written_again(self) -> None:
        async def test() -> None:
            if not self._exactly_once():
                return
            writer = await self.new_sink().open(AT)
            await writer.write([record(0), record(1)])
            await writer.write([record(0), record(1)])
            await writer.close()
            again = await self.new_sink().open(AT)
            await again.write([record(0), record(1)])
            await again.write([record(1), record(2), record(3)])
            assert await self.written(AT) == [0, 1, 2, 3]
            await again.close()

        self._run(test())

    def test_who_was_replaced_writes_nothing_any_more(self) -> None:
        async def test() -> None:
            if not self._exactly_once():
                return
            former = await self.new_sink().open(AT)
            await former.write([record(0)])
            owner = await self.new_sink().open(AT)
            # It wakes, and knows of nothing.
            await self._refuses(former, [record(1)])
            assert await self.written(AT) == [0]
            await owner.write([record(1), record(2)])
            await self._refuses(former, [record(1), record(2), record(3)])
            await self._refuses(former, [record(7)])
            assert await self.written(AT) == [0, 1, 2]
            await former.close()
            await owner.write([record(3)])
            assert await self.written(AT) == [0, 1, 2, 3]
            await owner.close()

        self._run(test())

    def test_of_those_who_open_at_once_one_is_the_owner(self) -> None:
        async def test() -> None:
            if not self._exactly_once():
                return
            for number in range(ROUNDS):
                at = SinkPartition("orders", number)
                writers = await asyncio.gather(*(self.new_sink().open(at) for _ in range(4)))
                results = await asyncio.gather(
                    *(writer.write([record(0, at=at), record(1, at=at)]) for writer in writers),
                    return_exceptions=True,
                )
                assert [type(each) for each in results if each is not None] == [SinkFenced] * 3
                assert await self.written(at) == [0, 1]
                for writer in writers:
                    await writer.close()

        self._run(test())

    def test_a_write_that_races_its_successor_happens_wholly_or_not_at_all(self) -> None:
        async def test() -> None:
            if not self._exactly_once():
                return
            for number in range(ROUNDS):
                at = SinkPartition("orders", number)
                former = await self.new_sink().open(at)
                results = await asyncio.gather(
                    former.write([record(0, at=at), record(1, at=at)]),
                    self.new_sink().open(at),
                    return_exceptions=True,
                )
                wrote, owner = results
                assert not isinstance(owner, BaseException)
                # Whatever became of it: what is there now is what the position says.
                assert owner.position == (2 if wrote is None else None)
                await owner.write([record(0, at=at), record(1, at=at), record(2, at=at)])
                assert await self.written(at) == [0, 1, 2]
                await former.close()
                await owner.close()

        self._run(test())

    # -- steps ---------------------------------------------------------------------------------------------

    def _exactly_once(self) -> bool:
        return self.new_sink().delivery == "exactly_once"

    async def _refuses(self, writer: SinkWriter, records: list[SinkRecord]) -> None:
        error = await self._error_of(writer, records)
        assert isinstance(error, SinkFenced), error

    async def _error_of(self, writer: SinkWriter, records: list[SinkRecord]) -> Exception | None:
        try:
            await writer.write(records)
        except Exception as exc:  # noqa: BLE001 - which one is looked at by whoever asks
            return exc
        return None

    def _run(self, test: Coroutine[object, object, T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(self.limit_s):
                return await test

        return asyncio.run(limited())
