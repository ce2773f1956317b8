"""A circuit breaker by itself, as a decorator, around a block, and on an agent."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
from typing import Any

import pytest

from streamflow.errors import CircuitOpen, ConfigurationError
from streamflow.processing.circuit_breaker import CircuitBreaker, circuit_states
from streamflow.processing.event_stream import EventStream
from streamflow.processing.retries import Retry
from streamflow.state.progress import Progress
from streamflow.testing.clock import ManualClock
from tests.unit.processing.test_agent import Bench, chunk, values_of


class Down(Exception):
    pass


def now(breaker: CircuitBreaker) -> str:
    """Its state; asked by a function, since it changes between two looks."""
    return breaker.state


def failing(breaker: CircuitBreaker, times: int, error: Exception | None = None) -> None:
    for _ in range(times):
        with pytest.raises(type(error or Down())), breaker:
            raise error or Down


async def test_it_opens_after_so_many_failures_within_the_window_and_not_before() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=3, window_s=60, open_s=30, clock=clock)
    failing(breaker, 2)
    await clock.advance(60_001)  # the first two are older than the window
    failing(breaker, 2)
    assert now(breaker) == "closed"
    failing(breaker, 1)
    assert now(breaker) == "open"
    with pytest.raises(CircuitOpen, match="billing") as refused, breaker:
        raise AssertionError("nothing passes")
    assert refused.value.retry_after_s == pytest.approx(30)


async def test_half_open_lets_so_many_try_and_their_first_outcome_decides() -> None:
    clock = ManualClock()
    told: list[str] = []
    breaker = CircuitBreaker("billing", failures_max=1, open_s=30, probes_max=2, clock=clock)
    breaker.on_change(lambda _, state: told.append(state))
    failing(breaker, 1)
    await clock.advance(29_999)
    assert now(breaker) == "open"
    await clock.advance(1)
    assert now(breaker) == "half-open"
    one, other = breaker.enter(), breaker.enter()
    with pytest.raises(CircuitOpen):
        breaker.enter()
    breaker.leave(one, Down())
    assert now(breaker) == "open"
    breaker.leave(other, None)  # it began before: its success is no news
    assert now(breaker) == "open"
    await clock.advance(30_000)
    with breaker:
        pass
    assert now(breaker) == "closed"
    assert told == ["open", "half-open", "open", "half-open", "closed"]


async def test_what_was_cancelled_or_does_not_count_gives_its_place_back() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=1, open_s=1, on=Down, clock=clock)
    failing(breaker, 5, KeyError("x"))
    assert now(breaker) == "closed"
    failing(breaker, 1)
    await clock.advance(1_000)
    with pytest.raises(asyncio.CancelledError), breaker:
        raise asyncio.CancelledError
    failing(breaker, 1, KeyError("x"))
    assert now(breaker) == "half-open"
    with breaker:
        pass
    assert now(breaker) == "closed"


async def test_tasks_that_overlap_are_told_apart_by_when_they_began() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=2, open_s=10, clock=clock)

    async def call(ends_ms: float, error: Exception | None) -> None:
        async with breaker:
            await clock.sleep_ms(ends_ms)
            if error is not None:
                raise error

    calls = [asyncio.create_task(call(ms, Down() if ms < 20 else None)) for ms in (5, 6, 20)]
    await clock.advance(10)
    assert now(breaker) == "open"
    await clock.advance(10_050)  # the third comes well meanwhile: it began when all was closed
    assert now(breaker) == "half-open"
    assert [type(result) for result in await asyncio.gather(*calls, return_exceptions=True)] == [
        Down, Down, type(None),
    ]  # fmt: skip


async def test_as_a_decorator_it_keeps_what_a_function_is() -> None:
    breaker = CircuitBreaker("billing", failures_max=1)

    @breaker
    def double(number: int) -> int:
        """Doubles."""
        return 2 * number

    @breaker
    async def fetch(number: int) -> int:
        raise Down(number)

    assert double(4) == 8
    assert double.__doc__ == "Doubles."
    assert asyncio.iscoroutinefunction(fetch)
    with pytest.raises(Down):
        await fetch(1)
    with pytest.raises(CircuitOpen):
        double(4)
    assert circuit_states()["billing"] == "open"


@pytest.mark.parametrize(
    "name,value",
    [
        ("failures_max", 0), ("failures_max", 1.5), ("failures_max", True), ("probes_max", 0),
        ("window_s", 0), ("open_s", -1), ("open_s", math.nan), ("open_s", "30"), ("window_s", 1e9),
    ],
)  # fmt: skip
def test_what_can_not_work_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"billing.*{name}"):
        CircuitBreaker("billing", **{name: value})


@pytest.mark.parametrize("concurrent", [False, True])
async def test_an_open_one_pauses_its_agent_and_no_event_fails(concurrent: bool) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=2, open_s=30)
    down, tried, done = True, [], []

    async def run(stream: EventStream) -> None:
        async for value in values_of(stream, concurrent=concurrent):
            tried.append(value)
            if down:
                raise ConnectionRefusedError(value)
            done.append(value)

    # Three attempts are all that it has, and the outage takes many more.
    bench = Bench(run, clock=clock, breaker=breaker, retry=Retry(attempts=3, first_wait_s=1, jitter=False))
    bench.agent.offer(chunk(["one", "two"]))
    bench.agent.offer(chunk(["three"], 2))
    await clock.advance(1_000)
    assert (tried, now(breaker)) == (["one"] * 2, "open")
    await clock.advance(29_000)
    assert len(tried) == 2  # nothing is taken while it is open
    await clock.advance(300_000)
    assert set(tried) == {"one"}
    assert 9 <= len(tried) <= 14  # once each 30 s
    assert bench.given_up == []
    down = False
    await clock.advance(40_000)
    bench.agent.begin_cut()
    await clock.advance(1_000)
    assert now(breaker) == "closed"
    assert done == ["one", "two", "three"]
    assert bench.given_up == []
    await bench.agent.halt()


async def test_a_bug_is_given_up_though_the_service_is_down() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=1, open_s=30)

    async def run(stream: EventStream) -> None:
        async for value in stream.values():
            if value == "bug":
                raise KeyError(value)

    bench = Bench(run, clock=clock, breaker=breaker, retry=Retry(attempts=2, first_wait_s=1, jitter=False))
    bench.agent.offer(chunk(["bug", "good"]))
    await clock.advance(10_000)
    assert (bench.given_up, now(breaker)) == ([0], "closed")  # KeyError is not what it counts
    await bench.agent.halt()


async def test_one_that_others_have_opened_pauses_an_agent_that_has_not_failed() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=1, open_s=30)
    seen: list[Any] = []

    async def run(stream: EventStream) -> None:
        async for value in stream.values():
            seen.append(value)

    bench = Bench(run, clock=clock, breaker=breaker)
    failing(breaker, 1)
    bench.agent.offer(chunk(["one"]))
    bench.agent.offer(chunk(["two"], 1))
    await clock.advance(29_000)
    assert seen == []
    await clock.advance(1_500)
    assert seen == ["one"]  # what tries it
    bench.agent.begin_cut()
    await clock.advance(200)
    assert (seen, now(breaker)) == (["one", "two"], "closed")
    await bench.agent.halt()


@pytest.mark.parametrize("concurrent", [False, True])
async def test_what_tries_may_itself_call_through_the_breaker_and_a_bug_ends_no_try(concurrent: bool) -> None:
    """The agent's code has the breaker around its calls as well; and the first event that tries has a bug."""
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=2, open_s=30)
    down, done = True, []

    @breaker
    def call(value: Any) -> None:
        if down:
            raise ConnectionRefusedError(value)

    async def run(stream: EventStream) -> None:
        async for value in values_of(stream, concurrent=concurrent):
            if value == "bug" and not down:
                raise KeyError(value)
            call(value)
            done.append(value)

    bench = Bench(run, clock=clock, breaker=breaker, retry=Retry(attempts=3, first_wait_s=1, jitter=False))
    bench.agent.offer(chunk(["bug", "one"]))
    bench.agent.offer(chunk(["two"], 2))
    await clock.advance(100_000)
    assert now(breaker) in ("open", "half-open")
    down = False
    for _ in range(80):
        await clock.advance(1_000)
        bench.agent.begin_cut()
    assert now(breaker) == "closed"
    assert (bench.given_up, done) == ([0], ["one", "two"])
    await bench.agent.halt()


