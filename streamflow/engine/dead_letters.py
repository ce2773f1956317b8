"""Events set aside with the reason: key, value and headers as they were, the facts in added headers."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from streamflow.clock import rfc3339
from streamflow.codecs.chunk import Chunk
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.retry_topics import waiting
from streamflow.errors import DecodeError
from streamflow.metrics import Metrics
from streamflow.processing.agent import AgentRunner
from streamflow.transports.base import Batch, Headers, Record

SUFFIX = "-dead-letters"
EXTRA_BYTES = 64 * 1024
"""How much larger than its source's a record of a dead-letter topic may be: room for the added headers."""
ADDED = ("source-topic", "source-partition", "source-offset", "reason", "error")
"""The headers that are added, behind the event's own and in this order."""
MORE = ("consumer", "field", "time", "attempts", "worker", "agent", "traceback", "replay")
"""Those that follow, as far as there is something to say."""
CUT = "cut"
"""The last header of a letter that did not fit as a whole: how much there was."""
FIRST_BYTES = 16 * 1024
"""What is kept of the value of a letter that does not fit"""
LEAST_BYTES = 256
"""What is kept of anything where that does not fit either"""
_ERROR_CHARACTERS_MAX = 2_000
_TRACEBACK_CHARACTERS_MAX = 8_000


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
    more: Mapping[str, str] | None = None,
) -> Record:
    """The record that sets one aside.

    ``source`` is (topic, partition, offset); ``more``: what there is to say of `MORE`.
    """
    topic, partition, offset = source
    added = [
        ("source-topic", topic.encode()),
        ("source-partition", b"%d" % partition),
        ("source-offset", b"%d" % offset),
        ("reason", reason.encode()),
        ("error", error[:_ERROR_CHARACTERS_MAX].encode(errors="replace")),
    ]
    said = {} if more is None else more
    added += [(name, said[name].encode(errors="replace")) for name in MORE if name in said]
    return Record(target, partition % partitions, key, value, (*headers, *added))


def is_letter(record: Record) -> bool:
    return any(name == ADDED[0] for name, _ in record.headers)


def place_of(letter: Record) -> str:
    """Where its event lies."""
    facts = dict(letter.headers)  # of several the newest: the one that was added here
    topic, partition, offset = ((facts[name] or b"").decode() for name in ADDED[:3])
    return f"{topic}[{partition}]@{offset}"


