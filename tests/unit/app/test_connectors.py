"""Sources and sinks of a running app: exactly once, across restarts, rebalances and commits that fail."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from streamflow import App, ConfigurationError, Count, Event, Retry, TumblingWindow
from streamflow.clock import Clock, SystemClock
from streamflow.connectors import (
    FileSink,
    FileSource,
    Place,
    SinkPartition,
    SinkRecord,
    SourceBatch,
    SourceRecord,
)
from streamflow.engine.source_feed import SourceFailed
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import end_engine, log, logged, make_app, running, until

OPTIONS: dict[str, Any] = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_enabled": False, "env": {}}


class Numbers:
    """A source of numbers from 0 to ``end``; it tells where each reading began."""

    partitions = 1

    def __init__(self, end: int, batch: int = 10) -> None:
        self.end = end
        self.batch = batch
        self.began: list[Place] = []
        self.fails: list[Exception] = []

    async def read(self, partition: int, place: Place, clock: Clock) -> AsyncIterator[SourceBatch]:
        self.began.append(place)
        at = place if isinstance(place, int) else 0
        while True:
            if self.fails:
                raise self.fails.pop()
            until_ = min(self.end, at + self.batch)
            if at < until_:
                yield SourceBatch(
                    [SourceRecord(str(n % 7), json.dumps({"n": n}).encode()) for n in range(at, until_)],
                    until_,
                )
                at = until_
            await clock.sleep_ms(1)


def numbers(records: Sequence[tuple[bytes | None, bytes | None, Any]]) -> list[int]:
    return sorted(json.loads(value or b"")["n"] for _, value, _ in records)


def files_in(folder: pathlib.Path) -> list[dict[str, Any]]:
    # Not rglob: what lies deeper is the owners', who make and clear folders while we look.
    found = sorted(folder.glob("*/*/*.ndjson"))
    return [json.loads(line) for path in found for line in path.read_text().splitlines()]


def new_broker() -> MemoryBroker:
    """One that soon gives up on who was killed."""
    return MemoryBroker(SystemClock(), session_timeout_ms=300, transaction_timeout_ms=300)


def app_on(broker: MemoryBroker, slot: str, **options: Any) -> tuple[App, MemoryTransport]:
    transport = MemoryTransport(broker, "numbers-app", slot)
    return App("numbers-app", transport=transport, **{**OPTIONS, **options}), transport


async def test_a_source_feeds_a_topic_and_who_reads_it() -> None:
    app = make_app()
    source = Numbers(100)
    topic = app.source("numbers", source, to=app.topic("in", key_type=str, partitions=3))
    seen: list[int] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for value in stream:
            seen.append(value["n"])

    async with running(app):
        await until(lambda: len(seen) == 100)
        assert numbers(await log(app, "in")) == list(range(100))
        assert {key for key, _, _ in await log(app, "in")} == {str(n).encode() for n in range(7)}
    assert sorted(seen) == list(range(100))


async def test_after_a_kill_it_goes_on_at_the_place_of_the_last_checkpoint() -> None:
    broker = new_broker()
    source = Numbers(0)
    for slot, end in enumerate((300, 700, 1_000)):
        app, transport = app_on(broker, f"worker-{slot}")
        source.end = end
        app.source("numbers", source, to=app.topic("in", key_type=str, partitions=3))
        await app.start()
        enough = end - 150 if end < 1_000 else end

        async def read(app: App = app, enough: int = enough) -> bool:
            return len(await log(app, "in")) >= enough

        await until(read)
        if end == 1_000:
            assert numbers(await log(app, "in")) == list(range(1_000))
            await app.stop()
        else:
            transport.kill()  # in the middle of it
            end_engine()
    assert source.began[0] is None
    assert None not in source.began[1:]


async def test_an_outage_is_waited_out_and_a_bug_ends_the_worker() -> None:
    app = make_app()
    source = Numbers(20)
    source.fails = [OSError("away")]
    app.source("numbers", source, to=app.topic("in", key_type=str, partitions=1))
    await app.start()
    assert numbers(await logged(app, "in", 20)) == list(range(20))
    source.fails = [KeyError("a bug")]
    await until(app.engine.failed.is_set)
    assert isinstance(app.engine.failure, SourceFailed)
    assert "source 'numbers', partition 0: 'a bug'" in str(app.engine.failure)
    await app.stop()


def test_two_sources_of_one_name_are_refused() -> None:
    app = make_app()
    app.source("numbers", Numbers(1))
    with pytest.raises(ConfigurationError, match="two sources are named 'numbers'"):
        app.source("numbers", Numbers(1))


async def test_files_become_a_topic_and_the_topic_becomes_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        lines = [json.dumps({"user": "ann", "n": number * 10 + n}) for n in range(10)]
        (tmp_path / "in" / f"{number}.ndjson").write_text("\n".join(lines) + "\n")
    app = make_app()
    orders = app.topic("orders", key_type=str, partitions=1)
    app.source("files", FileSource(tmp_path / "in" / "*.ndjson", key="user", poll_s=0.01), to=orders)
    app.sink(orders, FileSink(tmp_path / "out"), within_s=0.02)
    async with running(app):
        await until(lambda: len(files_in(tmp_path / "out")) == 30)
    assert [row["n"] for row in files_in(tmp_path / "out")] == list(range(30))


async def test_closed_rows_of_an_aggregate_go_to_a_sink(tmp_path: pathlib.Path) -> None:
    app = make_app()
    events = app.topic("events", key_type=str, value_type=Event, partitions=1)
    closed = app.topic("closed", partitions=1)
    app.aggregate("n", events, by=None, window=TumblingWindow(10), values=Count(), emit_closed=closed)
    app.sink(closed, FileSink(tmp_path), within_s=0.02)
    async with running(app):
        for second in (0, 3, 12, 25):
            at = f"2026-01-01T00:00:{second:02}Z"
            await events.send(key="a", value={"id": "1", "type": "x", "timestamp": at, "data": {}})
        rows = await until(lambda: len(files_in(tmp_path)) == 2 and files_in(tmp_path))
    assert [row["value"] for row in rows] == [2, 1]


async def test_what_was_written_before_a_kill_and_is_in_no_checkpoint_is_not_written_twice(
    tmp_path: pathlib.Path,
) -> None:
    broker = new_broker()
    first, transport = app_on(broker, "first", commit_interval=60.0)
    topic = first.topic("in", partitions=1)
    first.sink(topic, FileSink(tmp_path), within_s=0.02)
    await first.start()
    for n in range(5):
        await topic.send(value={"n": n})
    await until(lambda: len(files_in(tmp_path)) == 5)
    transport.kill()  # no checkpoint has held that they were taken
    end_engine()
    second, _ = app_on(broker, "second")
    topic = second.topic("in", partitions=1)
    second.sink(topic, FileSink(tmp_path), within_s=0.02)
    async with running(second):
        await topic.send(value={"n": 5})
        await until(lambda: len(files_in(tmp_path)) >= 6)
    assert [row["n"] for row in files_in(tmp_path)] == [0, 1, 2, 3, 4, 5]


async def test_a_worker_that_was_stopped_and_wakes_writes_nothing_twice(tmp_path: pathlib.Path) -> None:
    broker = new_broker()
    apps: list[tuple[App, MemoryTransport]] = []
    for slot in ("first", "second"):
        app, transport = app_on(broker, slot)
        topic = app.topic("in", key_type=str, partitions=1)
        app.source("numbers", Numbers(400, batch=20), to=topic)
        app.sink(topic, FileSink(tmp_path), batch=30, within_s=0.005)
        apps.append((app, transport))
    (first, stopped), (second, _) = apps
    await first.start()
    await until(lambda: len(files_in(tmp_path)) >= 60)
    stopped.stall()
    await second.start()
    await until(lambda: len(files_in(tmp_path)) >= 200)
    stopped.wake()
    await until(lambda: len(files_in(tmp_path)) >= 400)
    assert numbers(await log(second, "in")) == list(range(400))
    await first.stop()
    await second.stop()
    assert [row["n"] for row in files_in(tmp_path)] == list(range(400))


class Flaky(FileSink):
    """Fails each time in another way: before the write, or behind it, when nobody knows."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder)
        self.writes = 0

    async def open(self, at: SinkPartition) -> Any:
        return FlakyWriter(self, await super().open(at))


