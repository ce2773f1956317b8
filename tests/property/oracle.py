"""What the definitions of windows say, as plainly as it can be said: lists of events, sorted and grouped.

It shares nothing with the engine but the window's numbers in milliseconds. Events are taken one by one, in
the order of their partition; nothing here is fast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window

Bounds = tuple[int, int, Any]
"""(start, end, group)"""


class OracleEvent(NamedTuple):
    """One event: its time, its group, and what is folded."""

    time: int
    group: Any
    value: Any


@dataclass
class Answer:
    """``rows``: the values that each row is made of. ``late``: for each partition, how many were too late."""

    rows: dict[Bounds, list[Any]] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)


class _Taken(NamedTuple):
    """An event that counts. Windows that end at ``closed_at`` or before were closed when it came."""

    event: OracleEvent
    closed_at: int


Session = list[_Taken]


def ask(window: Window | None, partitions: Sequence[Sequence[OracleEvent]]) -> Answer:
    """The final rows of a group, over all partitions, and what came too late for them."""
    answer = Answer()
    taken: list[_Taken] = []
    for part in partitions:
        counts = list(_in_time(window, part))
        answer.late.append(len(part) - len(counts))
        taken += counts
    by_group: defaultdict[Any, list[_Taken]] = defaultdict(list)
    for each in taken:
        by_group[each.event.group].append(each)
    for group, mine in by_group.items():
        for start, end, values in _rows(window, mine):
            answer.rows[start, end, group] = values
    return answer


def _in_time(window: Window | None, part: Sequence[OracleEvent]) -> Iterator[_Taken]:
    """The events of one partition that are not late, in order."""
    watermark = None
    sessions: defaultdict[Any, list[Session]] = defaultdict(list)  # group -> its sessions here
    for event in part:
        watermark = event.time if watermark is None else max(watermark, event.time)
        if window is None:
            yield _Taken(event, -(10**18))
            continue
        closed_at = watermark - window.grace_ms
        if isinstance(window, SessionWindow):
            if not _join(sessions[event.group], _Taken(event, closed_at), window.gap_ms):
                continue
        elif all(end <= closed_at for _, end in _possible(window, event.time)):
            continue
        yield _Taken(event, closed_at)


def _possible(window: Window, t: int) -> list[tuple[int, int]]:
    """Every window that could hold an event at ``t``."""
    starts = range(t - window.size_ms + 1, t + 1)
    if isinstance(window, TumblingWindow):
        starts_at = [start for start in starts if (start - window.offset_ms) % window.size_ms == 0]
    elif isinstance(window, HoppingWindow):
        starts_at = [start for start in starts if (start - window.offset_ms) % window.step_ms == 0]
    else:
        assert isinstance(window, SlidingWindow)
        starts_at = list(starts)
    return [(start, start + window.size_ms) for start in starts_at]


def _join(sessions: list[Session], new: _Taken, gap: int) -> bool:
    """Puts the event into the sessions that it touches and that were open, made one. False: it is late."""
    t = new.event.time
    touched = [
        session
        for session in sessions
        if _last(session) + gap + 1 > new.closed_at
        and any(abs(t - each.event.time) <= gap for each in session)
    ]
    if not touched and t + gap + 1 <= new.closed_at:
        return False
    joined = [new]
    for session in touched:
        joined += session
        sessions.remove(session)
    sessions.append(joined)
    return True


def _last(session: Session) -> int:
    return max(each.event.time for each in session)


def _rows(window: Window | None, taken: list[_Taken]) -> Iterator[tuple[int, int, list[Any]]]:
    """The rows of one group: start, end, values."""
    if window is None:
        yield 0, 0, [each.event.value for each in taken]
    elif isinstance(window, SessionWindow):
        yield from _session_rows(window, taken)
    else:
        for start, end in sorted(_existing(window, taken)):
            values = [e.value for e, closed_at in taken if start <= e.time < end and end > closed_at]
            if values:
                yield start, end, values


def _existing(window: Window, taken: list[_Taken]) -> set[tuple[int, int]]:
    if not isinstance(window, SlidingWindow):
        return {bounds for each in taken for bounds in _possible(window, each.event.time)}
    size, bounds = window.size_ms, set()
    for event, closed_at in taken:
        if event.time + 1 > closed_at:
            bounds.add((event.time - size + 1, event.time + 1))
        bounds.add((event.time + 1, event.time + 1 + size))
    return bounds


def _session_rows(window: SessionWindow, taken: list[_Taken]) -> Iterator[tuple[int, int, list[Any]]]:
    # Who came in time finds open whatever it touches, so the order does not matter: sorted. Who came
    # later than the grace allows meets the sessions as they were closed by then, in the order of that; of
    # those with one watermark the newest first, since an older one may be open only by touching it.
    in_time = sorted((e for e in taken if e.event.time >= e.closed_at), key=lambda e: e.event.time)
    behind = sorted(
        (e for e in taken if e.event.time < e.closed_at), key=lambda e: (e.closed_at, -e.event.time)
    )
    sessions: list[Session] = []
    for each in in_time:
        if sessions and each.event.time - _last(sessions[-1]) <= window.gap_ms:
            sessions[-1].append(each)
        else:
            sessions.append([each])
    for each in behind:
        assert _join(sessions, each, window.gap_ms), "it touched an open session of its own partition"
    for session in sessions:
        start = min(each.event.time for each in session)
        yield start, _last(session) + window.gap_ms + 1, [each.event.value for each in session]