def shortened(letter: Record) -> Record | None:
    """A letter that did not fit, with less in it: the first bytes of its value; then little of anything.

    None when there is nothing left to leave out.
    """
    key, value, headers = letter.key, letter.value, tuple(letter.headers)
    if headers[-1][0] != CUT:
        sizes = f"value of {len(value or b'')} bytes, key of {len(key or b'')} bytes"
        kept = min(FIRST_BYTES, len(value or b"") // 2)
        return letter._replace(value=value and value[:kept], headers=(*headers, (CUT, sizes.encode())))
    begin = max(index for index, (name, _) in enumerate(headers) if name == ADDED[0])
    least = letter._replace(
        key=key and key[:LEAST_BYTES],
        value=value and value[:LEAST_BYTES],
        headers=tuple((name, fact and fact[:LEAST_BYTES]) for name, fact in headers[begin:]),
    )
    return None if least == letter else least


def sentence(error: BaseException) -> str:
    """What the ``error`` header says of an exception."""
    if isinstance(error, DecodeError):
        return error.message
    return f"{type(error).__name__}: {error}"


def headers_at(headers: Sequence[Headers] | None, index: int) -> Headers:
    return () if headers is None else headers[index]


logger = logging.getLogger(__name__)


class DeadLetterQueue:
    """Where dispatch and agents set events aside: the dead letters of the next checkpoint.

    ``partitions`` is dead-letter topic -> number of partitions, ``targets`` consumer or topic -> its topic.
    Events of ``retry_topics`` are told by their place in the source topic, with the headers that they had.
    """

    def __init__(
        self,
        active: Callable[[], ActiveAssignment | None],
        partitions: Callable[[str], int],
        target: Callable[[str], str],
        metrics: Metrics,
        now_ms: Callable[[], int],
        retry_topics: Container[str] = (),
    ) -> None:
        self._active = active
        self._retry_topics = retry_topics
        self._partitions = partitions
        self._target = target
        self._metrics = metrics
        self._now_ms = now_ms
        self._worker = ""
        self._module = "MODULE"

    def sent_by(self, worker: str) -> None:
        """From now on letters tell the address of the worker that sets them aside."""
        self._worker = worker

    def of_app(self, module: str) -> None:
        """From now on the command that they name is for this app."""
        self._module = module

    def add_bad(self, at: Chunk | Batch, index: int, error: DecodeError, consumer: str | None) -> None:
        """A record that can't be decoded (``consumer`` is ``None``), or that one consumer can't use."""
        target = self._target(at.topic)
        if not self._metrics.dead_letters_total.labels(target, error.reason).value:
            place = f"{at.topic}[{at.partition}]@{at.offsets[index]}"
            logger.warning(
                "bad input: %s goes to %s: %s (said once for each topic and reason)", place, target, error
            )
        self.add(at, index, error.reason, error, consumer, target)

    def note_scattered(self, table: str, partition: int, key: Any) -> None:
        counter = self._metrics.scattered_writes_total.labels(table)
        if not counter.value:
            logger.warning(
                "table %s: key %r was written in partition %d, but its hash belongs to another: queries "
                "for it answer 409; write keys of the event's own partition, or declare an aggregate",
                table,
                key,
                partition,
            )
        counter.inc()

    def give_up(self, agent: AgentRunner, chunk: Chunk, index: int, exc: BaseException) -> None:
        """An agent sets an event aside. Raises ``exc`` where it has no topic for that."""
        reason = getattr(exc, "reason", "agent-failed")
        place = f"{chunk.topic}[{chunk.partition}]@{chunk.offsets[index]}"
        logger.warning("agent %s gave up on %s: %s", agent.spec.name, place, exc, exc_info=exc)
        if agent.spec.dead_letter is None:
            raise exc
        self.add(chunk, index, reason, exc, agent, agent.spec.dead_letter)

    def add(
        self,
        at: Chunk | Batch,
        index: int,
        reason: str,
        error: BaseException,
        consumer: AgentRunner | str | None,
        target: str,
    ) -> None:
        active = self._active()
        assert active is not None
        active.dead_letters.append(self.letter(at, index, reason, error, consumer, target))

    def letter(
        self,
        at: Chunk | Batch,
        index: int,
        reason: str,
        error: BaseException,
        consumer: AgentRunner | str | None,
        target: str,
    ) -> Record:
        """The dead letter of an event, counted; whoever asks for it writes it.

        ``consumer`` gave up on it: an agent, or another by its name, or nobody.
        """
        if isinstance(at, Chunk):
            key, value = at.raw_keys[index], at.raw_values[index]
        else:
            key, value = at.keys[index], at.values[index]
        place = source = (at.topic, at.partition, at.offsets[index])
        headers = headers_at(at.headers, index)
        waited = waiting(headers) if at.topic in self._retry_topics else None
        if waited is not None:
            source, headers = waited.source, waited.headers
        self._metrics.dead_letters_total.labels(target, reason).inc()
        logger.debug("set aside %s[%d]@%d: %s", *source, error)
        return dead_letter(
            target,
            self._partitions(target),
            source=source,
            key=key,
            value=value,
            headers=headers,
            reason=reason,
            error=sentence(error),
            more=self._more(source, error, consumer, place, 0 if waited is None else waited.attempts),
        )

    def _more(
        self,
        source: tuple[str, int, int],
        error: BaseException,
        consumer: AgentRunner | str | None,
        place: tuple[str, int, int],
        before: int,
    ) -> dict[str, str]:
        """``place``: where it was tried last, after ``before`` attempts elsewhere."""
        topic, partition, offset = source
        more = {
            "time": rfc3339(self._now_ms()),
            "replay": f"streamflow dead-letters -A {self._module} replay {topic}:{partition}:{offset}",
        }
        if self._worker:
            more["worker"] = self._worker
        if isinstance(error, DecodeError) and error.field:
            more["field"] = error.field
        if isinstance(consumer, str):
            more["consumer"] = consumer
        elif consumer is not None:
            more["consumer"] = more["agent"] = consumer.spec.name
            attempts = before + consumer.failing().get(place, 0)
            if attempts:
                more["attempts"] = str(attempts)
            if error.__traceback__ is not None:
                # The end: what raised stands there.
                text = "".join(traceback.format_exception(error, limit=-20))
                more["traceback"] = text[-_TRACEBACK_CHARACTERS_MAX:]
        return more
