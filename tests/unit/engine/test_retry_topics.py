"""Retry topics: what fails goes on to them with its checkpoint, and comes back when it is due.

In virtual time: a minute takes nothing.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import orjson
import pytest

from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.codecs.event import Event
from streamflow.engine.decoding import TopicSource
from streamflow.engine.due_batches import split
from streamflow.engine.engine import Engine
from streamflow.engine.growth import Growth
from streamflow.engine.retry_topics import ADDED, RetryTopic, Waiting, waiting
from streamflow.errors import ConfigurationError
from streamflow.partitioner import fnv1a
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.event_stream import EventStream
from streamflow.processing.retries import Retry, duration
from streamflow.settings import Settings
from streamflow.state.agent_table import AgentTable
from streamflow.state.changelog import RowCodec
from streamflow.state.partition import TableSpec
from streamflow.state.progress import Progress, progress_from_record
from streamflow.state.stores.base import MISSING, NO_WINDOW
from streamflow.testing import SimulationLoop, run_simulation
from streamflow.transports.base import Batch, Headers, Record, TopicSpec
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from streamflow.verify.agents import AgentVerifier, verify_agents
from tests.support.loop_clock import LoopClock

PARTITIONS = 2
FIRST, SECOND = "events-retry-5s", "events-retry-1m"
LETTERS = "events-dead-letters"
RETRY = Retry(attempts=2, first_wait_s=0.01, jitter=False, topics_s=(5, 60))
T0_MS = 1_700_000_000_000
Fails = Callable[[str, str], bool]
"""(topic, id of the event): does the agent fail?"""


def event(number: int) -> bytes:
    at = f"2026-01-01T00:00:{number % 60:02d}Z"
    return orjson.dumps({"id": str(number), "type": "click", "timestamp": at, "data": {}})


class Later:
    """One broker in virtual time, and one worker of one agent; ``fails`` is asked by topic and event's id."""

    def __init__(self, fails: Fails, retry: Retry = RETRY, app: str = "app", **options: Any) -> None:
        self.clock = LoopClock()
        self.broker = MemoryBroker(self.clock)
        self.client = MemoryTransport(self.broker, "outside", "client")
        self.fails = fails
        self.retry = retry
        self.app = app
        self.options = {"dead_letter": "events-dead-letters", **options}
        self.taken: list[tuple[str, str, float]] = []  # topic, id, when
        self.new_engine()

    def new_engine(self, agent: str = "agent") -> None:
        transport = MemoryTransport(self.broker, self.app, "worker")
        self.engine = Engine(Settings(id=self.app, commit_interval=0.1), transport, self.clock)
        spec = TableSpec("counts", None, RowCodec(None), "", 0)
        self.table: AgentTable = self.engine.topology.add_table(spec, int, KeyCodec(str).encode)
        source = TopicSource("events", KeyCodec(str), ValueCodec(Event), PARTITIONS)
        self.spec = AgentSpec(agent, "events", self._run, self.retry, **self.options)
        self.engine.topology.add_agent(self.spec, source)

    async def _run(self, stream: EventStream) -> None:
        async for chunk, index in stream.refs():
            assert chunk.events is not None
            name = chunk.events[index].id
            self.taken.append((chunk.topic, name, self.clock.monotonic_ms() / 1_000))
            self.table.change(chunk.keys[index], operator.add, 1)
            if self.fails(chunk.topic, name):
                raise ConnectionError(f"no answer for {name}")

    async def start(self) -> None:
        await self.client.start()
        await self.engine.start("http://worker")
        await self.until(lambda: self.engine.live)

    async def again(self, agent: str = "agent") -> None:
        """The worker stops, and another one starts."""
        await self.engine.stop()
        self.new_engine(agent)
        await self.start()

    async def close(self) -> None:
        await self.engine.stop()
        await self.client.stop()

    async def until(self, condition: Callable[[], bool], limit_s: float = 200.0) -> None:
        end_ms = self.clock.monotonic_ms() + limit_s * 1_000
        while not condition():
            assert self.engine.failure is None, self.engine.failure
            assert self.clock.monotonic_ms() < end_ms, "it takes too long"
            await self.clock.sleep_ms(50)

    async def write(self, *numbers: int, key: bytes = b"ann", headers: Headers = ()) -> None:
        partition = fnv1a(key, PARTITIONS)
        await self.client.send([Record("events", partition, key, event(n), headers) for n in numbers])

    def log(self, topic: str) -> list[tuple[int, bytes | None, bytes | None, dict[str, str]]]:
        """(partition, key, value, headers) of all that is committed."""
        found = []
        for partition in range(self.broker.partition_count(topic)):
            batch = self.broker.log((topic, partition)).read(0, 10**9)
            if batch is not None:
                headers = batch.headers or [()] * len(batch.offsets)
                told = [{name: (value or b"").decode() for name, value in each} for each in headers]
                found += [(partition, *row) for row in zip(batch.keys, batch.values, told, strict=True)]
        return found

    def progress(self, topic: str) -> dict[str, int]:
        """The agent's durable counters in a topic, of all partitions."""
        newest: dict[int, Progress] = {}
        for _, key, value, _ in self.log(f"{self.app}-progress"):
            assert key is not None
            if value is not None and orjson.loads(key)[:2] == [self.spec.consumer, topic]:
                progress = progress_from_record(key, value)
                newest[progress.partition] = progress
        names = {name for progress in newest.values() for name in progress.counters}
        return {n: total for n in names if (total := sum(p.counters.get(n, 0) for p in newest.values()))}

    def row(self, key: str = "ann") -> int:
        found = [part.store.get(NO_WINDOW, key) for part in self.table.parts.values()]
        return sum(value for value in found if value is not MISSING)

    def times(self, name: str) -> list[tuple[str, float]]:
        """Where an event was tried, and how many seconds after the first time."""
        mine = [(topic, at_s) for topic, each, at_s in self.taken if each == name]
        return [(topic, round(at_s - mine[0][1], 1)) for topic, at_s in mine]


