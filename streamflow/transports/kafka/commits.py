"""The atomic commit, in numbered steps, over the transactional producer; and the one without a transaction.

What can happen to a commit and what the caller hears:

- `Fenced`: the group has another generation, or a newer life of this producer exists and the group
  does not know us any more. Nothing of it will be seen.
- `CommitAborted`: it failed before its decision was sent. Nothing of it will be seen, the same may be
  tried again.
- `CommitUnknown`: its decision was sent, may have been obeyed, and the coordinator could not be asked what
  came of it.

Which answer to which request means what stands in `outcomes`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from aiokafka.protocol.transaction import AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest

from streamflow.errors import (
    CommitAborted,
    CommitUnknown,
    ConfigurationError,
    Fenced,
    RecordRefused,
    StreamflowError,
    TransportError,
)
from streamflow.transports.assignor import by_topic
from streamflow.transports.base import (
    COMMIT_DECIDED,
    COMMIT_OFFSETS,
    COMMIT_WRITTEN,
    Commit,
    OnPoint,
    Record,
    TopicPartition,
    pass_by,
)
from streamflow.transports.kafka import producer, protocol
from streamflow.transports.kafka.connection import Connection, Coordinator, Deadline
from streamflow.transports.kafka.group import GroupFence
from streamflow.transports.kafka.offsets import GroupOffsets
from streamflow.transports.kafka.outcomes import Asked, Next, Outcome, verdict
from streamflow.transports.kafka.producer import Life, Producer, ProducerFenced
from streamflow.transports.kafka.record_batches import Building
from streamflow.transports.kafka.settings import KafkaSettings

log = logging.getLogger(__name__)

ABORT_TIMEOUT_MS = 2_000
COMMIT = True
ABORT = False


class Told(NamedTuple):
    """What one try at the decision has shown. ``again``: another one may show more."""

    outcome: Outcome
    error: StreamflowError
    again: bool


class Commits:
    """Commits checkpoints, one at a time, atomically. ``on_point``: for tests."""

    def __init__(
        self,
        connection: Connection,
        settings: KafkaSettings,
        offsets: GroupOffsets,
        writer: Producer,
        on_point: OnPoint = pass_by,
    ) -> None:
        if writer.transactional_id is None:
            raise ValueError("the producer needs a transactional id")
        self._connection = connection
        self._settings = settings
        self._offsets = offsets
        self._producer = writer
        self._transactional_id = writer.transactional_id
        self._place = (Coordinator.TRANSACTION, writer.transactional_id)
        self._on_point = on_point
        self._one_at_a_time = asyncio.Lock()

    async def commit(self, commit: Commit, fence: GroupFence) -> dict[TopicPartition, int]:
        """Returns the offset behind the last record of each partition written.

        Raises Fenced, CommitAborted, CommitUnknown, RecordRefused for records that are never taken, or
        ConfigurationError for what this user may not do; these two have had no effect.
        """
        async with self._one_at_a_time:
            deadline = self._connection.deadline(self._settings.commit_timeout_ms)
            try:
                life = await self._producer.ready(deadline)
                written = await self._prepare(commit, fence, life, deadline)
                await self.reached(COMMIT_OFFSETS)
                await self._decide(life)
            except (Fenced, RecordRefused, ConfigurationError):
                await self._abort()
                raise
            except ProducerFenced as exc:
                self._producer.end_life()
                raise await self._fenced_or_aborted(fence, exc) from exc
            except TransportError as exc:
                await self._abort()
                raise CommitAborted(f"aborted: {exc}") from exc
            except BaseException:
                # CommitUnknown, or a task that was cancelled anywhere: the next life begins by ending
                # this transaction, in whichever way it was decided.
                self._producer.end_life()
                raise
            # Whatever happens from here on, it is committed.
            await self.reached(COMMIT_DECIDED)
            return producer.ends(written)

    async def reached(self, point: str) -> None:
        """A commit has come so far. Tests wait here, or die."""
        await self._on_point(point)

    async def _prepare(
        self, commit: Commit, fence: GroupFence, life: Life, deadline: Deadline
    ) -> list[Building]:
        """All but the decision."""
        written: list[Building] = []
        if commit.records:
            # Step 1. Begin: the coordinator must know a partition before anything is written to it.
            await self._add_partitions(commit.records, life, deadline)
            # Step 2. Write all records, and
            # step 3. wait for and check every acknowledgement: a commit alone would ignore failures.
            written = await self._producer.write(commit.records, deadline)
        await self.reached(COMMIT_WRITTEN)
        # Step 4. Add the group's offsets, under the generation in which the partitions were assigned.
        await self._add_group(life, deadline)
        await self._offsets.write_in_transaction(commit, fence, self._transactional_id, life, deadline)
        return written

    async def _decide(self, life: Life) -> None:
        """Step 5. Commit; asks again until the coordinator has said what came of it.

        Once it may have been obeyed, only an acknowledgement will do: an error that a repeated request meets
        may be the trace of the first one's success. Raises TransportError or ConfigurationError when it
        certainly was not obeyed (ProducerFenced among them), CommitUnknown when nobody knows.
        """
        deadline = self._connection.deadline(self._settings.decide_timeout_ms)
        unclear: StreamflowError | None = None
        attempt = 0
        while True:
            told = await self._ask_for_decision(life, deadline)
            if told.outcome is Outcome.OBEYED:
                return
            if told.outcome is Outcome.UNCLEAR:
                unclear = told.error
            if not told.again or deadline.left_s() <= 0:
                if unclear is None:
                    raise told.error
                raise CommitUnknown(f"the commit was sent, and then: {told.error}") from unclear
            await deadline.back_off(attempt)
            attempt += 1

    async def _ask_for_decision(self, life: Life, deadline: Deadline) -> Told:
        """Once."""
        try:
            node_id = await self._connection.coordinator(*self._place, deadline)
            deadline.check("EndTxn was not sent")
        except TransportError as exc:
            return Told(Outcome.NOT_OBEYED, exc, again=True)
        except ConfigurationError as exc:
            return Told(Outcome.NOT_OBEYED, exc, again=False)
        try:
            code = await self._end(node_id, life, COMMIT, deadline)
        except TransportError as exc:
            self._connection.forget(self._place)
            return Told(Outcome.UNCLEAR, exc, again=True)
        except ConfigurationError as exc:
            return Told(Outcome.NOT_OBEYED, exc, again=False)  # it is denied before it is sent
        row = verdict(Asked.END, code)
        if row.next is Next.FIND_COORDINATOR:
            self._connection.forget(self._place)
        return Told(
            row.outcome,
            producer.refusal(Asked.END, "EndTxn", code),
            again=row.next in (Next.FIND_COORDINATOR, Next.ASK_AGAIN),
        )

    async def _end(self, node_id: int, life: Life, result: bool, deadline: Deadline) -> int:
        """EndTxn, once; the error code. Raises TransportError when no answer came."""
        request = EndTxnRequest(
            transactional_id=self._transactional_id,
            producer_id=life.producer_id,
            producer_epoch=life.epoch,
            transaction_result=result,
        )
        answer = await self._connection.ask(node_id, request, deadline, coordinator=True)
        return int(answer.error_code)

    async def _abort(self) -> None:
        """Ends the open transaction, so that no reader waits for its timeout.

        The abort must reach the coordinator: what is only forgotten here is published by the next
        commit. So unless it is acknowledged, the next use begins a new life, which aborts too. That is
        also the way where a write may still be under way: only a newer epoch keeps it out.
        """
        deadline = self._connection.deadline(ABORT_TIMEOUT_MS)
        ended = False
        try:
            life = self._producer.life
            if life is None:
                await self._producer.ready(deadline)
                ended = True
                return
            node_id = await self._connection.coordinator(*self._place, deadline)
            code = await self._end(node_id, life, ABORT, deadline)
            ended = verdict(Asked.END, code).outcome is Outcome.OBEYED
            if not ended:
                log.warning(
                    "Aborting a transaction of %s: %s", self._transactional_id, protocol.error_name(code)
                )
        except (TransportError, ConfigurationError) as exc:
            log.warning("Aborting a transaction of %s: %s", self._transactional_id, exc)
        finally:
            if not ended:
                self._producer.end_life()  # also when the task is cancelled here

    async def _add_partitions(self, records: Sequence[Record], life: Life, deadline: Deadline) -> None:
        spots = dict.fromkeys((record.topic, record.partition) for record in records)
        request = AddPartitionsToTxnRequest(
            transactional_id=self._transactional_id,
            producer_id=life.producer_id,
            producer_epoch=life.epoch,
            topics=by_topic(spots),
        )
        attempt = 0
        while True:
            answer = await self._connection.ask_coordinator(
                self._place, request, producer.partition_codes, deadline
            )
            codes = {
                code: verdict(Asked.ADD_PARTITIONS, code).next for code in producer.partition_codes(answer)
            }
            bad = [code for code, then in codes.items() if then not in (Next.GO_ON, Next.SEE_OTHERS)]
            if not bad:
                return
            denied = {code for code in bad if codes[code] is Next.REFUSE_TOPIC}
            if denied:
                topics = {topic for topic, rows in answer.errors for _, code in rows if code in denied}
                raise RecordRefused.first_of(producer.denied(records, topics, min(denied)))
            hopeless = [code for code in bad if codes[code] is not Next.FIND_LEADER]
            if hopeless:
                raise producer.refusal(Asked.ADD_PARTITIONS, "beginning the transaction", min(hopeless))
            await self._connection.refresh(deadline)
            await deadline.back_off(attempt)
            away = [f"{topic}[{p}]" for topic, rows in answer.errors for p, code in rows if code in bad]
            deadline.check(
                f"beginning the transaction: {protocol.error_name(min(bad))}: {', '.join(away[:5])}"
            )
            attempt += 1

    async def _add_group(self, life: Life, deadline: Deadline) -> None:
        request = AddOffsetsToTxnRequest(
            transactional_id=self._transactional_id,
            producer_id=life.producer_id,
            producer_epoch=life.epoch,
            group_id=self._settings.group_id,
        )
        answer = await self._connection.ask_coordinator(
            self._place, request, lambda a: (a.error_code,), deadline
        )
        if answer.error_code != protocol.NONE:
            raise producer.refusal(
                Asked.ADD_OFFSETS, "adding the group to the transaction", answer.error_code
            )

    async def _fenced_or_aborted(self, fence: GroupFence, cause: ProducerFenced) -> Fenced | CommitAborted:
        """A producer is fenced by its successor, or because its transaction took too long.

        Only the group knows whether the partitions are gone with it.
        """
        try:
            deadline = self._connection.deadline(ABORT_TIMEOUT_MS)
            if await self._offsets.still_holds(fence, deadline):
                return CommitAborted(f"aborted: {cause}")
        except TransportError as exc:
            return CommitAborted(f"aborted: {cause}; the group can't be asked: {exc}")
        return Fenced(f"the assignment of generation {fence.generation} is not the newest: {cause}")


class PlainCommits:
    """At least once: the records, their acknowledgements, and then the offsets."""

    def __init__(
        self, connection: Connection, settings: KafkaSettings, offsets: GroupOffsets, writer: Producer
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._offsets = offsets
        self._producer = writer
        self._one_at_a_time = asyncio.Lock()

    async def commit(self, commit: Commit, fence: GroupFence) -> dict[TopicPartition, int]:
        """As `Commits.commit`; but what it raises may leave records behind."""
        async with self._one_at_a_time:
            deadline = self._connection.deadline(self._settings.commit_timeout_ms)
            try:
                written: list[Building] = []
                for first, last in pairwise((0, *commit.barriers, len(commit.records))):
                    # Step 1. Ask whether the assignment holds: an old owner's rows would hide the new one's.
                    if not await self._offsets.still_holds(fence, deadline):
                        raise Fenced(f"the assignment of generation {fence.generation} is not the newest")
                    # Step 2. Write up to the next barrier, and wait for every acknowledgement.
                    written += await self._write(commit.records, first, last, deadline)
            except TransportError as exc:
                raise CommitAborted(f"not committed: {exc}") from exc
            # Step 3. The offsets last: what is behind them is in the log.
            try:
                await self._offsets.write(commit, fence, deadline)
            except producer.Refused as exc:
                raise CommitAborted(f"not committed: {exc}") from exc
            except TransportError as exc:
                raise CommitUnknown(f"the offsets were sent, and then: {exc}") from exc
            return producer.ends(written)

    async def _write(
        self, records: Sequence[Record], first: int, last: int, deadline: Deadline
    ) -> list[Building]:
        """Raises RecordRefused with indices into all the records."""
        if first == last:
            return []
        try:
            return await self._producer.write(records[first:last], deadline)
        except RecordRefused as exc:
            raise exc.behind(first) from None
