"""Where the records of an app's logs lie when its source topic has more partitions.

The new number is a multiple of the old one, so what lies in partition p goes to p or to a new partition q
with ``q mod before = p``, and to no other. Nothing of two old partitions ever meets in a new one.

A record is written to its new place as it is; only a late event says in addition whose offset it has. It gets
a number below zero, so that what comes late in the new partition stands behind it in the ring, and takes its
place last. How many came is told where they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from streamflow.aggregates.late_events import EVENTS_MAX, LateEvent
from streamflow.aggregates.shuffle.partial import PartialSender
from streamflow.codecs import group_key, json_bytes, json_value
from streamflow.errors import ConfigurationError
from streamflow.state.changelog import RowCodec


class Move(NamedTuple):
    """A record at its new place. ``gone``: the key of the one that it takes the place of, if any."""

    partition: int
    key: bytes
    value: bytes
    gone: bytes | None


Moves = Callable[[int, Mapping[bytes, bytes]], Iterable[Move]]
"""(partition, its records) -> those that lie elsewhere, or elsewhere as well, from now on"""


class RowPlaces:
    """Where the rows of one table lie that go with the record key of their events.

    ``raw_key`` gives that key, ``place`` is (key, number of partitions) -> partition. A row that lies
    elsewhere than ``before`` partitions place it stays if ``scattered_stay``; else ConfigurationError is
    raised for it.
    """

    def __init__(
        self,
        table: str,
        raw_key: Callable[[Any], bytes | None],
        place: Callable[[bytes, int], int],
        *,
        before: int,
        after: int,
        scattered_stay: bool,
    ) -> None:
        self._table = table
        self._raw_key = raw_key
        self._place = place
        self._before = before
        self._after = after
        self._scattered_stay = scattered_stay

    def of(self, partition: int, key: Any) -> int:
        """The partition of a row that lies in ``partition`` now. Raises ConfigurationError."""
        raw = self._raw_key(key)
        if raw is not None and self._place(raw, self._before) == partition:
            return self._place(raw, self._after)
        if self._scattered_stay:
            return partition
        raise ConfigurationError(
            f"table {self._table!r}: the row of key {key!r} lies in partition {partition}, and by the "
            f"setting partitioner its key lies elsewhere among {self._before}: so whoever writes the topic "
            "places keys otherwise, or the agent writes rows of other keys than its events'. Where such a "
            "row goes on can't be told"
        )


def moved_rows(codec: RowCodec, places: RowPlaces) -> Moves:
    """Of a changelog whose rows go with their keys."""

    def moves(partition: int, records: Mapping[bytes, bytes]) -> Iterator[Move]:
        for key, value in records.items():
            to = places.of(partition, codec.decode_key(key)[1])
            if to != partition:
                yield Move(to, key, value, key)

    return moves


def moved_late_events(codec: RowCodec, places: RowPlaces) -> Moves:
    """Of the late-event stores of such a table: events and corrections go with their rows."""

    def moves(partition: int, records: Mapping[bytes, bytes]) -> Iterator[Move]:
        came, *_ = orjson.loads(records.get(b'"state"', b"[0]"))  # this run changes nothing of it
        for key, value in records.items():
            name = json_value(key)
            if isinstance(name, str):
                continue  # how many came: they came here
            if isinstance(name, list):
                to = places.of(partition, codec.decode_key(name[1].encode())[1])
                into, moved = key, value
            else:
                event = LateEvent.load(json_value(value))
                to = places.of(partition, codec.decode_key(event.rows[0].encode())[1])
                source = partition if event.partition is None else event.partition
                event = replace(event, number=event.number - came, partition=source)
                into, moved = json_bytes(event.number % EVENTS_MAX), json_bytes(event.dump())
            if to != partition:
                yield Move(to, into, moved, key)

    return moves


def moved_partials(sender: PartialSender, before: int) -> Moves:
    """Of a shuffle. ``sender`` places by the new number. What was closed, and how far the source partitions
    are, is said in the new partitions as well."""

    def moves(partition: int, records: Mapping[bytes, bytes]) -> Iterator[Move]:
        for key, value in records.items():
            kind, *rest = json_value(key)
            if kind in ("share", "told"):
                group, start = rest[-2:]
                to = sender.target(start, group_key(group))
                if to % before != partition:
                    raise ConfigurationError(
                        f"a record of the shuffle of {sender.spec.name!r} lies in partition {partition} of "
                        f"{before}, and its row in {to} of {sender.sources}: this is no place of it"
                    )
                if to != partition:
                    yield Move(to, key, value, key)
            else:
                for to in range(partition + before, sender.sources, before):
                    yield Move(to, key, value, None)

    return moves