def simulated(test: Callable[[], Awaitable[None]]) -> None:
    async def main(_: SimulationLoop) -> None:
        await test()

    run_simulation(main)


def always(_: str, __: str) -> bool:
    return True


def in_the_source(topic: str, name: str) -> bool:
    """Event 1 fails where it lies."""
    return name == "1" and topic == "events"


@pytest.mark.parametrize("options", [{}, {"concurrency": 3}, {"isolated": True}])
def test_an_event_goes_on_and_comes_back_when_it_is_due(options: dict[str, Any]) -> None:
    async def test() -> None:
        world = Later(in_the_source, **options)
        await world.start()
        await world.write(1, 2, 3, headers=(("trace", b"x"),))
        await world.until(lambda: world.row() == 2)
        assert world.clock.monotonic_ms() < 4_000, "the partition went on"
        assert world.progress("events") == {"in": 3, "counted": 2, "deferred": 1}
        ((partition, key, value, headers),) = world.log(FIRST)
        assert (partition, key, value) == (fnv1a(b"ann", PARTITIONS), b"ann", event(1))
        assert list(headers) == ["trace", *ADDED]
        assert headers["streamflow-retry-attempts"] == "2"
        assert headers["streamflow-retry-error"] == "ConnectionError: no answer for 1"
        assert headers["streamflow-replayed-for"] == "agent:agent"
        await world.until(lambda: world.row() == 3)
        (first, _), (second, _), (third, at_s) = world.times("1")
        assert (first, second, third) == ("events", "events", FIRST)
        assert 5.0 <= at_s < 5.5
        await world.until(lambda: world.progress(FIRST) == {"in": 1, "counted": 1})
        assert world.engine.topology.agents[0].retries == 2
        assert not world.log(LETTERS)
        await world.close()

    simulated(test)


