"""The in-order path and the concurrent path give equal results: over random events, failures and crashes.

One program (an agent that counts in windows, keeps a running total per key and sends) is run on each
path, in a simulated world that kills its worker; what is in the topics at the end must be equal.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamflow.engine.engine import Engine
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.event_stream import EventStream
from streamflow.processing.retries import Retry
from streamflow.settings import Settings
from streamflow.state.agent_table import AgentTable
from streamflow.state.changelog import RowCodec
from streamflow.state.partition import TableSpec
from streamflow.state.progress import progress_from_record
from streamflow.state.stores.base import NO_WINDOW
from streamflow.testing import SimulationLoop, run_simulation
from streamflow.transports.base import Record, TopicSpec
from streamflow.transports.memory import Faults, MemoryBroker, MemoryTransport
from streamflow.windows import TumblingWindow
from tests.simulation.checks import live_rows, records_of
from tests.simulation.codecs import source
from tests.simulation.scenario import EVENTS, SOURCES, users_of
from tests.support.loop_clock import LoopClock

T0_MS = 1_700_000_000_000
LIMIT_S = 300.0


@dataclass(frozen=True)
class Given:
    """One event: its partition, user (0 or 1), event time in s, and how often its agent fails (3: always)."""

    partition: int
    user: int
    time_s: int
    failures: int


@dataclass(frozen=True)
class Program:
    """What the agent does. ``batch``: events of one batch; 0: one by one, on either path."""

    path: str
    batch: int
    pause_ms: int
    kills_s: tuple[float, ...]


events = st.lists(
    st.builds(
        Given,
        st.integers(0, SOURCES - 1),
        st.integers(0, 1),
        st.integers(0, 90),
        st.sampled_from((0, 0, 0, 0, 1, 3)),
    ),
    min_size=1,
    max_size=40,
)
programs = st.builds(
    Program,
    st.just("in order"),
    st.sampled_from((1, 2, 5)),
    st.sampled_from((0, 0, 30)),
    st.lists(st.floats(0.05, 2.0), max_size=2).map(lambda at: tuple(sorted(at))),
)


class World:
    """One broker, one worker at a time, and the program that it runs."""

    def __init__(self, loop: SimulationLoop, program: Program, given_events: list[Given]) -> None:
        self.loop = loop
        self.program = program
        self.clock = LoopClock()
        self.broker = MemoryBroker(self.clock, faults=Faults(), session_timeout_ms=500.0)
        self.broker.create_topics([TopicSpec(EVENTS, SOURCES), TopicSpec("out", SOURCES)])
        self.known = {str(number): event for number, event in enumerate(given_events)}
        self.failed: dict[str, int] = {}
        self.number = 0

    def boot(self) -> str:
        self.number += 1
        owner = f"w#{self.number}"
        client = MemoryTransport(self.broker, "app", "w", self.clock)
        self.client = client
        engine = Engine(Settings(id="app", commit_interval=0.1, fetch_wait_ms=50), client, self.clock)
        window = TumblingWindow(10, grace_s=20, retain_s=86_400)
        engine.topology.topics.want("out", SOURCES)
        self.windows = engine.topology.add_table(
            TableSpec("windows", window, RowCodec(window), "", 0), lambda: 0, str.encode
        )
        self.totals = engine.topology.add_table(
            TableSpec("totals", None, RowCodec(None), "", 0), lambda: 0, str.encode
        )
        retry = Retry(attempts=3, first_wait_s=0.01, wait_max_s=0.02, jitter=False)
        spec = AgentSpec("agent", EVENTS, self._run, retry, f"{EVENTS}-dead-letters")
        engine.topology.add_agent(spec, source())
        self.engine = engine
        with self.loop.owned_by(owner):
            self.loop.create_task(engine.start("http://w"), name="main")
        return owner

    async def _run(self, stream: EventStream) -> None:
        async for key, event in self._items(stream):
            self.windows.change(key, operator.add, 1)
            total = self._total(self.totals, key) + event["n"]
            self.totals.write(key, total, NO_WINDOW)
            given_event = self.known[event["id"]]
            await self.engine.send(Record("out", given_event.partition, key.encode(), b"%d" % total))
            if self.program.pause_ms and event["n"] % 7 == 0:
                await self.clock.sleep_ms(self.program.pause_ms)
            failed = self.failed.get(event["id"], 0)
            if failed < given_event.failures or given_event.failures == 3:
                self.failed[event["id"]] = failed + 1
                raise ValueError(event["id"])

    def _total(self, table: AgentTable, key: str) -> int:
        found = table.read(key, NO_WINDOW)
        return found if isinstance(found, int) else 0

    async def _items(self, stream: EventStream) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        if self.program.path == "in order":
            async for key, value in stream.items():
                yield key, value
        elif self.program.batch == 1:
            async for unit in stream.concurrent().each():
                yield unit.keys[unit.position], unit.values[0]
        else:
            async for unit, batch in stream.concurrent().batches(self.program.batch, 50.0):
                for value in batch:
                    yield unit.keys[unit.position], value

    def produce(self) -> None:
        self.broker.write(
            [
                Record(
                    EVENTS,
                    event.partition,
                    users_of(event.partition)[event.user].encode(),
                    orjson.dumps({"id": name, "n": int(name), "timestamp": T0_MS + event.time_s * 1_000}),
                )
                for name, event in self.known.items()
            ]
        )

    def done(self) -> bool:
        rows = live_rows(self.broker, "app-progress") if "app-progress" in self.broker.topics() else {}
        positions = {
            progress.partition: progress.position
            for (_, key), value in rows.items()
            if orjson.loads(key)[0] == "agent:agent"
            for progress in [progress_from_record(key, value)]
        }
        ends = {p: self.broker.log((EVENTS, p)).end for p in range(SOURCES)}
        return all(positions.get(p, 0) >= end for p, end in ends.items())


def outcome(program: Program, given_events: list[Given]) -> dict[str, Any]:
    """Rows, counters, outputs and dead letters of a run of this program, read from the topics."""
    found: dict[str, Any] = {}

    async def main(loop: SimulationLoop) -> None:
        world = World(loop, program, given_events)
        world.produce()
        owner = world.boot()
        for at_s in program.kills_s:
            await asyncio.sleep(max(0.0, at_s - loop.time()))
            loop.kill(owner)
            world.client.kill()
            owner = world.boot()
        while not world.done():
            assert world.engine.failure is None, world.engine.failure
            assert loop.time() < LIMIT_S, "the program does not end"
            await asyncio.sleep(0.1)
        for name in ("windows", "totals"):
            found[name] = live_rows(world.broker, f"app-{name}-changelog")
        found["progress"] = {
            progress.partition: (progress.counters, progress.watermark_ms, progress.done)
            for (_, key), value in live_rows(world.broker, "app-progress").items()
            if orjson.loads(key)[0] == "agent:agent"
            for progress in [progress_from_record(key, value)]
        }
        found["out"] = records_of(world.broker, "out")
        found["letters"] = sorted(
            str(record) for record in records_of(world.broker, f"{EVENTS}-dead-letters")
        )
        loop.kill(owner)
        world.client.kill()

    run_simulation(main, 0, steps_max=2_000_000)
    return found


# A killed worker's coroutines never end, and some have not begun.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events, programs)
def test_both_paths_give_the_same_rows_counters_outputs_and_dead_letters(
    given_events: list[Given], program: Program
) -> None:
    concurrent = Program("concurrent", program.batch, program.pause_ms, program.kills_s)
    in_order = outcome(program, given_events)
    assert outcome(concurrent, given_events) == in_order
    calm = Program("in order", 1, 0, ())
    assert outcome(calm, given_events) == in_order, "and neither depends on crashes"
