"""Ends of open sessions, by key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class SessionEnds(dict[Any, list[int]]):
    """Group -> ends of its sessions, in order."""

    def drop(self, end: int, groups: Iterable[Any]) -> None:
        """Forgets sessions that end together."""
        for group in groups:
            ends = self.get(group)
            if ends is not None and end in ends:
                ends.remove(end)
                if not ends:
                    del self[group]


class _Ends(dict[Any, list[int]]):
    """Key -> ends of its sessions, in order. Some may be of sessions that are no more: ask for the row.

    An event that is undone brings back what it had made part of another session, so ends are forgotten
    only with the cut that takes their rows away.
    """

    def drop(self, end: int, keys: Iterable[Any]) -> None:
        for key in keys:
            ends = self.get(key)
            if ends is not None and end in ends:
                ends.remove(end)
                if not ends:
                    del self[key]
