"""What the broker never takes: an agent's record becomes a dead letter, one of our own an error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamflow import App, ConfigurationError, Count, Key, TumblingWindow
from streamflow.clock import SystemClock
from streamflow.engine.dead_letters import LEAST_BYTES
from streamflow.errors import RecordTooLarge
from streamflow.transports.base import TopicSpec
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import log, logged, make_app, running, until

LIMIT = 2_000
LARGE = "x" * 3_000
SENT = b'"' + LARGE.encode() + b'"'  # as JSON


def app_over(topic: str, limit: int = LIMIT, **options: Any) -> App:
    """An app over a broker one topic of which takes small records only (``{id}``: the app's id)."""
    broker = MemoryBroker(SystemClock())
    transport = MemoryTransport(broker, "refusals", "worker")
    app = make_app(transport=transport, **options)
    name = topic.format(id=app.conf.id)
    broker.create_topics([TopicSpec(name, 1, compacted="changelog" in name, record_bytes_max=limit)])
    return app


@asynccontextmanager
async def crashing(app: App) -> AsyncIterator[None]:
    """The app runs inside, and crashes."""
    with pytest.raises(AssertionError, match="crashed"):
        async with running(app):
            yield


async def test_a_refused_record_becomes_a_dead_letter_of_its_event_and_the_rest_is_committed() -> None:
    app = app_over("out")
    topic = app.topic("in", key_type=str, value_type=str, partitions=1)
    out = app.topic("out", value_type=str)
    counts = app.Table("counts", default=int)
    told: list[Any] = []

    @app.agent(topic)
    async def forward(stream: Any) -> None:
        async for key, value in stream.items():
            counts[key] += 1
            told.append(await out.send(value=value))

    async with running(app):
        for value in ("small 1", LARGE, "small 2", LARGE, "small 3"):
            await topic.send(key="k", value=value, headers={"h": value[:7]})
        letters = await logged(app, "in-dead-letters", 2)
        await until(lambda: len(told) == 5 and all(sent.done() for sent in told))
        assert [value for _, value, _ in await log(app, "out")] == [b'"small 1"', b'"small 2"', b'"small 3"']
        assert [(key, value) for key, value, _ in letters] == [(b"k", SENT)] * 2
        (_, _, headers), (_, _, other) = letters
        assert headers["reason"] == b"too-large"
        assert headers["h"] == b"xxxxxxx"
        assert (headers["source-offset"], other["source-offset"]) == (b"1", b"3")
        assert b"out[0]" in headers["error"]
        assert headers["consumer"].startswith(b"tests.unit.engine.test_rejected_records")
        assert isinstance(told[1].exception(), RecordTooLarge)
        assert told[2].exception() is None
        # The event is done, and what it wrote stands.
        active = app.engine.active
        assert active is not None
        progress = next(p for c, p in active.shown.items() if c[0].startswith("agent:"))
        assert (progress.position, progress.counters["counted"]) == (5, 5)


async def test_the_concurrent_path_sets_aside_as_the_in_order_one_does() -> None:
    app = app_over("out")
    topic = app.topic("in", key_type=str, value_type=str, partitions=1)
    out = app.topic("out", value_type=str)

    @app.agent(topic, concurrency=2)
    async def forward(stream: Any) -> None:
        async for value in stream:
            await out.send(value=value)

    async with running(app):
        for value in ("small 1", LARGE, "small 2"):
            await topic.send(key="k", value=value)
        ((_, value, headers),) = await logged(app, "in-dead-letters", 1)
        assert value == SENT
        assert headers["reason"] == b"too-large"
        assert sorted(value for _, value, _ in await logged(app, "out", 2)) == [b'"small 1"', b'"small 2"']


async def test_without_a_dead_letter_topic_a_refused_record_stops_the_worker() -> None:
    app = app_over("out")
    topic = app.topic("in", key_type=str, value_type=str, partitions=1)
    out = app.topic("out", value_type=str)

    @app.agent(topic, dead_letter=False)
    async def forward(stream: Any) -> None:
        async for value in stream:
            await out.send(value=value)

    async with crashing(app):
        await topic.send(key="k", value=LARGE)
        failure = await until(lambda: app.engine.failure)
    assert isinstance(failure, RecordTooLarge)


async def test_a_row_that_is_too_large_names_table_key_size_and_setting_and_stops_the_worker() -> None:
    app = app_over("{id}-texts-changelog")
    topic = app.topic("in", key_type=str, value_type=str, partitions=1)
    texts = app.Table("texts", default=str)

    @app.agent(topic)
    async def gather(stream: Any) -> None:
        async for key, value in stream.items():
            texts[key] += value

    async with crashing(app):
        await topic.send(key="ann", value="y" * 1_500)
        await until(
            lambda: app.engine.active and any(p.position == 1 for p in app.engine.active.shown.values())
        )
        await topic.send(key="ann", value="y" * 1_500)
        failure = await until(lambda: app.engine.failure)
    assert isinstance(failure, ConfigurationError)
    for word in ("table 'texts'", "ann", "3007 bytes", "max.message.bytes", "texts-changelog"):
        assert word in str(failure), failure


async def test_a_closed_row_that_is_too_large_names_its_aggregate() -> None:
    app = app_over("closed", limit=20)
    topic = app.topic("in", key_type=str, value_type=str, partitions=1)
    window = TumblingWindow(size_s=1)
    app.aggregate("many", topic, by=Key(), window=window, values={"n": Count()}, emit_closed="closed")

    async with crashing(app):
        await topic.send(key="ann", value="a", timestamp=1_760_000_000.0)
        await topic.send(key="ann", value="b", timestamp=1_760_000_010.0)
        failure = await until(lambda: app.engine.failure)
    assert "table 'many' (a closed row)" in str(failure)


def app_of_numbers(limit: int) -> tuple[App, Any]:
    """One whose dead letters may be so large, and that reads numbers; and its topic, which takes anything."""
    app = app_over("in-dead-letters", limit=limit)

    @app.agent(app.topic("in", key_type=str, value_type=int, partitions=1))
    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    return app, app.topic("in", key_type=str)


@pytest.mark.parametrize(
    "limit,kept,own",
    [(2_500, 1_501, b"mine"), (1_000, LEAST_BYTES, None)],
    ids=["first-bytes", "least"],
)
async def test_a_dead_letter_that_does_not_fit_is_kept_as_its_place_and_first_bytes(
    limit: int, kept: int, own: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    app, topic = app_of_numbers(limit)
    async with running(app):
        await topic.send(key="k", value=LARGE, headers={"h": "mine"})  # no int
        await topic.send(key="k", value="short")
        (_, value, headers), (_, other, others) = await logged(app, "in-dead-letters", 2)
    assert value == SENT[:kept]
    assert headers.get("h") == own
    assert [headers[name] for name in ("source-topic", "source-partition", "source-offset")] == [
        b"in",
        b"0",
        b"0",
    ]
    assert headers["cut"].startswith(b"value of 3002 bytes")
    assert "in[0]@0" in caplog.text
    assert "in-dead-letters" in caplog.text
    assert (other, "cut" in others) == (b'"short"', False)


async def test_an_event_whose_record_and_whose_dead_letter_are_both_too_large_is_kept_as_its_place() -> None:
    broker = MemoryBroker(SystemClock())
    app = make_app(transport=MemoryTransport(broker, "refusals", "worker"))
    broker.create_topics([TopicSpec(name, 1, record_bytes_max=LIMIT) for name in ("out", "in-dead-letters")])
    topic = app.topic("in", key_type=str, value_type=str, partitions=1)
    out = app.topic("out", value_type=str)

    @app.agent(topic)
    async def forward(stream: Any) -> None:
        async for value in stream:
            await out.send(value=value)

    async with running(app):
        await topic.send(key="k", value=LARGE)
        await topic.send(key="k", value="small")
        ((_, value, headers),) = await logged(app, "in-dead-letters", 1)
        assert [sent for _, sent, _ in await logged(app, "out", 1)] == [b'"small"']
    assert SENT.startswith(value)
    assert headers["reason"] == b"too-large"
    assert "cut" in headers


async def test_a_dead_letter_of_which_nothing_fits_stops_the_worker() -> None:
    app, topic = app_of_numbers(100)
    async with crashing(app):
        await topic.send(key="k", value=LARGE)
        failure = await until(lambda: app.engine.failure)
    assert "a dead letter" in str(failure)
    assert "in-dead-letters" in str(failure)