class FlakyWriter:
    def __init__(self, sink: Flaky, writer: Any) -> None:
        self._sink = sink
        self._writer = writer

    @property
    def position(self) -> int | None:
        return self._writer.position  # type: ignore[no-any-return]  # a FileWriter's

    async def write(self, records: Sequence[SinkRecord]) -> None:
        self._sink.writes += 1
        if self._sink.writes % 3 == 1:
            raise OSError("before")
        await self._writer.write(records)
        if self._sink.writes % 3 == 2:
            raise OSError("behind")

    async def close(self) -> None:
        await self._writer.close()


async def test_a_sink_that_fails_before_and_behind_its_writes_has_each_record_once(
    tmp_path: pathlib.Path,
) -> None:
    app = make_app()
    topic = app.topic("in", partitions=2)
    once_more = Retry(for_s=60, first_wait_s=0.001, on=OSError)
    app.sink(topic, Flaky(tmp_path), batch=7, within_s=0.01, retry=once_more)
    async with running(app):
        for n in range(60):
            await topic.send(value={"n": n}, partition=n % 2)
        await until(lambda: len(files_in(tmp_path)) >= 60)
        await asyncio.sleep(0.1)
    assert [row["n"] for row in files_in(tmp_path)] == [*range(0, 60, 2), *range(1, 60, 2)]


async def test_a_record_that_the_sink_can_not_take_is_set_aside_and_the_others_are_written(
    tmp_path: pathlib.Path,
) -> None:
    app = make_app()
    topic = app.topic("in", value_type=bytes, partitions=1)
    app.sink(topic, FileSink(tmp_path), within_s=0.05)
    async with running(app):
        for value in (b'{"n": 0}', b"no json", b'{"n": 2}'):
            await topic.send(value=value)
        letters = await logged(app, "in-dead-letters", 1)
        await until(lambda: len(files_in(tmp_path)) == 2)
    assert [row["n"] for row in files_in(tmp_path)] == [0, 2]
    assert letters[0][1] == b"no json"
    assert b"in[0]@1" in (letters[0][2]["error"] or b"")
