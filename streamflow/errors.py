"""Every exception of streamflow, under one base class. Errors carry facts, not only prose."""

from __future__ import annotations

import logging
from collections.abc import Mapping


class StreamflowError(Exception):
    """Base of everything that streamflow raises on purpose."""


class ConfigurationError(StreamflowError):
    """The declaration or a setting can't work; the message names it and says what would."""


class TransientError(StreamflowError):
    """Waiting may cure it: an event that an agent raises it for is tried for a while."""


class CircuitOpen(TransientError):
    """A circuit breaker lets nothing through.

    Attributes:
        name: of the circuit breaker.
        retry_after_s: when it may let something through again, at the earliest.
    """

    def __init__(self, name: str, retry_after_s: float) -> None:
        self.name = name
        self.retry_after_s = retry_after_s
        super().__init__(name, retry_after_s)

    def __str__(self) -> str:
        return f"circuit breaker {self.name!r} is open for {self.retry_after_s:.1f} s more"


class LimitReached(TransientError):
    """As many wait for a `Limit` as may.

    Attributes:
        name: of the limit.
        concurrent, waiting: how many are within, and how many wait.
    """

    def __init__(self, name: str, concurrent: int, waiting: int) -> None:
        self.name = name
        self.concurrent = concurrent
        self.waiting = waiting
        super().__init__(name, concurrent, waiting)

    def __str__(self) -> str:
        return f"limit {self.name!r}: {self.concurrent} at work and {self.waiting} waiting, no more may"


class EventTimeout(TransientError, TimeoutError):
    """An agent was at work on an event for longer than its ``timeout_s``; what it did was undone."""

    reason = "timeout"


class TooManyFailures(StreamflowError):
    """An agent gave up on so many events in a row that more of them would say nothing new."""


class WindowError(ConfigurationError):
    """A window's size, step, gap or offset is out of range."""


class DecodeError(StreamflowError):
    """A record's bytes are not what its topic declares.

    Attributes:
        topic, partition, offset: where the record lies (``None`` while not known yet).
        field: path of the offending field, ``"key"``, or ``None`` for the value as a whole.
        reason: one word of `REASONS`, used in dead-letter headers and metric labels.
    """

    REASONS = (
        "not-json",
        "wrong-type",
        "missing-field",
        "bad-timestamp",
        "bad-key",
        "null-value",
        "too-large",
        "missing-type",
        "unknown-type",
        "bad-version",
        "upgrade-failed",
        "agent-failed",
        "refused",
    )

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        topic: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
        field: str | None = None,
    ) -> None:
        self.reason = reason
        self.message = message
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.field = field
        super().__init__(reason, message)

    def __str__(self) -> str:
        where = f"{self.topic}[{self.partition}]@{self.offset}: " if self.topic is not None else ""
        field = f" (field {self.field!r})" if self.field else ""
        return f"{where}{self.reason}: {self.message}{field}"


class EventTypeError(StreamflowError):
    """An event router can't place an event. ``reason`` is the dead letter's word."""

    reason = "unknown-type"


class MissingEventType(EventTypeError):
    """The event has no ``type``, or an empty one."""

    reason = "missing-type"


class UnknownEventType(EventTypeError):
    """No handler is declared for the event's ``type``."""

    reason = "unknown-type"


class ProcessDied(StreamflowError):
    """Each time an event was in flight alone, the process died."""

    reason = "process-died"


class StoreError(StreamflowError):
    """A store can't be opened, read or written: its folder is in use, or the disk is full or broken."""


class RecordRefused(StreamflowError):
    """The broker takes a record neither now nor later; a commit that held it had no effect.

    Attributes:
        reason: the dead letter's word.
        refused: index, among the records given -> why that one is refused; empty where it is not known.
    """

    reason = "refused"

    def __init__(self, message: str) -> None:
        self.refused: Mapping[int, RecordRefused] = {}
        super().__init__(message)

    @staticmethod
    def first_of(refused: Mapping[int, RecordRefused]) -> RecordRefused:
        """The one with the lowest index, which names them all."""
        first = refused[min(refused)]
        first.refused = refused
        return first

    def behind(self, count: int) -> RecordRefused:
        """The same where ``count`` more records stand in front of those that were given."""
        self.refused = {count + index: why for index, why in self.refused.items()}
        return self


class RecordTooLarge(RecordRefused):
    """What is sent does not fit into a record of its topic; raised where it is sent if known there."""

    reason = "too-large"


class RowChanged(StreamflowError):
    """Another event wrote a row while this one changed its value in place: this one is tried again."""


class StaleEvent(StreamflowError):
    """A table write or a send on behalf of an event whose partition this worker no longer has."""


class TransportError(StreamflowError):
    """The broker could not do what was asked; it is safe to try the same again."""


class CommitAborted(TransportError):
    """A checkpoint had no effect at all; its cut goes back under the changes and is tried again."""


class Fenced(StreamflowError):
    """A checkpoint came from an owner that has lost its partitions; it had no effect."""


class LostWrites(StreamflowError):
    """The server has come back without writes that it had acknowledged: memory is ahead of it.

    Nothing repairs that from within; a worker that starts again reads back what is left.
    """


class TopicRecreated(StreamflowError):
    """A topic that is read is not the one any more in which the positions were taken.

    It was deleted and made again, or its log ends before a position. Nothing of it was taken.
    """


class CommitUnknown(StreamflowError):
    """A checkpoint was sent and its outcome is not known: never abort, restore from the log."""


class ConflictingWrites(StreamflowError):
    """Events that wrote one row together could not be told apart: everything is read back from the log."""


def rewrite_log_record(
    record: logging.LogRecord,
    *,
    text: str | None = None,
    level: int | None = None,
    keeps_traceback: bool = True,
) -> None:
    """Says what a record is to say instead. A `logging.Filter` can change one only in place."""
    if text is not None:
        record.msg, record.args = text, ()
    if level is not None:
        record.levelno, record.levelname = level, logging.getLevelName(level)
    if not keeps_traceback:
        record.exc_info = record.exc_text = None
