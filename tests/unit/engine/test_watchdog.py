"""An agent that blocks the event loop or hangs is named: agent, topic, partition, offset, where it stands."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from tests.support.running import make_app, running, until

BLOCK_S = 1.8  # longer than what counts as a block and the watchdog's next look


LOGGER = "streamflow.engine.watchdog"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


async def hang_here(go_on: asyncio.Event) -> None:
    await go_on.wait()


def block_here() -> None:
    time.sleep(BLOCK_S)


async def test_an_agent_that_blocks_the_event_loop_is_named_with_its_event_and_its_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=int, partitions=1)
    done: list[int] = []

    @app.agent(topic, name="blocking")
    async def blocking(stream: Any) -> None:
        async for value in stream:
            if value == 2:
                block_here()
            done.append(value)

    del blocking
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        async with running(app):
            for value in range(4):
                await topic.send(key="k", value=value)
            await until(lambda: len(done) == 4)
            metrics = app.engine.metrics
            await until(lambda: metrics.event_loop_blocked_seconds_total.value >= 1)
            (shown,) = app.engine.watchdog.slow()
    told = lines(caplog)
    named = "agent blocking with in[0] offset 2"
    assert "the event loop has been blocked" in told[0]
    assert named in told[0]
    assert "block_here" in told[0]
    assert "run_forever" not in told[0]  # the event loop's own frames say nothing
    assert [line for line in told if line.startswith("over after") and named in line]
    assert shown["events"] == [{"agent": "blocking", "topic": "in", "partition": 0, "offset": 2, "events": 1}]


@pytest.mark.parametrize("concurrency", [1, 2], ids=["in order", "concurrently"])
@pytest.mark.parametrize("yields", [False, True])
async def test_an_agent_that_hangs_is_named_and_not_cancelled(
    caplog: pytest.LogCaptureFixture, concurrency: int, yields: bool
) -> None:
    app = make_app(agent_warn_s=0.3)
    topic = app.topic("in", key_type=str, value_type=int, partitions=1)
    go_on, done = asyncio.Event(), list[int]()

    async def work(value: int) -> None:
        if value == 2:
            await hang_here(go_on)
        done.append(value)

    if yields:

        @app.agent(topic, name="hanging", concurrency=concurrency)
        async def hanging(stream: Any) -> Any:
            async for value in stream:
                await work(value)
                yield value
    else:

        @app.agent(topic, name="hanging", concurrency=concurrency)
        async def hanging(stream: Any) -> None:
            async for value in stream:
                await work(value)

    with caplog.at_level(logging.WARNING, logger=LOGGER):
        async with running(app):
            for value in range(4):
                await topic.send(key="k", value=value)
            (shown,) = await until(app.engine.watchdog.slow)
            (told,) = await until(lambda: lines(caplog))
            assert app.engine.metrics.agent_event_seconds.labels("hanging").value > 0
            go_on.set()
            await until(lambda: len(done) == 4)
            await until(lambda: [line for line in lines(caplog) if line.startswith("over after")])
            assert not app.engine.watchdog.slow()
    assert "agent hanging has had in[0] offset 2 in flight" in told
    assert "hang_here" in told
    assert {name: shown[name] for name in ("agent", "topic", "partition", "offset")} == {
        "agent": "hanging",
        "topic": "in",
        "partition": 0,
        "offset": 2,
    }


async def test_a_batch_that_waits_for_more_events_is_nobodys_work(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(agent_warn_s=0.1)
    topic = app.topic("in", key_type=str, value_type=int, partitions=1)
    taken: list[Any] = []

    @app.agent(topic, name="gathering")
    async def gathering(stream: Any) -> None:
        async for batch in stream.take(2, within=3600):
            taken.append(batch)

    del gathering
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        async with running(app):
            (agent,) = app.engine.topology.agents
            await topic.send(key="k", value=1)
            await until(lambda: any(context.in_flight for context in agent.contexts()))
            await asyncio.sleep(1)
            assert not app.engine.watchdog.slow()
            await topic.send(key="k", value=2)
            await until(lambda: taken)
    assert not lines(caplog)
