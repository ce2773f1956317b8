"""HOT PATH. Fetched bytes into the columns of a `Batch`, without an object of aiokafka's for each record.

aiokafka's consumer makes a ConsumerRecord of 11 fields for every record; that alone costs more than
all the rest of reading. Its compiled parser is as fast as one could wish, so this module keeps its
Fetcher's background work (what to ask which broker when) and replaces what happens with an answer.
It does so for our own consumers alone: stock consumers in the same process are not touched.

`supported` says whether the installed aiokafka is the one whose inside this was written for; where it
is not, `fallback_fetcher` does the same by public methods.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import aiokafka
from aiokafka.consumer.fetcher import Fetcher, FetchError
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition as KafkaPartition

from streamflow.clock import Clock
from streamflow.errors import TransportError
from streamflow.transports.base import Batch, Columns
from streamflow.transports.kafka import protocol
from streamflow.transports.kafka.connection import meaning
from streamflow.transports.kafka.leader_check import newest_end
from streamflow.transports.kafka.topic_ids import ANOTHER_TOPIC, FetchById, fetched_rows, id_bytes

log = logging.getLogger(__name__)

OFFSET_OUT_OF_RANGE = 1
TOPIC_AUTHORIZATION_FAILED = 29
EARLIEST = -2
# One `take` stops at so many fetched bytes: parsing blocks the event loop, the rest comes with the next.
TAKE_BYTES_MAX = 1 << 20
# How long what is not taken yet holds back the next fetch from its broker. Without that, a fetch of
# silent partitions alone would be under way, and waited for, when the busy one is taken.
HOLD_MS = 100.0

# What this module uses of the Fetcher, beside the methods that it overrides.
USED = (
    "_create_fetch_waiter",
    "_fetch_requests_routine",
    "_get_actions_per_node",
    "_notify",
    "_proc_offset_request",
    "_set_error",
    "close",
)

_headers_of = attrgetter("headers")


def supported() -> bool:
    """Whether aiokafka is the version, and has the methods, that `ColumnFetcher` builds on."""
    return aiokafka.__version__.startswith("0.14.") and all(hasattr(Fetcher, name) for name in USED)


def read_columns(data: bytes, aborted: Sequence[tuple[int, int]], offset: int) -> tuple[Columns, int]:
    """The committed records at or after ``offset`` in the record batches ``data``, and where reading goes on.

    ``aborted``: (producer id, first offset) of the aborted transactions that the broker named with
    them. Raises TransportError for a batch whose checksum is wrong.
    """
    records = MemoryRecords(data)
    found: list[Any] = []
    waiting = sorted(aborted, key=lambda transaction: transaction[1], reverse=True)
    aborting: set[int] = set()  # producers inside a transaction that ends in an abort
    next_offset = offset
    while records.has_next():
        batch = records.next_batch()
        if not batch.validate_crc():
            raise TransportError(f"the checksum of the batch at offset {batch.base_offset} is wrong")
        producer_id = batch.producer_id
        if producer_id is not None:
            while waiting and waiting[-1][1] <= batch.base_offset:
                aborting.add(waiting.pop()[0])
        if batch.is_control_batch:
            if producer_id in aborting and ControlRecord.parse(next(batch).key) == ABORT_MARKER:
                aborting.discard(producer_id)
        elif not (producer_id in aborting and batch.is_transactional):
            if batch.base_offset < next_offset:
                # The broker returns whole batches: the first may begin before what was asked for.
                found += [record for record in batch if record.offset >= next_offset]
            else:
                found += batch
        # The batch's own end: compaction may have taken its last record.
        next_offset = batch.next_offset
    if not found:
        return Columns((), [], [], [], None), next_offset
    first, last = found[0].offset, found[-1].offset
    columns = Columns(
        # Without gaps, as in most topics, a range says it all.
        range(first, last + 1) if last - first == len(found) - 1 else [record.offset for record in found],
        [record.key for record in found],
        [record.value for record in found],
        [record.timestamp for record in found],
        [record.headers for record in found] if any(map(_headers_of, found)) else None,
    )
    return columns, next_offset


class Fetched:
    """The answer for one partition, not parsed yet. Stands where the Fetcher keeps its FetchResult."""

    __slots__ = ("_clock", "_hold_until_ms", "aborted", "assignment", "data", "offset", "state")

    def __init__(
        self,
        data: bytes,
        aborted: Sequence[tuple[int, int]],
        offset: int,
        assignment: Any,
        state: Any,
        clock: Clock,
    ) -> None:
        self.data = data
        self.aborted = aborted
        self.offset = offset
        self.assignment = assignment
        self.state = state
        self._clock = clock
        self._hold_until_ms = clock.monotonic_ms() + HOLD_MS

    def calculate_backoff(self) -> float:
        """Seconds for which this still holds back the next fetch from its broker."""
        if self.state.paused:
            return 0.0
        return max(0.0, self._hold_until_ms - self._clock.monotonic_ms()) / 1_000.0

    def current(self) -> bool:
        """Whether the partition is still ours and still stands where this begins."""
        state = self.state
        return bool(self.assignment.active and state.has_valid_position and state.position == self.offset)


class ColumnFetcher(Fetcher):  # type: ignore[misc]  # aiokafka ships no types
    """aiokafka's Fetcher with batches of columns instead of records.

    Beside the speed it differs in four things: it reports a moved end even where no record came, it
    keeps what a paused partition has fetched, it goes on at the earliest offset, loudly, where
    the offset asked for is gone, and it insists on topic ids (`read_only`).

    ``doubted``: partition -> position, where the broker has another log than that in which the position was
    taken, as far as one answer can tell. Nothing of it is taken; whoever insists on ids asks and decides.
    """

    def __init__(self, *arguments: Any, clock: Clock, **options: Any) -> None:
        self._clock = clock
        # partition -> (next offset, end offset, is a transaction open?) as last reported
        self._reported: dict[KafkaPartition, tuple[int, int, bool]] = {}
        self._gone: dict[KafkaPartition, int] = {}  # offsets that were passed over, not told yet
        self._ids: dict[str, bytes] | None = None  # of the topics that are insisted on; None: on none
        self.doubted: dict[KafkaPartition, int] = {}
        super().__init__(*arguments, **options)

    async def batches(self, wait_ms: float) -> list[Batch]:
        """What has been fetched, or an empty list after ``wait_ms``. Raises TransportError."""
        end_ms = self._clock.monotonic_ms() + wait_ms
        while True:
            if self._fetch_task.done() and not self._closed:
                raise TransportError("reading has ended by an error of the client; it is in the log")
            if not self._subscriptions.reassignment_in_progress:
                batches = self._take()
                if batches or self.doubted:
                    return batches
            left_ms = end_ms - self._clock.monotonic_ms()
            if left_ms <= 0 or self._closed:
                return []
            waiter = self._create_fetch_waiter()
            try:
                await asyncio.wait(
                    [waiter, self._fetch_task], timeout=left_ms / 1_000.0, return_when=asyncio.FIRST_COMPLETED
                )
                if waiter.done():
                    waiter.result()
            except KafkaError as exc:
                raise meaning("reading", exc) from exc
            finally:
                waiter.cancel()

    def wake(self) -> None:
        """Looks again: what a resumed partition has fetched before may be taken now."""
        for waiter in self._fetch_waiters:
            self._notify(waiter)

    def read_only(self, ids: Mapping[str, str]) -> None:
        """From now on takes nothing of these topics unless they have these ids."""
        before = self._ids or {}
        self._ids = {**before, **{topic: id_bytes(text) for topic, text in ids.items()}}
        self.doubted.clear()
        for tp in list(self._records):
            if self._ids.get(tp.topic) != before.get(tp.topic):
                del self._records[tp]
                self._notify(self._wait_consume_future)

    def forget(self, tp: KafkaPartition) -> None:
        """After a seek: the end is to be reported again, even if it has not moved."""
        self._reported.pop(tp, None)

    def _take(self) -> list[Batch]:
        batches: list[Batch] = []
        size_bytes = 0
        for tp, fetched in list(self._records.items()):
            if isinstance(fetched, FetchError):
                if batches:
                    break  # What was taken must be returned; the error waits for the next call.
                del self._records[tp]
                self._notify(self._wait_consume_future)
                _raise(tp, fetched)
            if not fetched.current():
                del self._records[tp]
                self._notify(self._wait_consume_future)
            elif not fetched.state.paused:
                del self._records[tp]
                self._notify(self._wait_consume_future)
                try:
                    batches.append(self._read(tp, fetched))
                except Exception as exc:
                    if not batches:
                        raise TransportError(
                            f"reading {tp.topic}[{tp.partition}] at {fetched.offset}: {exc}"
                        ) from exc
                    break  # It is fetched again, and fails as the first of the next call.
                size_bytes += len(fetched.data)
                if size_bytes >= TAKE_BYTES_MAX:
                    break
        return batches

    def _read(self, tp: KafkaPartition, fetched: Fetched) -> Batch:
        columns, next_offset = read_columns(fetched.data, fetched.aborted, fetched.offset)
        end_offset = fetched.state.lso
        fetched.state.consumed_to(next_offset)
        gone = self._gone.pop(tp, 0)
        undecided = fetched.state.highwater > end_offset
        self._reported[tp] = (next_offset, end_offset, undecided)
        return Batch(
            tp.topic, tp.partition, *columns, next_offset, end_offset, gone=gone, undecided=undecided
        )

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> bool:
        """One fetch and what its answer holds; returns whether there is something to take."""
        ids = self._ids or {}
        named = any(topic not in ids for topic, _ in request.topics)
        try:
            response = await self._client.send(node_id, request if named else FetchById(request, ids))
        except KafkaError:  # the client tells of a broker that does not answer
            await self._clock.sleep_ms(self._retry_backoff * 1_000.0)
            return False
        except asyncio.CancelledError:
            return False  # Closing, or the assignment is gone; as in the class above.
        if not assignment.active or ids != (self._ids or {}):
            return False  # Of an assignment that is gone, or of a log that is.
        asked = {(topic, row[0]): row[1] for topic, rows in request.topics for row in rows}
        something = False
        for topic, rows in fetched_rows(response, ids):
            for partition, code, high_watermark, *rest in rows:
                tp = KafkaPartition(topic, partition)
                state = assignment.state_value(tp)
                offset = asked[topic, partition]
                if not state.has_valid_position or state.position != offset:
                    continue  # There was a seek meanwhile.
                if code != protocol.NONE:
                    something |= await self._refused(assignment, node_id, tp, offset, code)
                    continue
                # rest (versions 5 to 11): last stable offset, log start, aborted, ..., the bytes
                end_offset, aborted, data = rest[0], rest[2] or (), rest[-1] or b""
                state.highwater, state.lso = high_watermark, end_offset
                if data or self._reported.get(tp) != (offset, end_offset, high_watermark > end_offset):
                    self._records[tp] = Fetched(data, aborted, offset, assignment, state, self._clock)
                    something = True
        return something

    async def _refused(
        self, assignment: Any, node_id: int, tp: KafkaPartition, offset: int, code: int
    ) -> bool:
        """A partition that the broker did not serve; returns whether the reader must be told."""
        if code in protocol.LEADER_MOVED:
            self._client.force_metadata_update()
        elif code in ANOTHER_TOPIC:
            return await self._doubt(tp, offset)
        elif code == OFFSET_OUT_OF_RANGE:
            return await self._out_of_range(assignment, node_id, tp, offset)
        elif code == TOPIC_AUTHORIZATION_FAILED:
            self._set_error(tp, TopicAuthorizationFailedError(tp.topic))
            return True
        else:
            log.warning("Fetching %s[%d] at %d: %s", *tp, offset, protocol.error_name(code))
        return False

    async def _doubt(self, tp: KafkaPartition, offset: int) -> bool:
        """The broker may have another log by this name, or has not heard yet of ours."""
        self.doubted[tp] = offset
        self._client.force_metadata_update()
        await self._clock.sleep_ms(self._retry_backoff * 1_000.0)
        return True

    async def _out_of_range(self, assignment: Any, node_id: int, tp: KafkaPartition, offset: int) -> bool:
        """The partition has no such offset: trimmed, or not there yet. Returns whether the reader is told."""
        try:
            end = await newest_end(self._client, node_id, (tp.topic, tp.partition))
            found = await self._proc_offset_request(node_id, {tp.topic: [(tp.partition, EARLIEST)]})
        except KafkaError as exc:
            log.warning("Asking %s[%d] for its offsets failed: %r", *tp, exc)
            return False
        except asyncio.CancelledError:
            return False
        state = assignment.state_value(tp)
        if not assignment.active or not state.has_valid_position or state.position != offset:
            return False
        if end is not None and offset > end and self._ids is not None:
            return await self._doubt(tp, offset)
        earliest = found[tp][0]
        if end is None or earliest <= offset <= end:
            # It does not lead the partition any more, or has caught up meanwhile.
            log.warning(
                "%s[%d]: broker %s says that offset %d is out of range, and is not the one to say so",
                *tp,
                node_id,
                offset,
            )
            self._client.force_metadata_update()
            await self._clock.sleep_ms(self._retry_backoff * 1_000.0)
            return False
        log.warning(
            "%s[%d] has no offset %d (any more): reading goes on at its earliest, %d", *tp, offset, earliest
        )
        self.forget(tp)
        if earliest > offset:
            self._gone[tp] = earliest - offset
        state.seek(earliest)
        return False


def _raise(tp: KafkaPartition, error: FetchError) -> None:
    try:
        error.check_raise()
    except KafkaError as exc:
        raise meaning(f"reading {tp.topic}[{tp.partition}]", exc) from exc


async def replace_fetcher(consumer: Any, clock: Clock) -> ColumnFetcher:
    """The consumer's own Fetcher for ours. Only for a started consumer that reads nothing yet."""
    await consumer._fetcher.close()
    fetcher = ColumnFetcher(
        consumer._client,
        consumer._subscription,
        fetch_min_bytes=consumer._fetch_min_bytes,
        fetch_max_bytes=consumer._fetch_max_bytes,
        fetch_max_wait_ms=consumer._fetch_max_wait_ms,
        max_partition_fetch_bytes=consumer._max_partition_fetch_bytes,
        fetcher_timeout=consumer._consumer_timeout,
        retry_backoff_ms=consumer._retry_backoff_ms,
        isolation_level=consumer._isolation_level,
        auto_offset_reset="none",
        clock=clock,
    )
    consumer._fetcher = fetcher
    return fetcher
