"""Windows that last while events come, and which sessions parts of them form.

`sessions_of` is where sessions merge: pure, the same in whatever order parts come. `state.sessions` does it
event by event, over the rows of a table partition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, NamedTuple

from streamflow.windows.base import Window, duration_ms


class Part(NamedTuple):
    """Events of one group that lie in one session: their range ``[start, end)`` and folded state.

    ``after_ms``: sessions that end there or before were closed when they came, and do not take them;
    ``None`` where every session that they touch was open. ``told``: (start, end) of the closed sessions that
    they have grown out of, or were, and that somebody was told of (where rows stay with their partition).
    """

    start: int
    end: int
    after_ms: int | None
    state: Any
    told: tuple[tuple[int, int], ...] = ()


class Session(NamedTuple):
    """``[start, end)``, and what lies in it."""

    start: int
    end: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class SessionWindow(Window):
    """For each key, windows that last until nothing has come for more than ``gap_s``.

    A session is ``[first, last + gap + 1 ms)``. It takes an event whose own such range touches it; where
    that joins sessions they become one. So 0 and 10 are one session with a gap of 10. What is closed takes
    no more: an event that touches closed sessions only begins a new one, or is late if that would be
    closed too. What silence alone had closed is not closed for what its own partition brings in order.

    All in seconds, fractions down to 1 ms; ``grace_s``, ``retain_s`` and ``idle_close_s`` are those of
    `TumblingWindow`. Raises WindowError. Sessions are kept by their end: a start may come twice, since
    an event may begin where a closed session began.
    """

    kind: ClassVar[str] = "session"

    gap_s: float
    _: KW_ONLY
    grace_s: float = 0
    retain_s: float = 86_400
    idle_close_s: float | None = 10
    gap_ms: int = field(init=False, repr=False, compare=False)
    size_ms: int = field(init=False, repr=False, compare=False)  # of a session of one event
    grace_ms: int = field(init=False, repr=False, compare=False)
    retain_ms: int = field(init=False, repr=False, compare=False)
    idle_close_ms: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        gap_ms = duration_ms("gap_s", self.gap_s, least_ms=1)
        self._set_ms(gap_ms=gap_ms, size_ms=gap_ms + 1)

    def windows_of(self, timestamp_ms: int) -> list[tuple[int, int]]:
        """Of a single event: its own session, if it touches no other."""
        return [(timestamp_ms, timestamp_ms + self.size_ms)]

    def end_of(self, start_ms: int) -> int:
        """A session's id is its end."""
        return start_ms

    def first_open_start(self, watermark_ms: int) -> int:
        return watermark_ms - self.grace_ms + 1

    def first_kept_start(self, watermark_ms: int) -> int:
        return self.first_open_start(watermark_ms) - self.retain_ms

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "gap_ms": self.gap_ms, "grace_ms": self.grace_ms}


def first_start(parts: Sequence[Part]) -> int:
    """Where a session begins that these parts make."""
    return parts[0].start if len(parts) == 1 else min(part.start for part in parts)


def joined(parts: Sequence[Part], state: Any) -> Part:
    """One part for several that touch, all in time, with what their states make together."""
    start, end = parts[0][:2]
    for part in parts:
        start, end = min(start, part.start), max(end, part.end)
    return Part(start, end, None, state)


def sessions_of(parts: Iterable[Part]) -> list[Session]:
    """The sessions that parts form, in order of their ends; the same in whatever order they are given.

    Parts that came in time join as they touch. The others follow, in the order of the watermarks at
    which they came: each joins the sessions that it touches and that were still open then. Of those
    that came at one watermark the last to end goes first: an older one may be open only by touching it.
    """
    in_time: list[Part] = []
    behind: list[tuple[int, int, int, Part]] = []
    for part in parts:
        if part.after_ms is None:
            in_time.append(part)
        else:
            behind.append((part.after_ms, -part.end, part.start, part))
    in_time.sort(key=lambda part: part[:2])
    sessions: list[Session] = []
    for part in in_time:
        if sessions and part.start < sessions[-1].end:
            last = sessions[-1]
            sessions[-1] = Session(last.start, max(last.end, part.end), (*last.parts, part))
        else:
            sessions.append(Session(part.start, part.end, (part,)))
    behind.sort(key=lambda entry: entry[:3])
    for after_ms, _, start, part in behind:
        end = part.end
        apart: list[Session] = []
        joined = Session(start, end, (part,))
        for session in sessions:
            if session.end > after_ms and session.start < end and start < session.end:
                bounds = min(joined.start, session.start), max(joined.end, session.end)
                joined = Session(*bounds, (*session.parts, *joined.parts))
            else:
                apart.append(session)
        sessions = [*apart, joined]
    sessions.sort(key=lambda session: (session.end, session.start))
    return sessions
