"""Topics that nobody declared: what agents send makes none where the broker would not."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from streamflow import App, Retry
from streamflow.cli.connected import whole_log
from tests.support.running import until

WAIT_S = 30.0


def make_app(broker: str) -> App:
    return App(f"slips-{uuid4().hex[:8]}", broker=broker, web_enabled=False, commit_interval=0.05, env={})


async def counts_of(app: App, *names: str) -> dict[str, int]:
    return await app.engine.transport.partition_counts(names)


async def logged(app: App, topic: str, count: int) -> list[dict[str, bytes | None]]:
    """The headers of what is committed in a topic of one partition, once there is so much."""

    async def found() -> list[dict[str, bytes | None]]:
        if not await counts_of(app, topic):
            return []
        batches = [batch async for batch in whole_log(app.engine, topic, 1)]
        headers = [dict(each) for b in batches for each in b.headers or [()] * len(b.offsets)]
        return headers if len(headers) >= count else []

    told: list[dict[str, bytes | None]] = await until(found)
    return told


async def lives(app: App) -> None:
    async with asyncio.timeout(WAIT_S):
        await app.start()


async def test_an_agents_slip_makes_no_topic_where_the_broker_makes_none(kafka: str) -> None:
    """The event is set aside with a sentence; what was declared, or given partitions, is made."""
    app = make_app(f"kafka://{kafka}")
    name = app.conf.id
    topic = app.topic(f"{name}-in", value_type=str, partitions=1)
    app.topic(f"{name}-results", partitions=1)

    @app.agent(topic, retry=Retry(attempts=1))
    async def send_on(stream: Any) -> None:
        async for value in stream:
            if value == "app":
                await app.send(f"{name}-resutls", value=1)
            elif value == "topic":
                await app.topic(f"{name}-resutls").send(value=1)
            elif value == "soon":
                app.topic(f"{name}-resutls").send_soon(value=1)
            elif value == "partitions":
                await app.topic(f"{name}-new", partitions=2).send(value=1)
            else:
                await app.send(f"{name}-results", value=1)

    await lives(app)
    try:
        for value in ("app", "topic", "soon", "partitions", "declared"):
            await topic.send(value=value)
        letters = await logged(app, f"{name}-in-dead-letters", 3)
        said = [(headers["error"] or b"").decode() for headers in letters]
        for text in said[:2]:
            assert f"there is no topic '{name}-resutls'" in text
            assert f"do you mean '{name}-results'?" in text
        assert f"'{name}-resutls' is not known" in said[2]
        assert len(await logged(app, f"{name}-results", 1)) == 1
        assert await counts_of(app, f"{name}-resutls", f"{name}-new") == {f"{name}-new": 2}
        await app.topic(f"{name}-asked-for").declare()
        await until(lambda: counts_of(app, f"{name}-asked-for"))
    finally:
        await app.stop()


async def test_where_whoever_writes_makes_a_topic_one_is_made(redis_server: Any) -> None:
    app = make_app(redis_server.url)
    name = app.conf.id
    await lives(app)
    try:
        await app.send(f"{name}-named", value=1)
        assert await counts_of(app, f"{name}-named")
    finally:
        await app.stop()