def test_after_the_last_one_comes_the_dead_letter_of_the_event_as_it_was() -> None:
    async def test() -> None:
        world = Later(always)
        await world.start()
        await world.write(1, headers=(("trace", b"x"),))
        await world.until(lambda: bool(world.log(LETTERS)))
        assert [topic for topic, _ in world.times("1")] == ["events", "events", FIRST, SECOND]
        assert [at_s for _, at_s in world.times("1")][3] >= 65.0
        ((_, key, value, headers),) = world.log(LETTERS)
        assert (key, value) == (b"ann", event(1))
        place = ("events", str(fnv1a(b"ann", PARTITIONS)), "0")
        assert tuple(headers[f"source-{name}"] for name in ("topic", "partition", "offset")) == place
        assert headers["attempts"] == "4"
        assert headers["replay"].endswith(" replay " + ":".join(place))
        assert headers["trace"] == "x"
        assert not set(ADDED) & set(headers)
        wanted = {"events": "deferred", FIRST: "deferred", SECOND: "failed"}
        for topic, outcome in wanted.items():
            assert world.progress(topic) == {"in": 1, outcome: 1}
        assert world.row() == 0
        topics = set(world.broker.topics())
        assert not {f"{FIRST}-dead-letters", f"{SECOND}-dead-letters"} & topics
        await world.close()

    simulated(test)


def test_what_waits_survives_a_restart_and_is_taken_once() -> None:
    async def test() -> None:
        world = Later(in_the_source)
        await world.start()
        await world.write(1)
        await world.until(lambda: bool(world.log(FIRST)))
        await world.again()
        assert world.row() == 0
        await world.until(lambda: world.row() == 1)
        await world.again()
        await world.clock.sleep_ms(120_000)
        assert world.row() == 1
        assert [topic for topic, _ in world.times("1")] == ["events", "events", FIRST]
        await world.close()

    simulated(test)


def test_a_partition_waits_for_its_head_and_takes_what_is_due() -> None:
    async def test() -> None:
        world = Later(lambda topic, _: topic == "events")
        await world.start()
        for number in range(20):
            await world.write(number)
            await world.clock.sleep_ms(1_000)
        await world.until(lambda: world.row() == 20)
        for number in range(20):
            (*_, (topic, at_s)) = world.times(str(number))
            assert (topic, 5.0 <= at_s < 5.7) == (FIRST, True), number
        await world.close()

    simulated(test)


def test_idle_apps_write_nothing() -> None:
    async def test() -> None:
        world = Later(in_the_source)
        await world.start()
        await world.write(1)
        await world.until(lambda: world.row() == 1)
        await world.clock.sleep_ms(2_000)
        before = {topic: len(world.log(topic)) for topic in world.broker.topics()}
        await world.clock.sleep_ms(600_000)
        assert {topic: len(world.log(topic)) for topic in world.broker.topics()} == before
        await world.close()

    simulated(test)


def test_records_of_others_are_passed_over() -> None:
    async def test() -> None:
        world = Later(in_the_source)
        await world.start()
        await world.until(lambda: world.broker.partition_count(FIRST) == PARTITIONS)
        partition = fnv1a(b"ann", PARTITIONS)
        now_ms = world.clock.now_ms()
        mine = Waiting("app", ("events", partition, 77), T0_MS, 3, now_ms, "agent:other", ())
        far = now_ms + 10**9
        others = [
            mine._replace(app="other app", consumer="agent:agent", due_ms=far),
            mine,
            mine._replace(source=("other topic", 0, 0), consumer="agent:agent", due_ms=far),
        ]
        records = [one.record(FIRST, partition, b"ann", b"no JSON", "E") for one in others]
        good = mine.record(FIRST, partition, b"ann", event(5), "E")
        await world.client.send(
            [*records[:1], good, records[2], Record(FIRST, partition, b"ann", b"by hand")]
        )
        await world.write(1)
        await world.until(lambda: world.row() == 1)
        assert [(topic, name) for topic, name, _ in world.taken] == [
            ("events", "1"),
            ("events", "1"),
            (FIRST, "1"),
        ]
        await world.until(lambda: world.progress(FIRST) == {"in": 1, "counted": 1})
        assert not world.log(LETTERS)
        active = world.engine.active
        assert active is not None
        assert {active.lag(one) for one in active.progress.values() if one.topic} == {0}
        await world.close()

    simulated(test)


