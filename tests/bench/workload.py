"""The events that every contestant counts, and the counts that are right.

Nothing is random but the seed is fixed: the same options always give the same bytes.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import hashlib
import random
from collections.abc import Iterator, Mapping

WINDOW_MS = 10_000
EVENTS_PER_ROW = 10
PARTITIONS = 4
START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
SEED = 20_260_101
TYPES = ("click", "view", "purchase", "login", "logout")

# (group, window start in ms) -> count; the group is the user, the type, or "" where there is none
Rows = Mapping[tuple[str, int], int]


@dataclasses.dataclass(frozen=True)
class Record:
    """One event as it lies in the topic."""

    partition: int
    key: bytes
    value: bytes
    timestamp_ms: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a right count looks like, short enough to compare."""

    rows: int
    total: int
    digest: str


def fnv1a(key: bytes, partitions: int) -> int:
    """FNV-1a-32 modulo partitions. Written out here so that the bench does not lean on what it measures."""
    value = 0x811C9DC5
    for byte in key:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value % partitions


class Workload:
    """``events`` events of ``keys`` users; a window of 10 s holds about 10 events for each user."""

    def __init__(self, events: int, keys: int) -> None:
        self.events = events
        self.keys = keys

    def records(self) -> Iterator[Record]:
        """Every event, in order of event time."""
        users = [f"user-{number:07d}" for number in range(self.keys)]
        # user -> (partition, key)
        homes = {user: (fnv1a(user.encode(), PARTITIONS), user.encode()) for user in users}
        chance = random.Random(SEED)
        second, prefix = -1, ""
        for number in range(self.events):
            timestamp_ms = self._timestamp_ms(number)
            if timestamp_ms // 1_000 != second:
                second = timestamp_ms // 1_000
                prefix = datetime.datetime.fromtimestamp(second, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
            user = users[int(chance.random() * self.keys)]
            kind = TYPES[int(chance.random() * len(TYPES))]
            value = (
                f'{{"id":"evt-{number:012d}","type":"{kind}",'
                f'"timestamp":"{prefix}.{timestamp_ms % 1_000:03d}Z",'
                f'"data":{{"user":"{user}","amount":{chance.random() * 100:.2f}}}}}'
            )
            partition, key = homes[user]
            yield Record(partition, key, value.encode(), timestamp_ms)

    def _timestamp_ms(self, number: int) -> int:
        return START_MS + number * WINDOW_MS // (EVENTS_PER_ROW * self.keys)


class Expected:
    """Counts the events that were filled in, in each of the ways in which contestants group them."""

    def __init__(self) -> None:
        # grouping -> rows
        self._counts: dict[str, collections.Counter[tuple[str, int]]] = {
            "key": collections.Counter(),
            "type": collections.Counter(),
            "window": collections.Counter(),
        }

    def add(self, record: Record) -> None:
        start_ms = record.timestamp_ms // WINDOW_MS * WINDOW_MS
        kind = record.value.split(b'"type":"', 1)[1].split(b'"', 1)[0].decode()
        self._counts["key"][record.key.decode(), start_ms] += 1
        self._counts["type"][kind, start_ms] += 1
        self._counts["window"]["", start_ms] += 1

    def answer(self, grouping: str) -> Answer:
        """``grouping``: key, type or window."""
        return answer(self._counts[grouping])


def answer(rows: Rows) -> Answer:
    """The digest is SHA-256 over the sorted lines ``group TAB window start in ms TAB count``."""
    lines = sorted(f"{group}\t{start_ms}\t{count}\n" for (group, start_ms), count in rows.items())
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Answer(len(rows), sum(rows.values()), digest)
