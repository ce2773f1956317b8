"""Where sessions merge, event by event: the sessions of a table partition that an event touches.

`windows.session` says which sessions parts form when all of them are known. Here an event meets the rows
that are there: agents' tables and the partial side of aggregates ask `touched`, make one session of what
it finds, and keep the index true. The index alone is the final stage's too.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from streamflow.state.partition import TablePartition
from streamflow.state.stores.base import MISSING
from streamflow.windows.session import Part, first_start

K = TypeVar("K", bound=Hashable)
SessionRow = tuple[Part, ...]
"""What a session is kept as, by its end: the parts that it is made of."""


class SessionIndex(Generic[K]):
    """Key -> ends of its sessions, in order. A `RowIndex`.

    An event that is undone brings back what it had made part of another session. So whoever can undo drops
    ends only with the cut that takes their rows away, and ends of sessions that are no more stay till then.
    """

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends: dict[K, list[int]] = {}

    def add(self, start: int, key: K) -> None:
        ends = self._ends.get(key)
        if ends is None:
            self._ends[key] = [start]
        elif start > ends[-1]:
            ends.append(start)
        elif start not in ends:
            insort(ends, start)

    def drop(self, start: int, keys: Iterable[K]) -> None:
        for key in keys:
            ends = self._ends.get(key)
            if ends is not None and start in ends:
                ends.remove(start)
                if not ends:
                    del self._ends[key]

    def after(self, key: K, time_ms: int) -> Sequence[int]:
        """The ends of the key's sessions that end after a time, in order."""
        ends = self._ends.get(key)
        return () if ends is None or ends[-1] <= time_ms else ends[bisect_right(ends, time_ms) :]

    def take(self, key: K) -> list[int]:
        """The ends of all of the key's sessions, which are forgotten."""
        return self._ends.pop(key, [])


def touched(
    part: TablePartition, key: Hashable, start: int, end: int, closed_at: int | None = None
) -> list[tuple[int, SessionRow]]:
    """(end, row) of the key's sessions that ``[start, end)`` touches and that end after ``closed_at``.

    They are in order, since what is closed ends before all that is open, and what is open is apart.
    """
    least = start if closed_at is None or closed_at < start else closed_at
    found: list[tuple[int, SessionRow]] = []
    for old_end in part.indexed(SessionIndex).after(key, least):
        row = part.get(old_end, key)
        if row is not MISSING:
            if first_start(row) >= end:
                break
            found.append((old_end, row))
    return found


def session_at(
    part: TablePartition, key: Hashable, time_ms: int, get: Callable[[int, Hashable], Any]
) -> SessionRow | None:
    """The newest of the key's sessions that hold a time, as ``get`` has its row."""
    for end in reversed(part.indexed(SessionIndex).after(key, time_ms)):
        row = get(end, key)
        if row is not MISSING and first_start(row) <= time_ms:
            found: SessionRow = row
            return found
    return None