def test_a_new_agent_and_an_app_that_was_reset_take_up_nothing_of_old() -> None:
    async def test() -> None:
        world = Later(in_the_source)
        await world.start()
        await world.write(1)
        await world.until(lambda: bool(world.log(FIRST)))
        await world.engine.stop()
        for topic in ("app-progress", "app-counts-changelog"):
            world.broker.delete_topic(topic)
        world.broker.coordinator("app").committed.clear()
        world.new_engine()
        await world.start()
        await world.until(lambda: world.row() == 1)
        await world.clock.sleep_ms(120_000)
        assert world.row() == 1, "from the source again, and not from the retry topic too"
        assert Counter(topic for topic, _, _ in world.taken) == {"events": 4, FIRST: 1}
        await world.close()

    simulated(test)


def test_bugs_that_time_does_not_cure_are_set_aside_at_once() -> None:
    async def test() -> None:
        world = Later(always, Retry(attempts=1, on=TimeoutError, topics_s=(5,)))
        await world.start()
        await world.write(1)
        await world.until(lambda: bool(world.log(LETTERS)))
        assert world.progress("events") == {"in": 1, "failed": 1}
        assert not world.log(FIRST)
        await world.close()

    simulated(test)


def test_the_sum_of_verify_holds_in_each_topic() -> None:
    async def test() -> None:
        world = Later(lambda topic, name: name == "1" or (name == "2" and topic == "events"))
        await world.start()
        await world.write(0, 1, 2)
        await world.until(lambda: bool(world.log(LETTERS)))
        await world.clock.sleep_ms(500)
        topology = world.engine.topology
        agent = topology.agents[0]
        sources = [topology.sources[agent.spec.consumer], *topology.retry_sources(agent)]
        make = partial(AgentVerifier, world.client, Settings(id="app"), world.clock)
        report = await verify_agents("counts", [("agent", source) for source in sources], make)
        assert report.ok, report
        counted = {
            one.retry_topic or "events": {name: n for name, n in one.counters.items() if n}
            for one in report.partitions
            if one.counters["in"]
        }
        assert counted == {
            "events": {"in": 3, "counted": 1, "deferred": 2},
            FIRST: {"in": 2, "counted": 1, "deferred": 1},
            SECOND: {"in": 1, "failed": 1},
        }
        await world.close()

    simulated(test)


def test_retry_topics_grow_with_their_source_once_nothing_waits() -> None:
    async def nobody() -> None:
        pass

    async def test() -> None:
        world = Later(in_the_source)
        await world.start()
        keys = [f"k{number}".encode() for number in range(20)]
        moving = next(k for k in keys if fnv1a(k, 4) != fnv1a(k, PARTITIONS))
        await world.write(1, key=moving)
        await world.until(lambda: bool(world.log(FIRST)))
        await world.engine.stop()
        world.broker.grow_topic("events", 4)
        world.new_engine()
        growth = Growth(world.engine.topology, world.client, nobody)
        with pytest.raises(ConfigurationError, match=f"{FIRST}.*has not taken it yet"):
            await growth.plan()
        world.new_engine()
        await world.start()
        assert {world.broker.partition_count(topic) for topic in (FIRST, SECOND)} == {4}
        await world.until(lambda: world.row(moving.decode()) == 1)
        await world.engine.stop()
        world.new_engine()
        growth = Growth(world.engine.topology, world.client, nobody)
        assert await growth.plan()
        await growth.run()
        world.new_engine()
        await world.start()
        await world.client.send([Record("events", fnv1a(moving, 4), moving, event(1))])
        await world.until(lambda: world.row(moving.decode()) == 2)
        await world.close()

    simulated(test)


