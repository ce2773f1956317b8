"""What must hold of a world without transactions: nothing lost, nothing invented; much may count twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from streamflow.clock import rfc3339
from tests.simulation import later
from tests.simulation.checks import (
    FOLDS,
    Faults,
    check_offsets,
    giving_up,
    records_of,
    shown_rows,
    wanted_rows,
)
from tests.simulation.cluster import LETTERS, Cluster
from tests.simulation.scenario import ECHO, SIZE_MS, SOURCES, Expected, SimEvent


def judge(cluster: Cluster, expected: Expected, events: list[list[SimEvent]], wrong: Faults) -> None:
    """Appends a sentence for what is wrong, once the world is quiet."""
    check_offsets(cluster, wrong)
    for name, found in shown_rows(cluster).items():
        want = wanted_rows(expected, name)
        _at_least(f"{name}, rows", _counts(found), _counts(want), wrong)
    _closed(cluster, expected, wrong)
    _outputs(cluster, events, wrong)
    later.check_at_least(cluster, events, wrong)


def _counts(rows: dict[Any, Any]) -> dict[Any, int]:
    return {at: row if isinstance(row, int) else row["total_events"] for at, row in rows.items()}


def _at_least(what: str, found: dict[Any, int], want: dict[Any, int], wrong: Faults) -> None:
    short = {at: (found.get(at), count) for at, count in want.items() if found.get(at, 0) < count}
    invented = found.keys() - want.keys()
    if short:
        wrong.append(f"{what}: {len(short)} too low, such as (found, wanted) {next(iter(short.items()))}")
    if invented:
        wrong.append(f"{what}: {len(invented)} of nothing that was sent, such as {next(iter(invented))}")


def _closed(cluster: Cluster, expected: Expected, wrong: Faults) -> None:
    """Each row of a closed window was told, with all that was durable when it closed."""
    for fold in FOLDS:
        told: dict[Any, int] = {}
        for _, _, value in records_of(cluster.broker, f"{fold}-closed"):
            row = orjson.loads(value or b"")
            at = row["window_start"], row.get("key")
            told[at] = max(told.get(at, 0), row["value"] if "value" in row else row["total_events"])
        flushed = min(event.time_ms for event in cluster.flushed)
        first_open = flushed - flushed % SIZE_MS
        rows = _counts(getattr(expected, fold))
        want = {(rfc3339(start), key): count for (start, key), count in rows.items() if start < first_open}
        _at_least(f"{fold}, closed rows", told, want, wrong)


def _outputs(cluster: Cluster, events: list[list[SimEvent]], wrong: Faults) -> None:
    """What agents send and set aside: each at least once, the first of each in order."""
    sent: dict[int, list[str]] = {p: [] for p in range(SOURCES)}
    for p, _, value in records_of(cluster.broker, ECHO):
        sent[p].append((value or b"").decode())
    letters: Counter[bytes] = Counter(value or b"" for _, _, value in records_of(cluster.broker, LETTERS))
    for p, part in enumerate(events):
        good = [event.id for event in part if event.fate in ("good", "flaky")]
        if list(dict.fromkeys(sent[p])) != good:
            wrong.append(f"{ECHO}[{p}]: {len(set(good) - set(sent[p]))} were not sent, or in wrong order")
        for event in part:
            times = {"bad": 1, "hopeless": len(giving_up(cluster))}.get(event.fate, 0)
            if letters[event.record().value or b""] < times:
                wrong.append(f"no dead letter for {event.id}")
