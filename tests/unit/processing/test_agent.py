"""A running agent without an engine: both paths do the same, and it moves from one to the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamflow.clock import Clock, SystemClock
from streamflow.codecs.chunk import Chunk
from streamflow.processing.agent import AgentRunner
from streamflow.processing.agent_spec import AgentSpec, Run
from streamflow.processing.event_stream import EventStream
from streamflow.processing.gate import Gate
from streamflow.processing.retries import Retry
from streamflow.state.event_context import current_context
from streamflow.state.progress import Progress
from streamflow.transports.base import Record
from tests.support.running import until

QUICK = Retry(attempts=3, first_wait_s=0, jitter=False)


def chunk(values: list[Any], first: int = 0) -> Chunk:
    size = len(values)
    offsets = list(range(first, first + size))
    return Chunk(
        "in",
        0,
        offsets=offsets,
        keys=[f"key {value}" for value in values],
        events=values,
        columns={},
        times_ms=offsets,
        timestamps_ms=offsets,
        raw=([None] * size, [None] * size, None),
        next_offset=first + size,
    )


class Bench:
    """One agent of one partition. ``given_up`` are the offsets that it set aside."""

    def __init__(self, run: Run, clock: Clock | None = None, **options: Any) -> None:
        self.given_up: list[int] = []
        self.errors: list[BaseException] = []
        self.agents: list[AgentRunner] = []
        clock = clock or SystemClock()
        self.gate = Gate(clock, self.agents)
        spec = AgentSpec("a", "in", run, **{"retry": QUICK, **options})
        self.agent = AgentRunner(spec, clock, self.gate, give_up=self._give_up)
        self.agents.append(self.agent)
        self.progress = Progress("agent:a", "in", 0)
        self.agent.hold(self.progress)
        self.agent.start()

    def _give_up(self, _: AgentRunner, given: Chunk, index: int, error: BaseException) -> None:
        self.given_up.append(given.offsets[index])
        self.errors.append(error)

    async def settled(self, position: int) -> Progress:
        def has_come() -> bool:
            self.agent.settle()
            return self.progress.position >= position

        await until(has_come)
        return self.progress


def values_of(stream: EventStream, *, concurrent: bool) -> AsyncIterator[Any]:
    async def units() -> AsyncIterator[Any]:
        async for unit in stream.concurrent().each():
            yield unit.values[0]

    return units() if concurrent else stream.values()


@pytest.mark.parametrize("concurrent", [False, True])
async def test_what_fails_is_undone_tried_again_and_set_aside_on_both_paths(concurrent: bool) -> None:
    seen: list[Any] = []
    failures = {"flaky": 1, "bad": 9}

    async def run(stream: EventStream) -> None:
        async for value in values_of(stream, concurrent=concurrent):
            seen.append(value)
            context = current_context.get()
            assert context is not None
            context.sends.append((context.position, Record("out", 0, None, str(value).encode()), None))
            if failures.get(value, 0) > 0:
                failures[value] -= 1
                raise ValueError(value)

    bench = Bench(run)
    bench.agent.offer(chunk(["one", "flaky", "bad", "two"]))
    bench.agent.offer(chunk(["three", "last"], 4))
    progress = await bench.settled(5)
    assert seen == ["one", "flaky", "flaky", "bad", "bad", "bad", "two", "three", "last"]
    assert bench.given_up == [2]
    assert (bench.agent.retries, bench.agent.is_concurrent) == (3, concurrent)
    assert progress.counters["failed"] == 1
    sent = [record.value for _, record, _ in bench.agent.take_outbox()]
    assert sent[:4] == [b"one", b"flaky", b"two", b"three"]
    assert not bench.agent.failing()
    await bench.agent.halt()


@pytest.mark.parametrize("concurrent", [False, True])
async def test_what_has_failed_is_told_until_it_is_done(concurrent: bool) -> None:
    go_on = asyncio.Event()
    tried = 0

    async def run(stream: EventStream) -> None:
        nonlocal tried
        async for _ in values_of(stream, concurrent=concurrent):
            tried += 1
            if tried == 1:
                raise ValueError
            await go_on.wait()

    bench = Bench(run)
    bench.agent.offer(chunk(["one", "two"]))
    await until(lambda: tried == 2)
    assert bench.agent.failing() == {("in", 0, 0): 1}
    go_on.set()
    await bench.settled(1)
    assert not bench.agent.failing()
    await bench.agent.halt()


async def test_a_loop_that_waits_in_order_goes_on_when_its_agent_moves() -> None:
    seen: list[tuple[str, Any]] = []
    runs = 0

    async def run(stream: EventStream) -> None:
        nonlocal runs
        runs += 1
        async for item in stream.items():
            seen.append(item)

    bench = Bench(run)
    bench.agent.offer(chunk([0, 1]))
    await until(lambda: len(seen) == 2)
    await asyncio.sleep(0)
    bench.agent.concurrent()
    bench.agent.offer(chunk([2, 3, 4], 2))
    progress = await bench.settled(5)
    assert seen == [(f"key {value}", value) for value in range(5)]
    assert (runs, bench.agent.processed, progress.counters) == (1, 5, {"in": 5, "counted": 5})
    await bench.agent.halt()


async def test_what_is_left_of_a_chunk_comes_next_when_the_agent_moves() -> None:
    seen: list[Any] = []

    async def run(stream: EventStream) -> None:
        if not seen:
            async for value in stream.values():
                seen.append(value)
                context = current_context.get()
                assert context is not None
                context.sends.append((context.position, Record("out", 0, None, b"sent"), None))
                break
        async for unit in stream.concurrent().each():
            seen.append(unit.values[0])

    bench = Bench(run)
    bench.agent.offer(chunk([0, 1, 2]))
    bench.agent.offer(chunk([3, 4], 3))
    await bench.settled(5)
    assert seen == [0, 1, 2, 3, 4]
    assert [record.value for _, record, _ in bench.agent.take_outbox()] == [b"sent"]
    await bench.agent.halt()


async def test_an_exception_that_is_thrown_comes_out_of_a_loop_that_waits_in_order() -> None:
    caught: list[BaseException] = []
    streams: list[EventStream] = []

    async def run(stream: EventStream) -> None:
        streams.append(stream)
        try:
            async for _ in stream.values():
                pass
        except KeyError as exc:
            caught.append(exc)

    bench = Bench(run)
    await until(lambda: bool(streams))
    await asyncio.sleep(0)
    streams[0].throw(KeyError("thrown"))
    await until(lambda: bool(caught))
    await bench.agent.halt()
