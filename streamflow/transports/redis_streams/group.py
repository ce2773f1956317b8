"""Membership of the group: leases in Redis, rebalances, and the fence that comes of them.

The rules stand in ``lua/group.lua``: a rebalance ends when all members have given up what they had;
then the generation rises, and with it everything of the generation before is fenced.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from streamflow.clock import Clock
from streamflow.errors import LostWrites, TransportError
from streamflow.transports.base import Assignment, Member, RebalanceListener, TopicPartition
from streamflow.transports.keep_alive import KeepAlive
from streamflow.transports.redis_streams.connection import GROUP, Arg, Connection
from streamflow.transports.redis_streams.heart import GroupHeart
from streamflow.transports.redis_streams.member_metadata import (
    NOTHING_ASSIGNED,
    MemberMetadata,
    assign,
    assignments_of,
    topics_of,
)
from streamflow.transports.redis_streams.settings import BLOCK_MS_MAX, RedisSettings
from streamflow.transports.redis_streams.topics import Topics

log = logging.getLogger(__name__)

RETRY_MS = 200
# How many heartbeats a member of our own slot may miss before it is taken for our former life.
FORMER_LIFE_BEATS = 2.5


class GroupFence(NamedTuple):
    """What a commit is checked with: the group must be in this generation and have this member."""

    generation: int
    member_id: str


class State(NamedTuple):
    """The group as the last answer told ``member_id``; phase ``unknown``: the group has no such member.

    ``birth``: what it was named when it was made; empty where an older version has made it.
    """

    member_id: str
    phase: str
    generation: int = 0
    birth: bytes = b""
    assigned: bytes = b""
    joined: tuple[bytes, ...] = ()


class Group:
    """One worker's place in the group. ``failure`` is what ended it."""

    def __init__(
        self,
        settings: RedisSettings,
        clock: Clock,
        connections: tuple[Connection, Connection],  # for calls, and for waiting for news
        topics: Topics,
        listener: RebalanceListener,
        url: str,
        on_lost: Callable[[], None],  # called when the assignment is about to go
    ) -> None:
        self.assignment: Assignment | None = None
        self.failure: Exception | None = None
        self._on_lost = on_lost
        self._settings = settings
        self._clock = clock
        self._connection, self._news = connections
        self._topics = topics
        self._listener = listener
        self._url = url
        self._metadata = MemberMetadata(url, [])
        names = settings.names
        self._keys = [
            names.of_group(what) for what in ("group", "members", "leases", "ready", "assigned", "news")
        ]
        self._ends = names.ends("")
        self._state = State("", "unknown")
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._generation = 0  # of the newest assignment
        self._birth = b""  # of the group that we joined
        self.member_id = ""
        self._awake = asyncio.Event()
        self._awake.set()
        self._keep_alive = KeepAlive(
            lambda: GroupHeart(settings, self._poll),
            clock,
            heartbeat_ms=settings.heartbeat_ms,
            limit_ms=settings.max_poll_interval_ms,
        )

    async def join(self, counts: Mapping[str, int]) -> None:
        """Returns when the group knows us. Raises TransportError, ConfigurationError."""
        await self._want(counts)
        await self._join()
        self._tasks = [
            asyncio.create_task(self._beat(), name="heartbeat"),
            asyncio.create_task(self._take_part(), name="membership"),
        ]
        self._keep_alive.start()

    async def resubscribe(self, counts: Mapping[str, int]) -> None:
        """Joins anew, for these topics. Raises TransportError."""
        await self._want(counts)
        await self._call("offer", msgspec.json.encode(self._metadata))

    async def _want(self, counts: Mapping[str, int]) -> None:
        spots = ((topic, p) for topic, count in counts.items() for p in range(count))
        await create_groups(self._connection, self._settings, spots)
        self._metadata = MemberMetadata(self._url, list(counts), self._settings.standby_replicas)

    def stall(self) -> None:
        """For tests: nothing reaches the group until `wake`."""
        self._awake.clear()
        self._keep_alive.hush(silent=True)

    def wake(self) -> None:
        """For tests, after `stall`."""
        self._awake.set()
        self._keep_alive.hush(silent=False)

    def kill(self) -> None:
        """For tests: its tasks stop where they stand."""
        self._keep_alive.stop()
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    async def leave(self) -> None:
        self._keep_alive.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.assignment = None
        try:
            await self._call("leave")
        except TransportError as exc:
            log.warning("Leaving the group %s: %s", self._settings.group_id, exc)

    async def _call(self, act: str, *args: Arg) -> State:
        """Does ``act`` and learns how the group is then."""
        if not self._awake.is_set():
            await self._awake.wait()
        member_id = self.member_id
        answer = await self._connection.call(GROUP, self._keys, (*self._asked(act), *args))
        phase = answer[0].decode()
        if phase == "left":
            state = State(member_id, phase)
        else:
            joined = tuple(answer[5]) if len(answer) > 5 else ()
            assigned = answer[4] or b"" if len(answer) > 4 else b""
            state = State(member_id, phase, int(answer[1]), answer[2], assigned, joined)
        if member_id == self.member_id:  # else an answer to our former self
            self._check_same(state)
            self._state = state
            self._changed.set()
        return state

    def _asked(self, act: str) -> tuple[Arg, ...]:
        settings = self._settings
        times = settings.session_timeout_ms, settings.rebalance_timeout_ms
        return act, self.member_id, *times, self._ends

    def _poll(self) -> tuple[Sequence[Arg], Sequence[Arg]] | None:
        """What renews the lease that there is now; another thread asks."""
        return (self._keys, self._asked("poll")) if self.member_id else None

    def _check_same(self, state: State) -> None:
        """Raises LostWrites where this can't be the group that we were in: then nothing else of what we know
        of the server holds, and waiting for a newer generation could be waiting for ever."""
        if state.phase == "left":
            return
        other = self._birth and state.birth != self._birth
        if other or state.generation < self._generation:
            raise LostWrites(
                f"the server at {self._settings.where} does not know the group {self._settings.group_id} as"
                f" it was: we were in its generation {self._generation}, it is in {state.generation}"
                f"{' and was made anew' if other else ''}. The server has lost writes (FLUSHALL, a fail-over,"
                " a restart without its file), or the app was reset while this worker was away. Start again:"
                " state is read back from what is left (on_lost_writes=restart does so by itself)"
            )
        self._birth = self._birth or state.birth

    async def _join(self) -> None:
        slot = self._settings.slot
        self.member_id = f"{slot}-{os.urandom(6).hex()}"
        metadata = msgspec.json.encode(self._metadata)
        former_ms = int(self._settings.heartbeat_ms * FORMER_LIFE_BEATS)
        await self._call("join", metadata, slot, former_ms, os.urandom(8).hex())

    async def _beat(self) -> None:
        """Keeps the lease, hears of rebalances at once, and divides where nobody has yet."""
        heard: Arg = "0-0"
        wait_ms = min(self._settings.heartbeat_ms, BLOCK_MS_MAX)
        while True:
            try:
                state = await self._call("poll")
                if state.phase == "assigning":
                    await self._assign(state)
                    continue
                news = await self._news.one("XREAD", "BLOCK", wait_ms, "STREAMS", self._keys[5], heard)
                if news:
                    heard = news[0][1][-1][0]
            except TransportError as exc:
                log.warning("The group %s can't be asked: %s", self._settings.group_id, exc)
                await self._clock.sleep_ms(RETRY_MS)
            except Exception as exc:  # noqa: BLE001 - the next fetch raises it
                self._fail(exc)
                return

    async def _assign(self, state: State) -> None:
        counts = await self._topics.counts(topics_of(state.joined))
        assigned = assign(state.joined, state.assigned, counts)
        await self._call("assign", state.generation, assigned)

    async def _take_part(self) -> None:
        """Is assigned, is revoked, gives up, and so on, until cancelled or the listener raises."""
        try:
            while True:
                state = await self._until(self._to_assign)
                if state.phase == "stable":
                    self._generation = state.generation
                    await self._assigned(state)
                    state = await self._until(self._to_revoke)
                    self._on_lost()
                    await self._listener.on_revoked()
                    self.assignment = None
                await self._give_up(state.phase == "unknown")
        except Exception as exc:  # noqa: BLE001 - the next fetch raises it
            self._fail(exc)

    def _to_assign(self, state: State) -> bool:
        newer = state.generation > self._generation
        return state.phase == "unknown" or (state.phase == "stable" and newer)

    def _to_revoke(self, state: State) -> bool:
        # An answer of before our own generation may come late: it says nothing.
        joining = state.phase == "joining" and state.generation == self._generation
        return state.phase == "unknown" or joining or state.generation > self._generation

    async def _until(self, wanted: Callable[[State], bool]) -> State:
        while not (self._state.member_id == self.member_id and wanted(self._state)):
            self._changed.clear()
            await self._changed.wait()
        return self._state

    async def _assigned(self, state: State) -> None:
        everybody = assignments_of(state.assigned)
        members = tuple(Member(m.member_id, m.url, m.partitions()) for m in everybody)
        mine = next((m for m in everybody if m.member_id == self.member_id), NOTHING_ASSIGNED)
        self.assignment = Assignment(
            state.generation,
            mine.partitions(),
            members,
            GroupFence(state.generation, self.member_id),
            mine.stands_by_for(),
        )
        await self._listener.on_assigned(self.assignment)

    async def _give_up(self, unknown: bool) -> None:
        """Says that we have nothing any more; as a new member where the group has dropped us."""
        while True:
            try:
                if not unknown:
                    unknown = (await self._call("ready")).phase == "unknown"
                if unknown:
                    await self._join()
                return
            except TransportError as exc:
                log.warning("The group %s can't be joined: %s", self._settings.group_id, exc)
                await self._clock.sleep_ms(RETRY_MS)

    def _fail(self, exc: Exception) -> None:
        log.error("The group %s: %r", self._settings.group_id, exc)
        self.failure = exc
        self._on_lost()


async def create_groups(
    connection: Connection, settings: RedisSettings, spots: Iterable[TopicPartition]
) -> None:
    """The consumer group of each stream, at its beginning, where it is missing. Raises TransportError."""
    wanted = list(spots)
    commands = [
        ("XGROUP", "CREATE", settings.names.stream(spot), settings.group_id, "0", "MKSTREAM")
        for spot in wanted
    ]
    for reply in await connection.ask(*commands) if commands else ():
        if isinstance(reply, Exception) and "BUSYGROUP" not in str(reply):
            raise TransportError(f"creating group {settings.group_id}: {reply}") from reply