class BillingError(Exception):
    """What an application makes of what it called."""


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_failure_that_the_agents_own_call_has_counted_counts_once(
    concurrent: bool, wrapped: bool
) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=4, open_s=30, on=(OSError, BillingError))
    tried: list[Any] = []

    @breaker
    def call(value: Any) -> None:
        raise ConnectionRefusedError(value)

    async def run(stream: EventStream) -> None:
        async for value in values_of(stream, concurrent=concurrent):
            tried.append(value)
            try:
                call(value)
            except OSError as error:
                if wrapped:
                    raise BillingError("no answer") from error
                raise

    bench = Bench(run, clock=clock, breaker=breaker, retry=Retry(attempts=9, first_wait_s=1, jitter=False))
    bench.agent.offer(chunk(["one"]))
    await clock.advance(20_000)
    assert (len(tried), now(breaker)) == (4, "open")
    await bench.agent.halt()


async def test_an_agents_failure_counts_beside_one_that_it_has_dealt_with() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=4, open_s=30, on=OSError)
    gone = ConnectionRefusedError("as a pool keeps it, and raises it to whoever asks")
    tried: list[Any] = []

    async def run(stream: EventStream) -> None:
        async for value in stream.values():
            tried.append(value)
            try:
                with breaker:
                    raise gone
            except OSError:
                pass
            raise TimeoutError(value)  # not around a call of the breaker's

    bench = Bench(run, clock=clock, breaker=breaker, retry=Retry(attempts=9, first_wait_s=1, jitter=False))
    bench.agent.offer(chunk(["one"]))
    await clock.advance(20_000)
    assert (len(tried), now(breaker)) == (2, "open")
    await bench.agent.halt()