def test_a_retry_topic_with_more_partitions_than_its_source_is_refused() -> None:
    async def test() -> None:
        world = Later(in_the_source)
        world.broker.create_topics([TopicSpec("events", PARTITIONS), TopicSpec(FIRST, 7)])
        with pytest.raises(ConfigurationError, match="has 7 partitions, and 'events' has 2"):
            await world.start()
        await world.close()

    simulated(test)


def test_what_a_retry_topic_does_not_take_is_a_dead_letter() -> None:
    async def test() -> None:
        world = Later(in_the_source)
        world.broker.create_topics(
            [TopicSpec("events", PARTITIONS), TopicSpec(FIRST, PARTITIONS, record_bytes_max=50)]
        )
        await world.start()
        await world.write(1)
        await world.until(lambda: bool(world.log(LETTERS)))
        assert not world.log(FIRST)
        await world.close()

    simulated(test)


def batch(dues: list[int | None], now_ms: int = 0) -> Batch:
    """One record for each due time; ``None``: somebody else's."""
    records = [
        Waiting(
            "app" if due is not None else "other", ("events", 0, 9), 1, 1, due or 10**15, "agent:a", ()
        ).record(FIRST, 0, b"k", b"v", "E")
        for due in dues
    ]
    size = len(dues)
    headers = [record.headers for record in records]
    return Batch(FIRST, 0, range(10, 10 + size), [b"k"] * size, [b"v"] * size, [5] * size, headers, 30, 40)


def test_a_batch_is_split_before_the_first_event_that_is_not_due() -> None:
    topic = RetryTopic("app", FIRST, "events")
    due, rest, due_ms = split(batch([1, None, 7, 2, None]), topic, 5)
    assert due is not None
    assert rest is not None
    assert (list(due.offsets), due.next_offset) == ([10, 11], 12)
    assert (list(rest.offsets), rest.next_offset, due_ms) == ([12, 13, 14], 30, 7)
    assert [one.timestamps_ms for one in (topic.events(due), topic.events(rest))] == [[1], [1, 1]]
    assert split(rest, topic, 6) == (None, rest, 7)
    whole, rest, _ = split(batch([None, None]), topic, 0)
    assert (whole is not None and whole.next_offset, rest) == (30, None)
    empty = batch([])
    assert split(empty, topic, 0) == (empty, None, 0)


def test_headers_are_read_back_and_what_others_wrote_is_none_of_ours() -> None:
    one = Waiting("app", ("events", 3, 77), -1, 4, T0_MS, "agent:a", (("trace", None),))
    headers = one.record(FIRST, 3, b"k", None, "x" * 9_000).headers
    assert waiting(headers) == one
    assert max(len(value or b"") for _, value in headers) == 500
    broken = tuple((name, b"x" if name.endswith("due") else value) for name, value in headers)
    assert [waiting(each) for each in (broken, headers[:-1], (), (*headers, ("more", b"")))] == [None] * 4


def test_waits_are_named_as_they_are_said() -> None:
    said = {
        5_000: "5s",
        90_000: "90s",
        60_000: "1m",
        600_000: "10m",
        3_600_000: "1h",
        86_400_000: "1d",
        500: "500ms",
    }
    assert {ms: duration(ms) for ms in said} == said
    steps = Retry(topics_s=(5, 60.0)).steps("orders")
    assert [tuple(step) for step in steps] == [("orders-retry-5s", 5_000), ("orders-retry-1m", 60_000)]


@pytest.mark.parametrize("topics_s", [5, "5s", (0,), (5, 5), (60, 5), (True,), (float("nan"),), (86_401,)])
def test_waits_that_make_no_sense_are_refused(topics_s: Any) -> None:
    with pytest.raises(ConfigurationError, match="topics_s"):
        Retry(topics_s=topics_s)
