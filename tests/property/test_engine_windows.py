"""The engine against the oracle: every kind of window and way of grouping, over random streams."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window
from tests.property.engine_runs import AGGREGATES, BY, Run, run_engine
from tests.property.oracle import OracleEvent, ask

SEEDS = int(os.environ.get("STREAMFLOW_ORACLE_SEEDS", "8"))
T0_MS = 1_760_000_000_000


def ms(**sizes: int) -> dict[str, Any]:
    """Arguments in seconds, of milliseconds; without idle ticks."""
    return {"idle_close_s": None, **{f"{name}_s": value / 1_000 for name, value in sizes.items()}}


def draw_window(kind: str, dice: random.Random) -> Window:
    times = {"grace": dice.choice((0, 0, 1, 3, 20)), "retain": 10**9}
    size = dice.choice((1, 2, 5, 10, 17))
    if kind == "tumbling":
        return TumblingWindow(**ms(size=size, offset=dice.randint(-9, 9), **times))
    if kind == "hopping":
        step = dice.randint(1, size)
        return HoppingWindow(**ms(size=size, step=step, offset=dice.randint(-9, 9), **times))
    if kind == "sliding":
        return SlidingWindow(**ms(size=size, **times))
    return SessionWindow(**ms(gap=size, **times))


def draw_partitions(window: Window, dice: random.Random) -> list[list[OracleEvent]]:
    """Mostly in order, with ties and duplicates, late by about the grace, and a leap now and then."""
    base = dice.choice((0, T0_MS, -T0_MS))
    partitions = []
    for _ in range(dice.choice((1, 1, 2, 3))):
        time = base + dice.randint(-20, 20)
        part: list[OracleEvent] = []
        for _ in range(dice.randint(0, 60)):
            time += dice.choice((0, 0, 1, 1, 2, 3, 7, 12, 40 if dice.random() < 0.2 else 0))
            if dice.random() < 0.02:
                time += 86_400_000
            grace, size = window.grace_ms, window.size_ms
            behind = dice.choice(
                (0, 0, 0, 1, 2, grace, grace, grace + 1, grace + size, grace + size + 1, 5, 60)
            )
            # Keys keep to their partition, other groups do not.
            part.append(OracleEvent(time - behind, f"k{dice.randint(0, 2)}", dice.randint(-3, 3)))
            if part and dice.random() < 0.1:
                part.append(dice.choice(part))
        partitions.append(part)
    return partitions


def regrouped(partitions: list[list[OracleEvent]], by: str) -> list[list[OracleEvent]]:
    """As the oracle has to see it: with one group where rows have no key, and keys apart by partition."""
    return [
        [
            OracleEvent(e.time, {"none": None, "key": f"{p}.{e.group}", "field": e.group}[by], e.value)
            for e in part
        ]
        for p, part in enumerate(partitions)
    ]


def told(values: list[Any]) -> dict[str, Any]:
    return {name: python(values) for name, (_, python) in AGGREGATES.items()}


def check(window: Window, partitions: list[list[OracleEvent]], run: Run) -> None:
    for by in BY:
        answer = ask(window, regrouped(partitions, by))
        want = sorted((s, e, k, repr(told(v))) for (s, e, k), v in answer.rows.items())
        found = sorted((s, e, k, repr(v)) for (s, e, k), v in run.rows[by].items())
        assert found == want, f"{by}: rows"
        for p, part in enumerate(partitions):
            if not part:
                continue
            counters = run.counters[by][p]
            assert counters.get("late", 0) == answer.late[p], f"{by}: late in partition {p}"
            assert counters["in"] == len(part)
            assert counters.get("counted", 0) == len(part) - answer.late[p]
        check_closed(window, partitions, run, by)
        assert run.followed[by] == run.rows[by], f"{by}: whoever followed the changes has the same rows"


def check_closed(window: Window, partitions: list[list[OracleEvent]], run: Run, by: str) -> None:
    """Closed rows went out once, with what the row shows; and no others did."""
    marks = [max((e.time for e in part), default=None) for part in partitions]
    emitted = dict(run.closed[by])
    assert len(emitted) == len(run.closed[by]), f"{by}: a closed row went out twice"
    assert all(run.rows[by][at] == value for at, value in emitted.items()), f"{by}: closed rows"
    closed = {at for at, state in run.states[by].items() if state == "closed"}
    assert set(emitted) == closed
    if by != "key":
        least = None if None in marks else min(mark for mark in marks if mark is not None)
        want = {at for at in run.rows[by] if least is not None and at[1] + window.grace_ms <= least}
        assert closed == want, f"{by}: closed"


@pytest.mark.parametrize("kind", ["tumbling", "hopping", "sliding", "session"])
@pytest.mark.parametrize("part", range(4))
def test_the_engine_makes_the_rows_of_the_definition(kind: str, part: int) -> None:
    for number in range(SEEDS):
        seed = part * SEEDS + number
        dice = random.Random(f"{kind}:{seed}")
        window = draw_window(kind, dice)
        partitions = draw_partitions(window, dice)
        run = run_engine(window, partitions, seed, restarts=dice.choice((0, 0, 1, 2)))
        try:
            check(window, partitions, run)
        except AssertionError as exc:
            raise AssertionError(f"{kind} seed {seed}: {window}\n{partitions}\n{exc}") from exc


@pytest.mark.parametrize("kind", ["tumbling", "hopping", "sliding", "session"])
def test_disorder_within_the_grace_makes_the_rows_of_sorted_data(kind: str) -> None:
    for seed in range(SEEDS):
        dice = random.Random(f"shuffled {kind}:{seed}")
        window = draw_window(kind, dice)
        partitions = [sorted(part, key=lambda e: e.time) for part in draw_partitions(window, dice)]
        shuffled = [within_grace(part, window.grace_ms, dice) for part in partitions]
        straight, crooked = run_engine(window, partitions, seed), run_engine(window, shuffled, seed + 1)
        assert crooked.rows == straight.rows, f"{kind} seed {seed}: {window}\n{shuffled}"
        assert crooked.counters == straight.counters
        for by in BY:
            assert sorted(crooked.closed[by], key=repr) == sorted(straight.closed[by], key=repr)


def within_grace(part: list[OracleEvent], grace_ms: int, dice: random.Random) -> list[OracleEvent]:
    """The same events, none of them behind another by more than the grace."""
    left, taken = list(part), []
    while left:
        # Whatever is taken now, the oldest that is left may still come after it.
        ready = [event for event in left if event.time <= left[0].time + grace_ms]
        taken.append(dice.choice(ready))
        left.remove(taken[-1])
    return taken