async def test_a_failure_within_a_call_within_a_call_counts_once() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=3, open_s=30, clock=clock)
    again = ConnectionRefusedError("the same object each time")

    def twice_within(raised: Exception) -> None:
        with pytest.raises(type(raised)), breaker, breaker, breaker:
            raise raised

    twice_within(OSError("one"))
    twice_within(again)
    assert now(breaker) == "closed"

    def fails_for_another() -> None:
        with breaker:
            with contextlib.suppress(OSError), breaker:
                raise again
            raise OSError("outer")

    with pytest.raises(OSError, match="outer"):
        fails_for_another()
    assert now(breaker) == "open"


async def test_a_call_within_a_call_takes_no_second_place_where_few_may_try() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=1, open_s=30, clock=clock)
    failing(breaker, 1)
    await clock.advance(30_000)
    with breaker:
        with pytest.raises(asyncio.CancelledError), breaker:
            raise asyncio.CancelledError  # says nothing of the service, and gives back no place of its own
        with pytest.raises(CircuitOpen):
            await asyncio.create_task(within(breaker), context=contextvars.Context())
        with breaker:
            pass
    assert now(breaker) == "closed"


async def within(breaker: CircuitBreaker) -> None:
    with breaker:
        pass


async def test_a_try_that_a_rebalance_ended_holds_nothing_up() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("billing", failures_max=1, open_s=30)
    go_on = asyncio.Event()
    seen: list[Any] = []

    async def run(stream: EventStream) -> None:
        async for value in stream.values():
            seen.append(value)
            await go_on.wait()

    bench = Bench(run, clock=clock, breaker=breaker)
    failing(breaker, 1)
    bench.agent.offer(chunk(["one"]))
    await clock.advance(31_000)
    assert seen == ["one"]
    await bench.agent.halt()
    bench.agent.clear()
    bench.agent.hold(Progress("agent:a", "in", 0))
    bench.agent.start()
    bench.agent.offer(chunk(["one"]))
    await clock.advance(1_000)
    assert seen == ["one", "one"]
    await bench.agent.halt()
