"""The numbered events of the fault tests. Everything about an event follows from its number."""

from __future__ import annotations

import json
from typing import NamedTuple

from streamflow.partitioner import fnv1a

PARTITIONS = 4
KEYS = 60
GROUPS = 7
WINDOW_MS = 10_000
T0_MS = 1_760_000_000_000  # a multiple of the window
STEP_MS = 5  # event time from one event to the next
CLOSER_MS = 1_000_000_000  # so much later are the events that close all windows


class Event(NamedTuple):
    """``seq`` counts the events of its key, from 0; an event that closes windows has -1."""

    key: str
    seq: int
    amount: int
    group: str
    time_ms: int

    def encoded(self) -> bytes:
        """The record's value."""
        return json.dumps(self._asdict()).encode()


def event(number: int) -> Event:
    return Event(
        key=f"k{number % KEYS}",
        seq=number // KEYS,
        amount=1 + number * 31 % 97,
        group=f"g{number * 7 // 3 % GROUPS}",
        time_ms=T0_MS + number * STEP_MS,
    )


def partition_of(key: str) -> int:
    return fnv1a(key.encode(), PARTITIONS)


def closer(partition: int) -> Event:
    """An event that closes every window before it, as far as this partition can."""
    key = next(f"k{n}" for n in range(KEYS) if partition_of(f"k{n}") == partition)
    return Event(key, -1, 0, "closer", T0_MS + CLOSER_MS)


def window_start(time_ms: int) -> int:
    return time_ms - time_ms % WINDOW_MS
