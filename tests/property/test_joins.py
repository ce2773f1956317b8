"""A join of two streams gives each pair once, and what is alone once: over random events and crashes."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamflow.codecs import KeyCodec
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.event_stream import EventStream
from streamflow.processing.joins import Join, JoinSpec, Side, TickFeed
from streamflow.processing.retries import Retry
from streamflow.processing.unit_stream import FILTERED, FlatValues, UnitStream
from streamflow.settings import Settings
from streamflow.state.changelog import RowCodec
from streamflow.state.partition import TableSpec
from streamflow.testing import SimulationLoop, run_simulation
from streamflow.transports.base import Record, TopicSpec
from streamflow.transports.memory import Faults, MemoryBroker, MemoryTransport
from tests.simulation.checks import live_rows, records_of
from tests.simulation.codecs import JsonEvent
from tests.simulation.scenario import users_of
from tests.support.loop_clock import LoopClock

T0_MS = 1_700_000_000_000
WITHIN_S = 10
GRACE_S = 100  # no event is late
LIMIT_S = 300.0
NAMES = ("left", "right")


@dataclass(frozen=True)
class Given:
    """``side``, partition, user (0 or 1), event time in s; ``fails`` at its first attempt."""

    side: int
    partition: int
    user: int
    time_s: int
    fails: bool


events = st.lists(
    st.builds(
        Given,
        st.integers(0, 1),
        st.integers(0, 1),
        st.integers(0, 1),
        st.integers(0, 60),
        st.sampled_from((False, False, False, True)),
    ),
    max_size=30,
)
kills = st.lists(st.floats(0.05, 1.5), max_size=3).map(sorted)


class World:
    """One broker, one worker at a time, that joins ``left`` and ``right`` and sends each pair on."""

    def __init__(self, loop: SimulationLoop, given_events: list[Given]) -> None:
        self.loop = loop
        self.clock = LoopClock()
        self.broker = MemoryBroker(self.clock, faults=Faults(), session_timeout_ms=500.0)
        self.broker.create_topics([TopicSpec(name, 2) for name in (*NAMES, "out")])
        self.known = {str(number): event for number, event in enumerate(given_events)}
        self.failed: set[str] = set()
        self.number = 0

    def boot(self) -> str:
        self.number += 1
        owner = f"w#{self.number}"
        self.client = MemoryTransport(self.broker, "app", "w", self.clock)
        self.engine = engine = Engine(
            Settings(id="app", commit_interval=0.1, fetch_wait_ms=50), self.client, self.clock
        )
        engine.topology.topics.want("out", 2)
        self.tables = [
            engine.topology.add_table(
                TableSpec(f"join-{name}", None, RowCodec(None), "", 0), None, str.encode
            )
            for name in NAMES
        ]
        sources = [TopicSource(name, KeyCodec(str), JsonEvent(), 2) for name in NAMES]  # type: ignore[arg-type]  # plainer than the real ones
        retry = Retry(attempts=3, first_wait_s=0.01, wait_max_s=0.02, jitter=False)
        self.right = engine.topology.add_agent(AgentSpec("right", "right", None, retry, "dead"), sources[1])
        engine.topology.add_agent(AgentSpec("left", "left", self._run, retry, "dead"), sources[0])
        with self.loop.owned_by(owner):
            self.loop.create_task(engine.start("http://w"), name="main")
        return owner

    async def _run(self, stream: EventStream) -> None:
        feeds = [stream.agent.concurrent(), self.right.concurrent()]

        async def decode(raw: bytes | None) -> Any:
            return orjson.loads(raw or b"")

        sides = [
            Side(feed, table, decode, lambda _, key: key, lambda _: -1)
            for feed, table in zip(feeds, self.tables, strict=True)
        ]
        spec = JoinSpec("join", (True, True), WITHIN_S * 1_000, GRACE_S * 1_000)
        join = Join(spec, self.clock, sides)

        async def process(unit: Any) -> Any:
            pairs = await join.take(unit, unit.ref.value)
            await self._dawdle_and_fail(unit)
            return FlatValues(pairs) or FILTERED

        feeds.append(TickFeed(feeds[0], self.clock, join.idle_tick))
        async for unit in UnitStream(feeds, stream.actor, process).each():
            left, right = unit.values[0]
            text = f"{left and left['id']}+{right and right['id']}"
            await self.engine.send(Record("out", unit.partition, None, text.encode()))

    async def _dawdle_and_fail(self, unit: Any) -> None:
        value = unit.ref.value
        if value is not None and value["id"] in self.known and self.known[value["id"]].fails:
            await self.clock.sleep_ms(20)
            if value["id"] not in self.failed:
                self.failed.add(value["id"])
                raise ValueError(value["id"])

    def produce(self) -> None:
        records = [
            record(event.side, event.partition, event.user, event.time_s, name)
            for name, event in self.known.items()
        ]
        for partition in (0, 1):
            records += [record(side, partition, 0, 10_000, f"end{side}{partition}") for side in (0, 1)]
        self.broker.write(records)

    def done(self) -> bool:
        rows = live_rows(self.broker, "app-progress") if "app-progress" in self.broker.topics() else {}
        positions = {
            (key[1], key[2]): orjson.loads(value)["position"]
            for (_, raw), value in rows.items()
            if (key := orjson.loads(raw))[0].startswith("agent:")
        }
        ends = {(name, p): self.broker.log((name, p)).end for name in NAMES for p in (0, 1)}
        return all(positions.get(at, 0) >= end for at, end in ends.items())


def record(side: int, partition: int, user: int, time_s: int, name: str) -> Record:
    value = {"id": name, "timestamp": T0_MS + time_s * 1_000}
    return Record(NAMES[side], partition, users_of(partition)[user].encode(), orjson.dumps(value))


def expected(given_events: list[Given]) -> Counter[str]:
    """By looking at each event with each other."""
    pairs: Counter[str] = Counter()
    matched: set[int] = set()
    for number, left in enumerate(given_events):
        for other, right in enumerate(given_events):
            same = (left.partition, left.user) == (right.partition, right.user)
            if (left.side, right.side) == (0, 1) and same and abs(left.time_s - right.time_s) <= WITHIN_S:
                pairs[f"{number}+{other}"] += 1
                matched |= {number, other}
    for number, event in enumerate(given_events):
        if number not in matched:
            pairs[f"{number}+None" if event.side == 0 else f"None+{number}"] += 1
    return pairs


# A killed worker's coroutines never end, and some have not begun.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events, kills)
def test_an_outer_join_gives_each_pair_and_what_is_alone_once(
    given_events: list[Given], kills_s: list[float]
) -> None:
    found: Counter[str] = Counter()
    left: dict[str, int] = {}

    async def main(loop: SimulationLoop) -> None:
        world = World(loop, given_events)
        world.produce()
        owner = world.boot()
        for at_s in kills_s:
            await asyncio.sleep(max(0.0, at_s - loop.time()))
            loop.kill(owner)
            world.client.kill()
            owner = world.boot()
        while not world.done():
            assert world.engine.failure is None, world.engine.failure
            assert loop.time() < LIMIT_S, "the join does not end"
            await asyncio.sleep(0.1)
        found.update((value or b"").decode() for _, _, value in records_of(world.broker, "out"))
        for name in NAMES:
            rows = live_rows(world.broker, f"app-join-{name}-changelog").values()
            left[name] = sum(len(orjson.loads(row)) for row in rows)
        loop.kill(owner)
        world.client.kill()

    run_simulation(main, 0, steps_max=2_000_000)
    # The ends wait still, with each other; they closed everything before.
    pairs = Counter({pair: count for pair, count in found.items() if not pair.startswith("end")})
    assert pairs == expected(given_events)
    assert left == {"left": 2, "right": 2}
