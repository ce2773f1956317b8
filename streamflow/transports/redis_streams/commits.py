"""The atomic commit: one script that checks owner and epoch, and writes records and offsets.

A script holds the server up while it runs, so a large checkpoint goes in three acts:

1. *Stage.* Its records go, in chunks, into a list that nobody reads and that expires by itself.
2. *Decide.* One short script checks the fence and that the whole list is there, writes the offsets, and
   puts the list among the decided ones. Before it nothing of the commit has any effect, behind it
   all of it has.
3. *Publish.* Chunk by chunk the records move from the list into their streams; a chunk leaves the list in
   the very step that publishes it. Anyone may do that, and whoever takes over does (`publish_decided`):
   so what is decided is seen in full, in order, once, even if the worker dies in between.

As on Kafka, the records of one commit may so become visible in one partition before another;
`committed` and `high_watermarks` publish what is decided before they answer. A small commit is
decided and published in a single script.

Each commit has a number, one more than the one before. The script knows the newest number it decided for
each member: a request that comes twice, or late, has no second effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from streamflow.clock import Clock
from streamflow.errors import CommitAborted, CommitUnknown, Fenced, LostWrites, TransportError
from streamflow.transports.base import (
    COMMIT_DECIDED,
    COMMIT_OFFSETS,
    COMMIT_WRITTEN,
    Commit,
    OnPoint,
    TopicPartition,
    pass_by,
)
from streamflow.transports.redis_streams.connection import COMMIT, PUBLISH, Arg, Connection, LostConnection
from streamflow.transports.redis_streams.entries import EMPTY, Chunk, chunks
from streamflow.transports.redis_streams.group import GroupFence
from streamflow.transports.redis_streams.names import id_before, offset_of_id, spot_field
from streamflow.transports.redis_streams.pending import Changes
from streamflow.transports.redis_streams.settings import RedisSettings
from streamflow.transports.redis_streams.topics import Topics

RETRY_MS = 100
NOTHING_PENDING = Changes([], [])
NUMBER = b"#"  # field of a member's ends that holds the number of its newest decided commit


class Commits:
    """Commits checkpoints, one at a time. ``on_point``: for tests."""

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        settings: RedisSettings,
        clock: Clock,
        on_point: OnPoint = pass_by,
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._settings = settings
        self._names = settings.names
        self._clock = clock
        self._on_point = on_point
        self._one_at_a_time = asyncio.Lock()
        self._numbers: dict[str, int] = {}  # member -> number of its newest decided commit
        self._unclear: tuple[GroupFence, int] | None = None  # sent, and nobody knows
        self._attempts = 0

    async def commit(
        self,
        commit: Commit,
        fence: GroupFence,
        counts: Mapping[TopicPartition, int],
        pending: Changes = NOTHING_PENDING,
    ) -> dict[TopicPartition, int]:
        """``counts``: entries before each committed offset. Returns the ends of the partitions written.

        Raises Fenced, CommitAborted, CommitUnknown, RecordTooLarge, LostWrites.
        """
        async with self._one_at_a_time:
            try:
                await self._clear_up()
                by_spot = await self._topics.by_stream(commit.records)
                streams = {self._names.stream(spot): spot for spot in by_spot}
                pieces = chunks(
                    zip(streams, by_spot.values(), strict=True),
                    self._settings.chunk_records,
                    self._settings.chunk_bytes,
                )
                staged, inline = "", pieces[0] if pieces else EMPTY
                number = self._numbers.get(fence.member_id, 0) + 1
                if len(pieces) > 1:
                    # Step 1. Stage what is too much for one script.
                    self._attempts += 1
                    staged, inline = self._names.staged(fence.member_id, number, self._attempts), EMPTY
                    await self._stage(staged, pieces)
            except TransportError as exc:
                raise CommitAborted(f"not committed: {exc}") from exc
            plan = self._plan(commit, fence, number, counts)
            plan |= {"failures": pending.failures, "settled": pending.settled}
            if staged:
                plan |= {"staged": 2 * len(pieces), "streams": list(streams)}
            await self.reached(COMMIT_WRITTEN)
            await self.reached(COMMIT_OFFSETS)
            # Step 2. Decide.
            ends = await self._decide(fence, plan, staged, inline)
            await self.reached(COMMIT_DECIDED)
            if staged:
                # Step 3. Publish.
                ends = await self._publish_own(fence, staged)
            await self._wait_for_copies(fence)
            return {streams[stream]: offset + 1 for stream, offset in ends.items() if stream in streams}

    async def reached(self, point: str) -> None:
        """A commit has come so far. Tests wait here, or die."""
        await self._on_point(point)

    async def clear_up(self) -> None:
        """Behind it none of our own commits is undecided, and all that are decided are published."""
        async with self._one_at_a_time:
            await self._clear_up()
            await self.publish_decided()

    async def publish_decided(self) -> None:
        """Publishes what is decided and not published yet, whoever decided it. Raises TransportError."""
        for entry in await self._connection.one("LRANGE", self._names.decided, 0, -1):
            staged, _, ends = entry.decode().partition("\n")
            await self._publish(staged, ends)

    def _plan(
        self, commit: Commit, fence: GroupFence, number: int, counts: Mapping[TopicPartition, int]
    ) -> dict[str, Any]:
        names = self._names
        return {
            "member": fence.member_id,
            "generation": str(fence.generation),
            "number": number,
            "group": self._settings.group_id,
            "consumer": self._settings.slot,
            "staged": 0,
            "streams": [],
            "offsets": [
                (
                    spot_field(spot),
                    names.stream(spot),
                    str(offset),
                    id_before(offset).decode(),
                    counts.get(spot, -1),
                )
                for spot, offset in commit.offsets.items()
            ],
        }

    async def _stage(self, staged: str, pieces: Sequence[Chunk]) -> None:
        for piece in pieces:
            # A list that is never decided expires by itself.
            await self._connection.all(
                [("RPUSH", staged, piece.head, piece.data), ("PEXPIRE", staged, self._settings.staged_ms)]
            )

    async def _decide(
        self, fence: GroupFence, plan: dict[str, Any], staged: str, inline: Chunk
    ) -> dict[str, int]:
        """Asks until it knows what came of it: the number makes a request that comes twice harmless."""
        deadline_ms = self._clock.monotonic_ms() + self._settings.decide_timeout_ms
        args = (msgspec.msgpack.encode(plan), inline.head, inline.data)
        number: int = plan["number"]
        self._unclear = fence, number
        sent = False
        while True:
            try:
                answer = await self._call(fence, staged, args)
                if answer[0] == b"BEHIND":
                    # It had no effect yet, and has none before that: nobody's records pass another's.
                    await self.publish_decided()
                    continue
            except LostConnection as exc:
                sent = True
                if self._clock.monotonic_ms() >= deadline_ms:
                    raise CommitUnknown(f"the commit was sent, and then: {exc}") from exc
            except TransportError as exc:
                # The server said no, or could not be reached at all.
                if not sent:
                    self._unclear = None
                    raise CommitAborted(f"not committed: {exc}") from exc
                if self._clock.monotonic_ms() >= deadline_ms:
                    raise CommitUnknown(f"the commit was sent, and then: {exc}") from exc
            except BaseException:
                # Cancelled in between (it stays unclear), or refused for good.
                raise
            else:
                return self._decided(answer, fence, number)
            await self._clock.sleep_ms(RETRY_MS)

    async def _call(self, fence: GroupFence, staged: str, args: Sequence[Arg]) -> Any:
        names = self._names
        keys = (
            names.of_group("group"),
            names.of_group("members"),
            names.ends(fence.member_id),
            names.offsets,
            names.decided,
            staged,
        )
        return await self._connection.call(COMMIT, keys, args)

    def _decided(self, answer: list[Any], fence: GroupFence, number: int) -> dict[str, int]:
        self._unclear = None
        word = answer[0]
        if word == b"DONE":
            self._numbers[fence.member_id] = number
            return _ends(answer[1])
        if word == b"FENCED":
            raise Fenced(
                f"the assignment of generation {fence.generation} is not the newest: the group"
                f" {self._settings.group_id} is in generation {answer[1].decode()}"
            )
        if word == b"UNSTAGED":
            raise CommitAborted(
                f"its staged records are not all there any more: {answer[1].decode()} of them"
            )
        # What we were told is committed is not there: the server came back without it.
        newest = int(answer[1])
        raise LostWrites(
            f"the server at {self._settings.where} has lost writes that it had acknowledged: our newest"
            f" checkpoint there is number {newest}, we had made {number - 1}. Start again: state is read"
            " back from what is left (appendfsync always, or replicas, would have kept it)"
        )

    async def _clear_up(self) -> None:
        """Ends a commit of which nobody knows: from here on it is decided, or never will be."""
        if self._unclear is None:
            return
        fence, number = self._unclear
        plan = {
            "member": fence.member_id,
            "generation": str(fence.generation),
            "number": number,
            "void": True,
        }
        answer = await self._call(fence, "", (msgspec.msgpack.encode(plan), EMPTY.head, b""))
        if answer[0] in (b"DONE", b"VOIDED"):
            self._numbers[fence.member_id] = number
        self._unclear = None

    async def _publish_own(self, fence: GroupFence, staged: str) -> dict[str, int]:
        deadline_ms = self._clock.monotonic_ms() + self._settings.decide_timeout_ms
        ends = self._names.ends(fence.member_id)
        while True:
            try:
                await self._publish(staged, ends)
                return _ends(await self._connection.one("HGETALL", ends))
            except TransportError as exc:
                # It is decided: what is left of it is published by whoever comes next, ourselves perhaps.
                if self._clock.monotonic_ms() >= deadline_ms:
                    raise CommitUnknown(f"committed, and not published in full yet: {exc}") from exc
            await self._clock.sleep_ms(RETRY_MS)

    async def _publish(self, staged: str, ends: str) -> None:
        keys = (self._names.decided, staged, ends)
        while await self._connection.call(PUBLISH, keys, ()):
            pass

    async def _wait_for_copies(self, fence: GroupFence) -> None:
        """Raises CommitUnknown when replicas or the append-only file did not follow in time."""
        settings = self._settings
        if not (settings.wait_replicas or settings.wait_aof):
            return
        # A write of its own: WAIT is about what its connection wrote, and this may be a new one.
        mark = ("SET", self._names.of_group(f"wait:{fence.member_id}"), 1, "PX", 60_000)
        wait: tuple[Arg, ...] = ("WAIT", settings.wait_replicas, settings.wait_timeout_ms)
        if settings.wait_aof:
            wait = ("WAITAOF", 1, settings.wait_replicas, settings.wait_timeout_ms)
        try:
            _, reached = await self._connection.all([mark, wait])
        except TransportError as exc:
            raise CommitUnknown(f"committed; whether it is copied is not known: {exc}") from exc
        synced, copies = reached if settings.wait_aof else (1, reached)
        if copies < settings.wait_replicas or not synced:
            raise CommitUnknown(
                f"committed, but after {settings.wait_timeout_ms} ms only {copies} of"
                f" {settings.wait_replicas} replicas have it (redis_wait_replicas)"
                + ("" if synced else ", and the append-only file is not synced (redis_wait_aof)")
            )


def _ends(flat: Sequence[bytes]) -> dict[str, int]:
    """Stream -> offset of the commit's last entry in it."""
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return {stream.decode(): offset_of_id(entry_id) for stream, entry_id in pairs if stream != NUMBER}
