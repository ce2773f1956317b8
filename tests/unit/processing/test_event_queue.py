"""What waits for an agent, by its buffer's policy: single events are dropped, and each is accounted for."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.codecs.chunk import Chunk
from streamflow.processing.agent import AgentRunner
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.buffer import Buffer
from streamflow.processing.event_queue import BEHIND_MS, AgentListener, EventQueue
from streamflow.processing.event_stream import EventStream
from streamflow.processing.gate import Gate
from streamflow.state.progress import Progress
from streamflow.testing import ManualClock

Policy = Literal["drop_oldest", "drop_newest"]
POLICIES: tuple[Policy, ...] = ("drop_newest", "drop_oldest")


def chunk(first: int, size: int, partition: int = 0) -> Chunk:
    """Of events whose values are their offsets. The offset behind it holds a record that is no event."""
    offsets = list(range(first, first + size))
    return Chunk(
        "in",
        partition,
        offsets=offsets,
        keys=list(offsets),
        events=[(partition, offset) for offset in offsets],
        columns={},
        times_ms=offsets,
        timestamps_ms=offsets,
        raw=([None] * size, [b"x" * size_of(offset) for offset in offsets], None),
        next_offset=first + size + 1,
    )


def size_of(offset: int) -> int:
    """Bytes of the event's value"""
    return offset * 7 % 10


