"""A broker that is away for 75 s: readiness knows, and the log says it once for each change of state."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from streamflow.clock import Clock
from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.errors import CommitAborted, CommitUnknown, Fenced, TransportError
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.event_stream import EventStream
from streamflow.query.worker_view import WorkerView
from streamflow.settings import Settings
from streamflow.testing import SimulationLoop, run_simulation
from streamflow.transports.base import Batch, Commit, Record
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.loop_clock import LoopClock

AWAY_S = 75


class AwayTransport(MemoryTransport):
    """Its broker can go away: ``away`` says what does not answer then."""

    away: frozenset[str] = frozenset()
    commits = 0

    async def partition_counts(self, topics: Any) -> dict[str, int]:
        if "questions" in self.away:
            raise TransportError("no broker can be reached")
        return await super().partition_counts(topics)

    async def fetch(self, wait_ms: int) -> list[Batch]:
        if "fetch" in self.away:
            raise TransportError("no broker can be reached")
        return await super().fetch(wait_ms)

    async def commit(self, commit: Commit) -> Any:
        self.commits += 1
        if "group" in self.away:
            raise Fenced("the group does not know this member")
        if "commit" in self.away:
            raise CommitAborted("no broker can be reached")
        if "decision" in self.away:
            raise CommitUnknown("no broker can be reached")
        return await super().commit(commit)


async def pass_on(stream: EventStream) -> None:
    async for _ in stream.values():
        pass


class World:
    def __init__(self) -> None:
        clock: Clock = LoopClock()
        broker = MemoryBroker(clock)
        self.client = MemoryTransport(broker, "outside", "client")
        self.transport = AwayTransport(broker, "app", "worker")
        self.engine = Engine(Settings(id="app", commit_interval=0.2), self.transport, clock)
        source = TopicSource("events", KeyCodec(str), ValueCodec(str), 1)
        self.engine.topology.add_agent(AgentSpec("agent", "events", pass_on), source)
        self.view = WorkerView(self.engine, "http://worker")

    async def start(self) -> None:
        await self.client.start()
        await self.engine.start("http://worker")
        await asyncio.sleep(1)  # of virtual time
        assert self.view.ready()

    async def stop(self) -> None:
        await self.engine.stop()
        await self.client.stop()


def run(main: Any) -> None:
    async def whole(_: SimulationLoop) -> None:
        world = World()
        await world.start()
        try:
            await main(world)
        finally:
            await world.stop()

    run_simulation(whole, None, steps_max=2_000_000)


def test_a_worker_without_a_broker_is_not_ready_and_says_so_a_few_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(world: World) -> None:
        world.transport.away = frozenset({"questions", "fetch", "commit"})
        with caplog.at_level(logging.WARNING):
            await asyncio.sleep(30)
            assert not world.view.ready()
            health = world.view.health()
            assert (health["status"], health["error"]) == ("stalled", None)
            assert "the broker has not answered for" in health["reason"]
            assert "no broker can be reached" in health["reason"]
            await asyncio.sleep(AWAY_S - 30)
            assert 2 <= len(caplog.records) <= 2 * 3, caplog.messages  # two things, told 3 times at most
            world.transport.away = frozenset()
            await asyncio.sleep(11)
        assert world.view.ready()
        assert len([text for text in caplog.messages if "over after" in text]) == 2

    run(main)


def test_a_commit_that_was_due_long_ago_makes_a_worker_not_ready() -> None:
    async def main(world: World) -> None:
        world.transport.away = frozenset({"commit"})
        await asyncio.sleep(60)
        assert world.view.ready()  # nothing is due
        await world.client.send([Record("events", 0, b"k", b'"v"')])
        await asyncio.sleep(10)
        assert world.view.ready()
        await asyncio.sleep(10)
        assert not world.view.ready()
        assert "a commit has been due for" in world.view.health()["reason"]
        world.transport.away = frozenset()
        await asyncio.sleep(3)
        assert world.view.ready()
        assert world.view.health()["status"] == "ok"

    run(main)


def test_reading_back_what_was_never_committed_is_no_commit() -> None:
    """Each try is restored from the log, and the next one fails again."""

    async def main(world: World) -> None:
        await world.client.send([Record("events", 0, b"k", b'"v"')])
        await asyncio.sleep(1)
        world.transport.away = frozenset({"decision"})
        await world.client.send([Record("events", 0, b"k", b'"v"')])
        await asyncio.sleep(20)
        for _ in range(20):
            await asyncio.sleep(0.15)
            assert not world.view.ready()
            assert "a commit has been due for" in world.view.health()["reason"]
        world.transport.away = frozenset()
        await asyncio.sleep(3)
        assert world.view.ready()

    run(main)


def test_a_fenced_assignment_is_not_read_back_again_and_again() -> None:
    """It is dead: the group gives another one, and if it has nothing to say for long, this one is tried."""

    async def main(world: World) -> None:
        world.transport.away = frozenset({"group"})
        await world.client.send([Record("events", 0, b"k", b'"v"')])
        await asyncio.sleep(61)
        assert 2 <= world.transport.commits <= 7
        world.transport.away = frozenset()
        await asyncio.sleep(11)
        assert world.view.ready()

    run(main)
