"""The group's committed offsets: written under the fence of an assignment, read only when decided."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streamflow.errors import Fenced
from streamflow.transports.assignor import by_topic
from streamflow.transports.base import Commit, TopicPartition
from streamflow.transports.kafka import producer, protocol
from streamflow.transports.kafka.connection import Connection, Coordinator, Deadline
from streamflow.transports.kafka.group import GroupFence
from streamflow.transports.kafka.outcomes import Asked, Next, verdict
from streamflow.transports.kafka.settings import KafkaSettings

log = logging.getLogger(__name__)

NO_OFFSET = -1
# The broker's default limit for the metadata of an offset.
METADATA_BYTES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Committed:
    """``offset`` None: there is none. ``transactional_id``: who wrote it, where that is known."""

    offset: int | None
    transactional_id: str | None
    undecided: bool = False


class GroupOffsets:
    """Reads and writes the offsets of one group.

    ``on_lost`` is told when the group answers that it does not know the generation or the member of a fence.
    """

    def __init__(
        self,
        connection: Connection,
        settings: KafkaSettings,
        on_lost: Callable[[GroupFence, int], None] = lambda *_: None,
    ) -> None:
        self._connection = connection
        self._on_lost = on_lost
        self._settings = settings
        self._group_id = settings.group_id

    async def read(
        self, partitions: Iterable[TopicPartition], deadline: Deadline, *, stable: bool = True
    ) -> dict[TopicPartition, Committed]:
        """``stable``: waits until no commit is undecided for any of them. Raises TransportError."""
        topics: list[Any] = [(topic, ps, protocol.NO_TAGS) for topic, ps in by_topic(partitions)]
        if not topics:
            return {}
        request = protocol.OffsetFetchRequest(self._group_id, topics, stable, protocol.NO_TAGS)
        attempt = 0
        while True:
            answer = await self._ask(request, _fetch_codes, deadline)
            found = _fetched(answer)
            if not any(entry.undecided for entry in found.values()):
                return found
            await deadline.back_off(attempt)
            deadline.check("a commit before us is undecided")
            attempt += 1

    async def write_in_transaction(
        self,
        commit: Commit,
        fence: GroupFence,
        transactional_id: str,
        life: producer.Life,
        deadline: Deadline,
    ) -> None:
        """Adds the offsets to the open transaction. Raises Fenced or TransportError."""
        request = protocol.TxnOffsetCommitRequest(
            transactional_id,
            self._group_id,
            life.producer_id,
            life.epoch,
            fence.generation,
            fence.member_id,
            fence.instance_id,
            [
                (topic, [(*row, protocol.NO_TAGS) for row in rows], protocol.NO_TAGS)
                for topic, rows in _offset_rows(commit, transactional_id)
            ],
            protocol.NO_TAGS,
        )
        self._check(await self._ask(request, producer.partition_codes, deadline), fence)

    async def write(self, commit: Commit, fence: GroupFence, deadline: Deadline) -> None:
        """Writes the offsets without a transaction. Raises Fenced or TransportError."""
        request = protocol.OffsetCommitRequest(
            self._group_id,
            fence.generation,
            fence.member_id,
            fence.instance_id,
            _offset_rows(commit, ""),
        )
        self._check(await self._ask(request, producer.partition_codes, deadline), fence)

    async def still_holds(self, fence: GroupFence, deadline: Deadline) -> bool:
        """Whether the group still is in that generation, with that member; it may be about to leave it."""
        return await self._heartbeat(fence, deadline) not in protocol.GROUP_FENCED

    async def stands(self, fence: GroupFence, deadline: Deadline) -> bool:
        """Whether it still is, and no rebalance is under way."""
        return await self._heartbeat(fence, deadline) == protocol.NONE

    async def _heartbeat(self, fence: GroupFence, deadline: Deadline) -> int:
        request = protocol.HeartbeatRequest(
            self._group_id, fence.generation, fence.member_id, fence.instance_id
        )
        answer = await self._ask(request, lambda a: (a.error_code,), deadline)
        if answer.error_code in protocol.GROUP_FORGOT:
            self._on_lost(fence, answer.error_code)
        return int(answer.error_code)

    def _check(self, answer: Any, fence: GroupFence) -> None:
        for code in producer.partition_codes(answer):
            then = verdict(Asked.OFFSETS, code).next
            if then is Next.REJOIN:
                if code in protocol.GROUP_FORGOT:
                    self._on_lost(fence, code)
                raise Fenced(
                    f"the assignment of generation {fence.generation} is not the newest:"
                    f" {protocol.error_name(code)}"
                )
            if then is not Next.GO_ON:
                raise producer.refusal(Asked.OFFSETS, "committing offsets", code)

    async def _ask(self, request: Any, codes: Any, deadline: Deadline) -> Any:
        return await self._connection.ask_coordinator(
            (Coordinator.GROUP, self._group_id), request, codes, deadline
        )


def _offset_rows(commit: Commit, transactional_id: str) -> list[tuple[str, list[tuple[int, int, int, str]]]]:
    """``[(topic, [(partition, offset, leader epoch, metadata), ...]), ...]``."""
    # The first line names the producer: who takes over may have to end its transaction.
    metadata = f"{transactional_id}\n{commit.metadata}"
    if len(metadata.encode()) > METADATA_BYTES_MAX:
        raise ValueError(f"the commit's metadata is longer than {METADATA_BYTES_MAX} bytes")
    offsets: Mapping[TopicPartition, int] = commit.offsets
    return [
        (topic, [(p, offsets[topic, p], protocol.LEADER_EPOCH_UNKNOWN, metadata) for p in partitions])
        for topic, partitions in by_topic(sorted(offsets))
    ]


def _fetch_codes(answer: Any) -> list[int]:
    return [answer.error_code, *(row[4] for _, rows, _ in answer.topics for row in rows)]


def _fetched(answer: Any) -> dict[TopicPartition, Committed]:
    if answer.error_code != protocol.NONE:
        raise producer.refusal(Asked.OTHER, "reading committed offsets", answer.error_code)
    found: dict[TopicPartition, Committed] = {}
    for topic, rows, _ in answer.topics:
        for partition, offset, _, metadata, code, _ in rows:
            if code == protocol.UNSTABLE_OFFSET_COMMIT:
                found[topic, partition] = Committed(None, None, undecided=True)
            elif code != protocol.NONE:
                raise producer.refusal(
                    Asked.OTHER, f"reading the committed offset of {topic}[{partition}]", code
                )
            elif offset == NO_OFFSET:
                found[topic, partition] = Committed(None, None)
            else:
                owner = (metadata or "").partition("\n")[0] if "\n" in (metadata or "") else ""
                found[topic, partition] = Committed(offset, owner or None)
    return found
