"""Time limits of events: cancelled, undone, tried again; and when giving up stops the worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamflow.errors import ConfigurationError, TooManyFailures
from streamflow.processing.event_stream import EventStream
from streamflow.processing.event_timeouts import checked_timeout_s
from streamflow.processing.retries import Retry
from streamflow.state.event_context import current_context
from streamflow.testing.clock import ManualClock
from streamflow.transports.base import Record
from tests.unit.processing.test_agent import Bench, chunk, values_of

ONCE_MORE = Retry(attempts=2, first_wait_s=0.1, jitter=False)


@pytest.mark.parametrize("concurrent", [False, True])
async def test_an_event_that_takes_too_long_is_cancelled_undone_and_tried_again(concurrent: bool) -> None:
    clock = ManualClock()
    seen: list[Any] = []
    waits_ms = {"slow": [60_000.0, 500.0], "stuck": [60_000.0, 60_000.0]}

    async def run(stream: EventStream) -> None:
        async for value in values_of(stream, concurrent=concurrent):
            seen.append(value)
            context = current_context.get()
            assert context is not None
            context.sends.append((context.position, Record("out", 0, None, str(value).encode()), None))
            if waits_ms.get(value):
                await clock.sleep_ms(waits_ms[value].pop(0))

    bench = Bench(run, clock=clock, retry=ONCE_MORE, timeout_s=2)
    bench.agent.offer(chunk(["one", "slow", "stuck", "last", "more"]))
    await clock.advance(10_000)
    assert seen == ["one", "slow", "slow", "stuck", "stuck", "last", "more"]
    assert bench.given_up == [2]
    assert [type(error).__name__ for error in bench.errors] == ["EventTimeout"]
    assert "in[0] offset 2" in str(bench.errors[0])
    bench.agent.settle()
    assert [record.value for _, record, _ in bench.agent.take_outbox()][:3] == [b"one", b"slow", b"last"]
    await bench.agent.halt()


async def test_waiting_for_the_next_event_has_no_limit_and_ending_is_no_failure() -> None:
    clock = ManualClock()
    seen: list[Any] = []
    ended: list[str] = []

    async def run(stream: EventStream) -> None:
        try:
            async for value in stream.values():
                seen.append(value)
                if value == "last":
                    await clock.sleep_ms(1_000)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    bench = Bench(run, clock=clock, retry=ONCE_MORE, timeout_s=2)
    bench.agent.offer(chunk(["one"]))
    await clock.advance(60_000)
    bench.agent.offer(chunk(["last"], 1))
    await clock.advance(500)
    await bench.agent.halt()
    assert (seen, ended, bench.errors) == (["one", "last"], ["cancelled"], [])


@pytest.mark.parametrize("timeout_s", [0, -1, "2", True, float("nan"), 1e9])
def test_a_limit_is_a_number_of_seconds(timeout_s: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout_s"):
        checked_timeout_s(timeout_s)


async def test_an_agent_that_gives_up_on_one_after_the_other_stops_the_worker() -> None:
    clock = ManualClock()

    async def run(stream: EventStream) -> None:
        async for value in stream.values():
            if value == "bad":
                raise KeyError(value)

    bench = Bench(run, clock=clock, retry=Retry(attempts=1), gives_up_max=3)
    bench.agent.offer(chunk(["bad", "bad", "good", "bad", "bad", "bad", "good"]))
    await clock.advance(1_000)
    assert bench.given_up == [0, 1, 3, 4]  # the sixth is still in the topic, and not done
    assert isinstance(bench.agent.failure, TooManyFailures)
    assert "in[0] offset 5: KeyError: 'bad'" in str(bench.agent.failure)
    bench.agent.settle()
    assert bench.progress.position == 5
    await bench.agent.halt()
