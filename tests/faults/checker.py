"""Says what is wrong with what workers made of a known log. Pure: it takes facts and returns sentences.

Under exactly once everything is exact: tables, aggregates, closed windows, outputs per key and in
order, and the group's offsets. Under at least once nothing may be missing, nothing may be there that
nobody sent, and sums may only be too high.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.workload import Event, window_start

Output = tuple[int, int]  # seq of the event, total of its key with it
Window = tuple[str, int]  # group, start in ms
Amounts = tuple[int, int]  # events, sum of their amounts

SHOWN_MAX = 5


@dataclass
class Seen:
    """What the workers made: ``outputs`` by key in the order of the log, read committed."""

    outputs: dict[str, list[Output]] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    windows: dict[Window, Amounts] = field(default_factory=dict)
    closed: list[tuple[Window, Amounts]] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)  # partition -> next offset, as committed


def expected(events: Iterable[Event], ends: Mapping[int, int]) -> Seen:
    """What one worker without trouble makes of it. ``ends``: partition -> offset behind its last record."""
    wanted = Seen(offsets=dict(ends))
    for event in events:
        total = wanted.sums[event.key] = wanted.sums.get(event.key, 0) + event.amount
        wanted.outputs.setdefault(event.key, []).append((event.seq, total))
        at = (event.group, window_start(event.time_ms))
        count, amount = wanted.windows.get(at, (0, 0))
        wanted.windows[at] = (count + 1, amount + event.amount)
    return wanted


def exactly_once(wanted: Seen, seen: Seen, closed: bool = False) -> list[str]:
    """``closed``: all windows have been closed, and are checked too."""
    wrong: list[str] = []
    for key in sorted({*wanted.outputs, *seen.outputs}):
        wrong += _outputs(key, wanted.outputs.get(key, []), seen.outputs.get(key, []))
    wrong += _same("table sums", wanted.sums, seen.sums)
    wrong += _same("aggregate", wanted.windows, seen.windows)
    wrong += _same("offsets", wanted.offsets, seen.offsets)
    if closed:
        twice = [at for at, count in Counter(at for at, _ in seen.closed).items() if count > 1]
        wrong += [f"closed window {at} was written more than once" for at in sorted(twice)[:SHOWN_MAX]]
        wrong += _same("closed windows", wanted.windows, dict(seen.closed))
    return wrong


def at_least_once(wanted: Seen, seen: Seen) -> list[str]:
    """Nothing lost, nothing invented; what came since the last checkpoint may count and be sent twice."""
    wrong: list[str] = []
    for key in sorted({*wanted.outputs, *seen.outputs}):
        want, found = wanted.outputs.get(key, []), seen.outputs.get(key, [])
        firsts = list(dict.fromkeys(seq for seq, _ in found))
        if firsts != [seq for seq, _ in want]:
            wrong += _outputs(key, want, [(seq, 0) for seq in firsts])[:1] or [f"outputs of {key} differ"]
        least = dict(want)
        wrong += [
            f"outputs of {key}: total {total} of {seq} is too low"
            for seq, total in found
            if total < least.get(seq, 0)
        ][:SHOWN_MAX]
    wrong += _at_least("table sums", _pairs(wanted.sums), _pairs(seen.sums))
    wrong += _at_least("aggregate", wanted.windows, seen.windows)
    wrong += _same("offsets", wanted.offsets, seen.offsets)
    return wrong


def _outputs(key: str, want: Sequence[Output], found: Sequence[Output]) -> list[str]:
    """The first place where the outputs of a key are not what they should be."""
    for at, (one, other) in enumerate(zip(want, found, strict=False)):
        if one != other:
            return [f"outputs of {key}: at {at} is (seq, total) {other} instead of {one}"]
    if len(want) != len(found):
        return [f"outputs of {key}: {len(found)} instead of {len(want)}"]
    return []


def _same(what: str, want: Mapping[Any, Any], found: Mapping[Any, Any]) -> list[str]:
    wrong = [at for at in {*want, *found} if want.get(at) != found.get(at)]
    return [f"{what}: {at} is {found.get(at)} instead of {want.get(at)}" for at in wrong[:SHOWN_MAX]]


def _pairs(sums: Mapping[str, int]) -> dict[str, Amounts]:
    return {key: (0, total) for key, total in sums.items()}


def _at_least(what: str, want: Mapping[Any, Amounts], found: Mapping[Any, Amounts]) -> list[str]:
    wrong = [
        at
        for at in {*want, *found}
        if at not in want or at not in found or any(f < w for f, w in zip(found[at], want[at], strict=True))
    ]
    return [f"{what}: {at} is {found.get(at)}, at least {want.get(at)}" for at in wrong[:SHOWN_MAX]]
