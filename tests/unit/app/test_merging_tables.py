"""Sessions and sliding windows in Faust's form, against the definition."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from streamflow import App, ConfigurationError, Record, SessionWindow, SlidingWindow
from streamflow.app.tables.windowed import WindowedTable
from streamflow.clock import SystemClock
from streamflow.query.readers import make_reader
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from streamflow.windows import HoppingWindow, Window
from tests.property.oracle import OracleEvent, ask
from tests.support.running import T0_MS, running, until


class Visit(Record):
    n: int


class Harness:
    """An app with one table that counts and adds up, of which a second worker can begin."""

    def __init__(self, declare: Callable[[Any], WindowedTable]) -> None:
        self.broker = MemoryBroker(SystemClock(), session_timeout_ms=200, transaction_timeout_ms=200)
        self.declare = declare
        self.failing: set[int] = set()
        self.total = 0  # events sent so far, by all workers
        self.app = self.boot()

    def boot(self) -> App:
        transport = MemoryTransport(self.broker, "moving", "worker")
        app = App(
            "moving", transport=transport, commit_interval=0.02, fetch_wait_ms=5, web_enabled=False, env={}
        )
        self.topic = app.topic("in", key_type=str, value_type=Visit, partitions=1)
        self.table = self.declare(app.Table("visits", default=int))
        self.done = 0
        self.seen: list[Any] = []

        @app.agent(self.topic)
        async def agent(stream: Any) -> None:
            async for key, visit in stream.items():
                self.table[key] += visit.n
                self.seen.append((self.table[key].current(), key in self.table))
                if visit.n in self.failing:
                    self.failing.discard(visit.n)
                    raise ValueError("once")
                self.done += 1

        return app

    async def feed(self, events: list[tuple[int, str, int]]) -> None:
        """(time in ms, key, amount) each; returns when all are durable."""
        before = self.done
        for t, key, n in events:
            await self.topic.send(key=key, value=Visit(n=n), timestamp=t / 1_000)
        await until(lambda: self.done == before + len(events))
        engine = self.app.engine

        def durable() -> bool:
            assert engine.active is not None
            mine = [p for (who, _, _), p in engine.active.shown.items() if who.startswith("agent:")]
            return all(p.counters.get("in", 0) == self.total for p in mine)

        await until(durable)

    def rows(self) -> dict[tuple[int, int, str], Any]:
        reader = make_reader(self.app.engine, "visits")
        rows = [row for p in sorted(reader.owned) for row in reader.rows(p)]
        assert reader.row_count() == len(rows)
        return {(row.start_ms or 0, row.end_ms or 0, row.key): row.value for row in rows}


def drawn(dice: random.Random, grace: int) -> list[tuple[int, str, int]]:
    time, events = T0_MS, []
    for n in range(60):
        time += dice.choice((0, 1, 2, 5, 9, 30))
        behind = dice.choice((0, 0, 0, 1, 3, grace, grace + 1, grace + 8, 40))
        events.append((time - behind, dice.choice("ab"), n))
    return events


WINDOWS: list[tuple[Window, Callable[[Any], WindowedTable]]] = [
    (SessionWindow(0.007, grace_s=0.012, retain_s=0), lambda table: table.session(0.007, expires=0.012)),
    (SlidingWindow(0.009, grace_s=0.012, retain_s=0), lambda table: table.sliding(0.009, expires=0.012)),
    (
        HoppingWindow(0.009, 0.004, grace_s=0.012, retain_s=0),
        lambda table: table.hopping(0.009, 0.004, expires=0.012),
    ),
]


@pytest.mark.parametrize("window, declare", WINDOWS)
@pytest.mark.parametrize("seed", range(4))
async def test_rows_are_those_of_the_definition_over_failures_and_restarts(
    window: Window, declare: Callable[[Any], WindowedTable], seed: int
) -> None:
    dice = random.Random(seed)
    events = drawn(dice, window.grace_ms)
    harness = Harness(declare)
    harness.failing = set(dice.sample(range(60), 6))
    cut = dice.randrange(60)
    harness.total = cut
    async with running(harness.app):
        await harness.feed(events[:cut])
    harness.app = harness.boot()
    async with running(harness.app):
        harness.total = 60
        await harness.feed(events[cut:])
        answer = ask(window, [[OracleEvent(*event) for event in events]])
        mark = max(t for t, _, _ in events)
        # In Faust's form a window is kept as long as it takes events.
        want = {at: sum(values) for at, values in answer.rows.items() if at[1] + window.grace_ms > mark}
        assert want
        await until(lambda: harness.rows() == want)
        assert harness.app.engine.active is not None
        counters: Counter[str] = Counter()
        for (who, _, _), progress in harness.app.engine.active.shown.items():
            if who.startswith("agent:"):
                counters.update(progress.counters)
        assert counters["late"] == answer.late[0]


async def test_an_agent_sees_the_session_or_the_window_that_ends_with_its_event() -> None:
    for declare, seen in (
        (lambda table: table.session(10), [1, 3, 3, 10]),
        (lambda table: table.sliding(10), [1, 3, 3, 6]),
    ):
        harness = Harness(declare)
        harness.total = 4
        async with running(harness.app):
            await harness.feed(
                [
                    (T0_MS, "ann", 1),
                    (T0_MS + 5_000, "ann", 2),
                    (T0_MS + 20_000, "ann", 3),
                    (T0_MS + 12_000, "ann", 4),
                ]
            )
        assert harness.seen == [(value, True) for value in seen]


async def test_a_gap_joins_and_a_millisecond_more_does_not_in_either_order() -> None:
    harness = Harness(lambda table: table.session(10))
    first, last = T0_MS, T0_MS + 10_000
    events = [
        (first, "near", 1),
        (last, "near", 2),
        (last, "back", 1),
        (first, "back", 2),
        (first, "far", 1),
        (last + 1, "far", 2),
        (last + 1, "away", 1),
        (first, "away", 2),
    ]
    harness.total = len(events)
    async with running(harness.app):
        await harness.feed(events)
        rows = harness.rows()
    gap_ms = 10_001
    assert rows == {
        (first, last + gap_ms, "near"): 3,
        (first, last + gap_ms, "back"): 3,
        (first, first + gap_ms, "far"): 1,
        (last + 1, last + 1 + gap_ms, "far"): 2,
        (first, first + gap_ms, "away"): 2,
        (last + 1, last + 1 + gap_ms, "away"): 1,
    }


async def test_values_are_put_together_as_the_table_says() -> None:
    harness = Harness(lambda table: table.session(10, merge=max))
    table = harness.table
    harness.total = 3
    async with running(harness.app):
        await harness.feed([(T0_MS, "ann", 5), (T0_MS + 20_000, "ann", 2), (T0_MS + 10_000, "ann", 1)])
        assert list(harness.rows().values()) == [6], "the greater of both, and what the event added"
        assert table["ann"].now() == 0, "no session holds the present"


async def test_a_session_that_ends_is_told_of_once_with_its_bounds() -> None:
    harness = Harness(lambda table: table.session(10, expires=1))
    closed: list[Any] = []

    @harness.table.on_window_close
    def close(key: Any, value: Any) -> None:
        closed.append((key, value))

    harness.total = 3
    async with running(harness.app):
        await harness.feed([(T0_MS, "ann", 5), (T0_MS + 4_000, "ann", 2), (T0_MS + 60_000, "ann", 1)])
        await until(lambda: closed)
    key, (start_s, end_s) = closed[0][0]
    assert (key, closed[0][1], len(closed)) == ("ann", 7, 1)
    assert (start_s, round(end_s, 3)) == (T0_MS / 1_000, round(T0_MS / 1_000 + 14.001 - 0.1, 3))


async def test_what_has_no_meaning_for_sliding_windows_is_refused() -> None:
    harness = Harness(lambda table: table.sliding(10))
    harness.table.on_window_close(lambda key, value: None)
    with pytest.raises(ConfigurationError, match="sliding"):
        await harness.app.start()
    await harness.app.stop()


async def test_sessions_are_refused_where_every_worker_holds_all_rows() -> None:
    harness = Harness(lambda table: table.session(10))
    harness.app.GlobalTable("everywhere", default=int, partitions=1).session(10)
    with pytest.raises(ConfigurationError, match="global"):
        await harness.app.start()
    await harness.app.stop()
