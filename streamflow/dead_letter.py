"""Events set aside with the reason: key, value and headers as they were, the facts in added headers."""

from __future__ import annotations

from collections.abc import Sequence

from streamflow.errors import DecodeError
from streamflow.transports.base import Headers, Record

SUFFIX = "-dead-letters"
EXTRA_BYTES = 64 * 1024
"""How much larger than the source's a record of a dead-letter topic may be: room for the added headers."""
ADDED = ("source-topic", "source-partition", "source-offset", "reason", "error", "consumer")
"""The headers that are added, behind the event's own and in this order."""
_ERROR_CHARACTERS_MAX = 2_000


def dead_letter_topic(topic: str) -> str:
    """The default topic for what ``topic`` can't place."""
    return topic + SUFFIX


def dead_letter(
    target: str,
    partitions: int,
    *,
    source: tuple[str, int, int],
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
    reason: str,
    error: str,
    consumer: str | None = None,
) -> Record:
    """The record that sets one aside.

    ``source`` is (topic, partition, offset); ``consumer`` is the one that gave up on it, if one did.
    """
    topic, partition, offset = source
    added = [
        ("source-topic", topic.encode()),
        ("source-partition", b"%d" % partition),
        ("source-offset", b"%d" % offset),
        ("reason", reason.encode()),
        ("error", error[:_ERROR_CHARACTERS_MAX].encode(errors="replace")),
    ]
    if consumer is not None:
        added.append(("consumer", consumer.encode()))
    return Record(target, partition % partitions, key, value, (*headers, *added))


def sentence(error: BaseException) -> str:
    """What the ``error`` header says of an exception."""
    if isinstance(error, DecodeError):
        return error.message
    return f"{type(error).__name__}: {error}"


def headers_at(headers: Sequence[Headers] | None, index: int) -> Headers:
    return () if headers is None else headers[index]
