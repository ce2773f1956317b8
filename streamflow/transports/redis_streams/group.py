"""Membership of the group: leases in Redis, rebalances, and the fence that comes of them.

The rules stand in ``lua/group.lua``: a rebalance ends when all members have given up what they had;
then the generation rises, and with it everything of the generation before is fenced. Who gets what is
computed by whichever member is first, with the same function as on Kafka.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from streamflow.clock import Clock
from streamflow.errors import TransportError
from streamflow.transports.assignor import ByTopic, by_topic, share_out, spots_of, stand_by, warm_members
from streamflow.transports.base import Assignment, Member, RebalanceListener, TopicPartition
from streamflow.transports.redis_streams.connection import GROUP, Arg, Link
from streamflow.transports.redis_streams.settings import BLOCK_MS_MAX, RedisSettings
from streamflow.transports.redis_streams.topics import Topics

log = logging.getLogger(__name__)

RETRY_MS = 200
# How many heartbeats a member of our own slot may miss before it is taken for our former life.
FORMER_LIFE_BEATS = 2.5


class Fence(NamedTuple):
    """What a commit is checked with: the group must be in this generation and have this member."""

    generation: int
    member_id: str


class Offer(msgspec.Struct, frozen=True):
    """What a member says when it joins."""

    url: str
    topics: list[str]
    replicas: int = 0


class Share(msgspec.Struct, frozen=True):
    member_id: str
    url: str
    owned: ByTopic
    standbys: ByTopic = []

    def partitions(self) -> frozenset[TopicPartition]:
        return spots_of(self.owned)

    def stands_by_for(self) -> frozenset[TopicPartition]:
        return spots_of(self.standbys)


NOTHING = Share("", "", [])
_offers = msgspec.json.Decoder(Offer)
_shares = msgspec.json.Decoder(list[Share])


class State(NamedTuple):
    """The group as the last answer told ``member_id``; phase ``unknown``: the group has no such member."""

    member_id: str
    phase: str
    generation: int = 0
    assigned: bytes = b""
    offers: tuple[bytes, ...] = ()


def divide(offers: Sequence[bytes], before: bytes, counts: dict[str, int]) -> bytes:
    """Who gets what. ``offers`` is member and offer in turn, ``before`` the assignment before. Pure."""
    wanted = {
        member.decode(): _offers.decode(offer)
        for member, offer in zip(offers[::2], offers[1::2], strict=True)
    }
    former = _shares.decode(before) if before else []
    owners = {spot: share.member_id for share in former for spot in share.partitions()}
    warm = warm_members((share.member_id, share.partitions() | share.stands_by_for()) for share in former)
    topics = {member: frozenset(offer.topics) for member, offer in wanted.items()}
    found = share_out(counts, topics, owners, warm)
    replicas = max((offer.replicas for offer in wanted.values()), default=0)
    standbys = stand_by(counts, topics, found, replicas, warm)
    shares = [
        Share(member, offer.url, by_topic(found.get(member, ())), by_topic(standbys.get(member, ())))
        for member, offer in sorted(wanted.items())
    ]
    return msgspec.json.encode(shares)


class Membership:
    """One worker's place in the group. ``failure`` is what ended it."""

    def __init__(
        self,
        settings: RedisSettings,
        clock: Clock,
        links: tuple[Link, Link],  # for calls, and for waiting for news
        topics: Topics,
        listener: RebalanceListener,
        offer: Offer,
    ) -> None:
        self.assignment: Assignment | None = None
        self.failure: Exception | None = None
        self.on_lost: Callable[[], None] = lambda: None  # called when the assignment is about to go
        self._settings = settings
        self._clock = clock
        self._link, self._news = links
        self._topics = topics
        self._listener = listener
        self._offer = offer
        names = settings.names
        self._keys = [
            names.of_group(what) for what in ("group", "members", "leases", "ready", "assigned", "news")
        ]
        self._ends = names.ends("")
        self._state = State("", "unknown")
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._generation = 0  # of the newest assignment
        self.member_id = ""

    async def join(self) -> None:
        """Returns when the group knows us. Raises TransportError, ConfigurationError."""
        await self._join()
        self._tasks = [
            asyncio.create_task(self._beat(), name="heartbeat"),
            asyncio.create_task(self._take_part(), name="membership"),
        ]

    async def offer(self, offer: Offer) -> None:
        """Joins anew with another offer. Raises TransportError."""
        self._offer = offer
        await self._call("offer", msgspec.json.encode(offer))

    async def leave(self) -> None:
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
        member_id, settings = self.member_id, self._settings
        fixed: tuple[Arg, ...] = (act, member_id, settings.session_timeout_ms, settings.rebalance_timeout_ms)
        answer = await self._link.call(GROUP, self._keys, (*fixed, self._ends, *args))
        phase = answer[0].decode()
        if phase in ("unknown", "left"):
            state = State(member_id, phase)
        else:
            offers = tuple(answer[4]) if len(answer) > 4 else ()
            assigned = answer[3] or b"" if len(answer) > 3 else b""
            state = State(member_id, phase, int(answer[1]), assigned, offers)
        if member_id == self.member_id:  # else an answer to our former self
            self._state = state
            self._changed.set()
        return state

    async def _join(self) -> None:
        slot = self._settings.slot
        self.member_id = f"{slot}-{os.urandom(6).hex()}"
        offer = msgspec.json.encode(self._offer)
        former_ms = int(self._settings.heartbeat_ms * FORMER_LIFE_BEATS)
        await self._call("join", offer, slot, former_ms)

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
        topics = {t for offer in state.offers[1::2] for t in _offers.decode(offer).topics}
        assigned = divide(state.offers, state.assigned, await self._topics.counts(sorted(topics)))
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
                    self.on_lost()
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
        shares = _shares.decode(state.assigned)
        members = tuple(Member(share.member_id, share.url, share.partitions()) for share in shares)
        mine = next((share for share in shares if share.member_id == self.member_id), NOTHING)
        self.assignment = Assignment(
            state.generation,
            mine.partitions(),
            members,
            Fence(state.generation, self.member_id),
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
        self.on_lost()


async def create_groups(link: Link, settings: RedisSettings, spots: Iterable[TopicPartition]) -> None:
    """The consumer group of each stream, at its beginning, where it is missing. Raises TransportError."""
    wanted = list(spots)
    commands = [
        ("XGROUP", "CREATE", settings.names.stream(spot), settings.group_id, "0", "MKSTREAM")
        for spot in wanted
    ]
    for reply in await link.ask(*commands) if commands else ():
        if isinstance(reply, Exception) and "BUSYGROUP" not in str(reply):
            raise TransportError(f"creating group {settings.group_id}: {reply}") from reply