class Model:
    """What each policy means: a list that is cut at one end, once its taker is behind."""

    def __init__(self, limit: int, policy: Policy, bytes_max: int | None) -> None:
        self.waiting: list[tuple[int, int]] = []
        self.limit, self.policy, self.bytes_max = limit, policy, bytes_max

    @property
    def bytes(self) -> int:
        return sum(size_of(offset) for _, offset in self.waiting)

    def put(self, events: list[tuple[int, int]], *, behind: bool) -> None:
        self.waiting += events
        while behind and (
            len(self.waiting) > self.limit
            or (self.bytes_max is not None and self.bytes > self.bytes_max and len(self.waiting) > 1)
        ):
            del self.waiting[-1 if self.policy == "drop_newest" else 0]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 30), st.integers(0, 2)),
        st.tuples(st.just("take"), st.integers(1, 5), st.just(0)),
        st.tuples(st.just("late"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@given(
    limit=st.integers(1, 12),
    policy=st.sampled_from(POLICIES),
    bytes_max=st.none() | st.integers(1, 60),
    steps=STEPS,
)
def test_what_waits_is_what_the_policy_says(
    limit: int, policy: Policy, bytes_max: int | None, steps: list[tuple[str, int, int]]
) -> None:
    now_ms, lost, model = [0.0], [0], Model(limit, policy, bytes_max)

    def dropped(count: int) -> None:
        lost[0] += count

    queue = EventQueue(Buffer(limit, policy, bytes_max), lambda: now_ms[0], AgentListener(on_drop=dropped))
    ends, sums, taken = [0, 0, 0], [0, 0, 0], 0
    busy = behind = False

    def take() -> bool:
        nonlocal taken, busy, behind
        found = queue.take()
        if found is None:
            busy = behind = False
            assert not model.waiting
            return False
        events, count = found
        assert not count or not len(events), "an entry holds events, or stands for some"
        assert events.events == model.waiting[: len(events)]
        assert events.next_offset >= ends[events.partition], "a partition's position never goes back"
        del model.waiting[: len(events)]
        taken += len(events)
        ends[events.partition] = events.next_offset
        sums[events.partition] += len(events) + count
        return True

    at, sent = [0, 0, 0], [0, 0, 0]
    while take():
        pass
    for what, size, partition in steps:
        if what == "put":
            queue.put(chunk(at[partition], size, partition))
            first, busy = at[partition], True
            model.put([(partition, offset) for offset in range(first, first + size)], behind=behind)
            at[partition] += size + 1
            sent[partition] += size
        elif what == "take":
            for _ in range(size):
                take()
        else:
            now_ms[0] += BEHIND_MS
            queue.trim()
            behind = busy
            model.put([], behind=behind)
        assert queue.events == len(model.waiting)
        assert queue.bytes == (0 if bytes_max is None else model.bytes)
        assert not behind or queue.events <= limit
    while take():
        pass
    assert sums == sent
    assert taken + lost[0] == sum(sent)
    assert ends == at


def test_a_full_queue_that_blocks_is_told_by_events_or_by_bytes() -> None:
    queue = EventQueue(Buffer(10, "block", bytes_max=20), lambda: 0.0, AgentListener())
    queue.put(chunk(0, 4))  # of 0, 7, 4 and 1 bytes
    assert not queue.is_full()
    queue.put(chunk(4, 1))  # of 8
    assert queue.is_full()
    assert queue.take() is not None
    assert (queue.bytes, queue.is_full()) == (8, False)
    queue.put(chunk(10, 10))
    assert queue.is_full()
    queue.forget(("in", 0))
    assert (queue.bytes, queue.events) == (0, 0)


class Bench:
    """An agent with this buffer; it takes events while ``gate`` is set."""

    def __init__(self, buffer: Buffer, *, concurrent: bool, isolated: bool = False) -> None:
        self.seen: list[tuple[int, int]] = []
        self.lost = 0
        self.clock = ManualClock()
        self.go_on = asyncio.Event()
        self.slow: int | None = None  # the partition whose events wait for `go_on`
        agents: list[AgentRunner] = []

        async def run(stream: EventStream) -> None:
            if concurrent:
                async for unit in stream.concurrent().each():
                    await self._process(unit.values[0])
            else:
                async for value in stream.values():
                    await self._process(value)

        spec = AgentSpec("a", "in", run, buffer=buffer, isolated=isolated)
        gate = Gate(self.clock, agents)
        self.agent = AgentRunner(
            spec, self.clock, gate, give_up=lambda *_: None, told=AgentListener(on_drop=self._drop)
        )
        agents.append(self.agent)
        self.progress = [Progress("agent:a", "in", partition) for partition in range(2)]
        for progress in self.progress:
            self.agent.hold(progress)
        self.agent.start()

    def _drop(self, count: int) -> None:
        self.lost += count

    async def _process(self, value: tuple[int, int]) -> None:
        self.seen.append(value)
        if self.slow is None or value[0] == self.slow:
            await self.go_on.wait()

    async def turns(self) -> None:
        await self.clock.advance(0)
        self.agent.settle()


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
async def test_an_agent_that_keeps_up_loses_none_of_bursts_beyond_its_limit(
    policy: Policy, concurrent: bool
) -> None:
    bench = Bench(Buffer(50, policy), concurrent=concurrent)
    bench.go_on.set()
    for burst in range(3):
        bench.agent.offer(chunk(burst * 3_001, 3_000))
        for _ in range(200):
            await bench.turns()
        await bench.clock.advance(10 * BEHIND_MS)
    progress = bench.progress[0]
    assert (len(bench.seen), bench.lost) == (9_000, 0)
    assert progress.position == 9_003
    assert progress.counters == {"in": 9_000, "counted": 9_000}
    await bench.agent.halt()


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
async def test_of_what_waits_for_an_agent_that_is_behind_as_many_as_the_limit_stay(
    policy: Policy, concurrent: bool
) -> None:
    bench = Bench(Buffer(50, policy), concurrent=concurrent)
    for burst in range(3):
        bench.agent.offer(chunk(burst * 3_001, 3_000))
        assert bench.agent.full() == (burst == 0)  # its partition waits until the agent is behind
        await bench.turns()
        await bench.clock.advance(BEHIND_MS)
        bench.agent.begin_cut()
        assert bench.agent.queued == 50
        assert not bench.agent.full()
    bench.go_on.set()
    for _ in range(200):
        await bench.turns()
    offsets = [offset for _, offset in bench.seen]
    assert offsets == [0, *(range(1, 51) if policy == "drop_newest" else range(8_952, 9_002))]
    assert bench.lost == 8_949
    assert bench.progress[0].position == 9_003
    assert bench.progress[0].counters == {"in": 9_000, "counted": 51, "dropped": 8_949}
    await bench.agent.halt()


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_partition_that_is_taken_apart_loses_none_because_another_is_behind(policy: Policy) -> None:
    bench = Bench(Buffer(5, policy), concurrent=True, isolated=True)
    bench.slow = 0
    for first in range(0, 42, 21):
        bench.agent.offer(chunk(first, 20, 0))
        bench.agent.offer(chunk(first, 20, 1))
        await bench.turns()
        await bench.clock.advance(2 * BEHIND_MS)
    bench.go_on.set()
    for _ in range(50):
        await bench.turns()
    slow, fast = bench.progress
    assert fast.counters == {"in": 40, "counted": 40}
    assert slow.counters == {"in": 40, "counted": 6, "dropped": 34}
    assert slow.position == fast.position == 42
    await bench.agent.halt()


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("policy", ["block", *POLICIES])
async def test_reading_that_goes_back_brings_no_event_twice(
    policy: Literal["block", "drop_oldest", "drop_newest"], concurrent: bool
) -> None:
    bench = Bench(Buffer(1_000, policy), concurrent=concurrent)
    for first in (0, 11, 22):
        bench.agent.offer(chunk(first, 10))
        await bench.turns()
    for first in (0, 11, 22, 33):
        bench.agent.offer(chunk(first, 10))
        await bench.turns()
    bench.go_on.set()
    for _ in range(50):
        await bench.turns()
    assert [offset for _, offset in bench.seen] == [n for n in range(44) if n % 11 != 10]
    assert bench.progress[0].counters == {"in": 40, "counted": 40}
    assert bench.progress[0].position == 44
    await bench.agent.halt()


@pytest.mark.parametrize("concurrent", [False, True])
async def test_reading_that_goes_back_brings_none_twice_in_small_batches(concurrent: bool) -> None:
    """The first batches that come again hold nothing that was not taken, and no checkpoint was made yet."""
    bench = Bench(Buffer(1_000, "block"), concurrent=concurrent)
    bench.go_on.set()
    bench.agent.offer(chunk(0, 20))
    for _ in range(10):
        await bench.clock.advance(0)
    for first in range(0, 30, 3):
        bench.agent.offer(chunk(first, 2))
        for _ in range(5):
            await bench.clock.advance(0)
    bench.agent.settle()
    offsets = [offset for _, offset in bench.seen]
    assert offsets == sorted(set(offsets))
    assert bench.progress[0].position == 30
    await bench.agent.halt()


@pytest.mark.parametrize("concurrent", [False, True])
async def test_what_waited_and_is_no_longer_there_is_not_taken_after_reading_went_back(
    concurrent: bool,
) -> None:
    """The log has lost its end, and others have written there."""
    bench = Bench(Buffer(), concurrent=concurrent)
    bench.agent.offer(chunk(0, 3))
    bench.agent.offer(chunk(4, 6))
    await bench.turns()
    bench.agent.offer(chunk(0, 7))
    bench.go_on.set()
    for _ in range(50):
        await bench.turns()
    assert [offset for _, offset in bench.seen] == [0, 1, 2, 4, 5, 6]
    assert bench.progress[0].position == 8
    await bench.agent.halt()
