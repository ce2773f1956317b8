"""How far one consumer has come in one source partition, and what it did with what it took.

The position never moves past an event that is not done: everything before it is done. What is done behind it
is told apart. Both are durable only as part of a checkpoint, together with everything that those
events caused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson

OUTCOMES = ("counted", "late", "filtered", "bad", "failed", "deferred", "dropped")
"""What may become of an event: for each consumer and partition ``in`` is their sum."""


class Restarted(NamedTuple):
    """What a consumer had when it began with another log: counters, and its event time and watermark."""

    counters: dict[str, int]
    event_ms: int | None
    watermark_ms: int | None


class Grown(NamedTuple):
    """The source topic got more partitions: from ``before`` to ``after``, when the position stood here.

    The times are those of then; a partition that is new begins with them, as its keys had them before.
    """

    before: int
    after: int
    position: int
    event_ms: int | None
    watermark_ms: int | None


@dataclass(slots=True)
class Progress:
    """Of one consumer in one source partition.

    position: next offset to be taken (as Kafka's committed offset).
    event_ms: highest event time seen; ``None`` before the first event.
    watermark_ms: the highest of ``event_ms`` and of what idle ticks added; ``None`` likewise.
    closed_to_ms: every window that a watermark up to here closes has been closed and emitted.
    done: (first, last offset) of what is done behind the position, where events end in another order than
        they lie: they are passed over when the position comes there again.
    topic_id: id of the topic in whose log the position is, where brokers tell; ``None``: not known.
    restarted: where the topic was made anew and is read from its beginning: what was counted before, and the
        times of then. What the log that there is now can be held against begins with these.
    logs: topic that holds state of this consumer and partition -> where its log ends at least. What was
        counted stands there: one that ends before has lost it, and by the position it never comes again.
    writers: of a table in Faust's form the consumers that have written to it: their time ends its windows.
    began: the offset that it began at; ``None`` where that was never noted.
    behind: it began behind the app's other consumers, and reads beside them until it has come up to them.
    grown: each growth of the source topic that the state was brought along with, oldest first.
    place: of a source, which reads something else than a log, where it goes on, as JSON; ``None``: not known.
    """

    consumer: str
    topic: str
    partition: int
    position: int = 0
    event_ms: int | None = None
    watermark_ms: int | None = None
    closed_to_ms: int | None = None
    counters: dict[str, int] = field(default_factory=dict)
    done: tuple[tuple[int, int], ...] = ()
    writers: tuple[str, ...] = ()
    topic_id: str | None = None
    restarted: Restarted | None = None
    logs: Mapping[str, int] = field(default_factory=dict)  # never changed in place: copies share it
    began: int | None = None
    behind: bool = False
    grown: tuple[Grown, ...] = ()
    place: object = None  # never changed in place: copies share it
    changed: bool = False

    def catch_up(self) -> None:
        """It has come up to the others: from here on it reads with them."""
        self.behind = False
        self.changed = True

    def take(self, next_offset: int, **outcomes: int) -> None:
        """Moves the position (never back) and adds to the counters, in one step."""
        if next_offset > self.position:
            self.position = next_offset
        self.changed = True
        counters = self.counters
        for name, amount in outcomes.items():
            if amount:
                counters["in"] = counters.get("in", 0) + amount
                counters[name] = counters.get(name, 0) + amount

    def move_to(self, place: object, records: int) -> None:
        """What a source has read up to there, so many records, goes with this checkpoint."""
        self.place = place
        self.take(self.position, counted=records)

    def pass_over(self, done: tuple[tuple[int, int], ...]) -> None:
        """Takes note of what is done behind the position."""
        self.done = done

    def note(self, name: str, amount: int) -> None:
        """Adds to a counter that is no outcome of taking an event."""
        self.counters[name] = self.counters.get(name, 0) + amount
        self.changed = True

    def see(self, time_ms: int) -> None:
        """Raises the event time and the watermark to ``time_ms``, never lowers them."""
        if self.event_ms is None or time_ms > self.event_ms:
            self.event_ms = time_ms
            self.changed = True
        self.raise_watermark(time_ms)

    def passed_ms(self, retain_ms: int) -> int | None:
        """What makes an event late that comes in this partition: its own events, and not its silence.

        What an idle tick assumed counts as far as rows are gone by it, ``retain_ms`` behind their close.
        """
        if self.watermark_ms is None:
            return None
        assumed_ms = self.watermark_ms - retain_ms
        return assumed_ms if self.event_ms is None else max(self.event_ms, assumed_ms)

    def raise_watermark(self, time_ms: int) -> None:
        if self.watermark_ms is None or time_ms > self.watermark_ms:
            self.watermark_ms = time_ms
            self.changed = True

    def close_to(self, watermark_ms: int | None) -> None:
        """Every window that a watermark up to here closes is closed now."""
        self.closed_to_ms = watermark_ms
        self.changed = True

    def copy(self) -> Progress:
        """What it is now, whatever becomes of it."""
        return replace(self, counters=dict(self.counters))

    def note_writers(self, writers: Collection[str]) -> None:
        """These consumers have written to the table."""
        if not set(writers).issubset(self.writers):
            self.writers = tuple(sorted(writers))
            self.changed = True

    def cut(self) -> Progress | None:
        """A copy for the checkpoint that is being cut, where anything has changed since the newest one."""
        if not self.changed:
            return None
        self.changed = False
        return self.copy()

    def note_log(self, topic: str, end: int, *, wrote: bool) -> None:
        """A log of state ends there or behind. ``wrote``: this checkpoint itself writes to it.

        Else the note is written with the next change, so that an idle app writes nothing.
        """
        if end > self.logs.get(topic, 0):
            self.logs = {**self.logs, topic: end}
        if wrote:
            self.changed = True

    def grow(self, before: int, after: int) -> Progress:
        """It, with the note that the source topic has grown; itself where that is noted."""
        if any(one.before == before and one.after == after for one in self.grown):
            return self
        grown = Grown(before, after, self.position, self.event_ms, self.watermark_ms)
        return replace(self, grown=(*self.grown, grown))

    def branch(self, partition: int, before: int, after: int, position: int) -> Progress:
        """That of a new partition, whose keys lay in this one: it begins with its times, at ``position``.

        So no window that was closed here is opened there, nor closed a second time.
        """
        grown = Grown(before, after, position, self.event_ms, self.watermark_ms)
        return Progress(
            self.consumer,
            self.topic,
            partition,
            position=position,
            event_ms=self.event_ms,
            watermark_ms=self.watermark_ms,
            closed_to_ms=self.closed_to_ms,
            writers=self.writers,
            topic_id=self.topic_id,
            began=position if self.topic else None,
            grown=(grown,),
        )

    def accept_log(self, topic: str, end: int) -> None:
        """It ends there, and what it had behind is given up."""
        self.logs = {**self.logs, topic: end}
        self.changed = True

    def found_in(self, topic_id: str) -> None:
        """The position is in the log of the topic with this id; written down with the next change."""
        self.topic_id = topic_id

    def restart(self, position: int, topic_id: str | None, *, whole: bool) -> None:
        """Goes on in another log, ``whole``: from its beginning on. Counters and times go on as they are.

        Its records are others than those that were counted, so what was done behind the position means
        nothing any more. All in one record of the progress: after a kill it is either log, never half of it.
        """
        self.position, self.done, self.topic_id = position, (), topic_id
        if whole:
            self.restarted = Restarted(dict(self.counters), self.event_ms, self.watermark_ms)
        self.changed = True

    def record_key(self) -> bytes:
        return orjson.dumps([self.consumer, self.topic, self.partition])

    def record_value(self) -> bytes:
        data: dict[str, Any] = {
            "position": self.position,
            "event_ms": self.event_ms,
            "watermark_ms": self.watermark_ms,
            "closed_to_ms": self.closed_to_ms,
            "counters": self.counters,
        }
        if self.done:
            data["done"] = self.done
        if self.writers:
            data["writers"] = self.writers
        if self.topic_id is not None:
            data["topic_id"] = self.topic_id
        if self.restarted is not None:
            data["restarted"] = list(self.restarted)
        if self.logs:
            data["logs"] = self.logs
        if self.began is not None:
            data["began"] = self.began
        if self.behind:
            data["behind"] = True
        if self.grown:
            data["grown"] = [list(one) for one in self.grown]
        if self.place is not None:
            data["place"] = self.place
        return orjson.dumps(data)


ProgressKey = tuple[str, str, int]
"""(consumer, topic, partition)"""


def progress_from_record(key: bytes, value: bytes) -> Progress:
    """The inverse of `Progress.record_key` and `record_value`."""
    consumer, topic, partition = orjson.loads(key)
    data: dict[str, Any] = orjson.loads(value)
    return Progress(
        consumer,
        topic,
        partition,
        position=data["position"],
        event_ms=data["event_ms"],
        watermark_ms=data["watermark_ms"],
        closed_to_ms=data["closed_to_ms"],
        counters=data["counters"],
        done=tuple((first, last) for first, last in data.get("done", ())),
        writers=tuple(data.get("writers", ())),
        topic_id=data.get("topic_id"),
        restarted=Restarted(*data["restarted"]) if "restarted" in data else None,
        logs=data.get("logs", {}),
        began=data.get("began"),
        behind=data.get("behind", False),
        grown=tuple(Grown(*one) for one in data.get("grown", ())),
        place=data.get("place"),
    )
