"""The live records of one topic: one reader for all subscribers of this worker, off the checkpoint's path.

The topic's log is what a client resumes from, and what waits for one that is slow: nobody's backlog is held
here. Who is behind is read for beside the others, within bounds, until what was read last (`_Ring`) joins it
to them without a gap and without a record twice.

Invariants: a subscription is told of each partition's records in their order, each once, and of all that its
filter wants; its cursor names the records that it was told of, and no others.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from streamflow.clock import Clock
from streamflow.errors import StreamflowError
from streamflow.query.browse import Message
from streamflow.query.follow import Ends, Follows, Stretch
from streamflow.query.slices import Slices
from streamflow.web import encoding
from streamflow.web.http.topics import message_object
from streamflow.web.live.fanout import Fanout
from streamflow.web.live.session import Session
from streamflow.web.live.topic_records import (
    Events,
    Note,
    Positions,
    TopicChannel,
    TopicFilter,
    TopicListener,
    TopicRecord,
    cursor_of,
    cursor_text,
    events_frames,
)
from streamflow.web.served import Served

log = logging.getLogger(__name__)

PARTITIONS_MAX: Final = 256
"""A topic with more is not told live: its cursor would be too long to go with every message."""
READ_WAIT_MS: Final = 500
RETRY_MS: Final = 1_000.0
REST_MS: Final = 4.0
"""Between two slices of records, which last 2 ms: to tell a topic takes a third of the time at most."""
RING_BYTES: Final = 1 << 20
"""So much of what was read last is kept, to join those to the others who were behind."""
TURN_BYTES: Final = 256 << 10
TURN_MS: Final = 1_000.0
"""A turn of reading for those who are behind ends with either, and others have theirs."""


class TopicSubscription(TopicListener):
    """One client's view of a topic; ``positions``: what lies before was told, while it is not live."""

    __slots__ = ("_feed", "filter", "positions")

    def __init__(self, session: Session, feed: TopicFeed, sub_id: str, view: TopicFilter) -> None:
        super().__init__(session, sub_id)
        self._feed = feed
        self.filter = view
        self.positions: dict[int, int] = {}

    def offer(self, events: Events) -> None:
        if self.session.is_behind:
            self._feed.fall_behind(self, events.before)
        else:
            self.session.put(events.frames(self.id_json), self)

    def offer_note(self, name: str, tail: bytes, *, lasts: bool) -> None:
        if lasts or not self.session.is_behind:
            self.tell(name, tail)

    def begin(self, positions: Positions) -> None:
        self.positions = dict(positions)

    def pass_over(self, partition: int, at: int) -> None:
        """What lies before was told, or is not to be told."""
        self.positions[partition] = at

    def refill(self) -> bool:
        if not self.is_live:
            self._feed.go_on()
        return False

    def leave(self) -> None:
        self._feed.leave(self)


class _Ring:
    """The records that were read last, of all partitions, bounded in bytes."""

    def __init__(self, starts: Positions) -> None:
        self.starts = dict(starts)  # partition -> all from here on are there
        self._records: deque[TopicRecord] = deque()
        self._bytes = 0

    def add(self, records: Iterable[TopicRecord]) -> None:
        for record in records:
            self._records.append(record)
            self._bytes += len(record.raw)
        while self._bytes > RING_BYTES and self._records:
            oldest = self._records.popleft()
            self._bytes -= len(oldest.raw)
            self.starts[oldest.partition] = oldest.offset + 1

    def skip(self, partition: int, to: int) -> None:
        """What lies before was lost: there is nothing to be joined across it."""
        self.starts[partition] = to

    def has_all_behind(self, positions: Positions) -> bool:
        return all(positions.get(partition, 0) >= start for partition, start in self.starts.items())

    def behind(self, positions: Positions) -> list[TopicRecord]:
        return [record for record in self._records if record.offset >= positions.get(record.partition, 0)]


class TopicFeed:
    """Of one topic and worker. It reads from its first subscriber on, until it is stopped."""

    def __init__(self, served: Served, fanout: Fanout, topic: str) -> None:
        self.name = topic
        self.idle_since_ms: float | None = served.clock.monotonic_ms()
        self._served = served
        self._clock: Clock = served.clock
        self._fanout = fanout
        self._subscriptions: set[TopicSubscription] = set()
        self._waiting: dict[TopicSubscription, None] = {}  # those that are not live, first come first served
        self._resuming: dict[TopicSubscription, str | None] = {}  # with their cursors, while nothing is known
        self._channels: dict[TopicFilter, TopicChannel] = {}
        self._numbers = itertools.count(1)  # of what goes out to many
        self._number = 0  # the last one
        self._topic_id = ""
        self._positions: dict[int, int] | None = None  # what lies before was read; replaced, never changed
        self._ring = _Ring({})
        self._fresh: list[TopicRecord] = []  # what the channels have not seen
        self._is_stale = False  # the broker does not answer
        self._turns = itertools.count()
        self._reading: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None

    def _next_number(self) -> int:
        self._number = next(self._numbers)
        return self._number

    # -- subscribers -----------------------------------------------------------------------------

    @property
    def subscriptions(self) -> frozenset[TopicSubscription]:
        return frozenset(self._subscriptions)

    def join(self, sub: TopicSubscription, since: str | None) -> None:
        """It is told what comes from now on, or all that has come since its cursor was given."""
        self.idle_since_ms = None
        self._subscriptions.add(sub)
        if self._positions is None:
            self._resuming[sub] = since
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_on(), name=f"streamflow-live-{self.name}")
        else:
            self._admit(sub, since)

    def leave(self, sub: TopicSubscription) -> None:
        self._subscriptions.discard(sub)
        self._resuming.pop(sub, None)
        self._waiting.pop(sub, None)
        self._stop_live(sub)
        if not self._subscriptions:
            self.idle_since_ms = self._clock.monotonic_ms()

    def _stop_live(self, sub: TopicSubscription) -> None:
        sub.stop_live()
        channel = self._channels.get(sub.filter)
        if channel is not None:
            channel.discard(sub)
            if not channel.subscriptions:
                del self._channels[sub.filter]

    def fall_behind(self, sub: TopicSubscription, before: Positions) -> None:
        """It does not take what comes: from here on it is read for, once it takes more."""
        self._stop_live(sub)
        sub.begin(before)
        self._waiting[sub] = None

    def _admit(self, sub: TopicSubscription, since: str | None) -> None:
        """Its first words. Without a cursor it is live at once."""
        assert self._positions is not None
        found = None if since is None else cursor_of(since)
        resumes = found is not None and found.topic_id == self._topic_id
        start = dict(self._positions)
        if found is not None and resumes:
            # A partition that it does not name was not there: all of its records are new.
            start = {partition: found.offsets.get(partition, 0) for partition in start}
        sub.begin(start)
        tail = b'%b,"recovered":%b,"partitions":%b}'
        partitions = encoding.encode(sorted(start))
        recovered = b"true" if resumes else b"false"
        sub.tell("subscribed", tail % (self._meta(start), recovered, partitions), lasts=True)
        if since is not None and not resumes:
            reason = "cursor-expired" if found is None else "topic-recreated"
            sub.tell("reset", self._lost(reason, start, sorted(start)), lasts=True)
        if sub not in self._subscriptions:
            return  # its connection has failed with these words
        self._waiting[sub] = None
        if not self._joins(sub):
            self.go_on()

    def _meta(self, positions: Positions) -> bytes:
        cursor = cursor_text(self._topic_id, positions).encode()
        position = encoding.encode(encoding.position_object(positions))
        return b'"cursor":"%b","position":%b' % (cursor, position)

    def _lost(self, reason: str, after: Positions, partitions: Sequence[int]) -> bytes:
        cursor = cursor_text(self._topic_id, after).encode()
        return b'"cursor":"%b","reason":"%b","partitions":%b}' % (
            cursor,
            reason.encode(),
            encoding.encode(partitions),
        )

    def _synced(self, positions: Positions) -> bytes:
        return b'%b,"partitions":%b}' % (self._meta(positions), encoding.encode(sorted(positions)))

    def _joins(self, sub: TopicSubscription) -> bool:
        """Makes it live, if what was read last reaches back to where it stands, and it is not ahead of us."""
        assert self._positions is not None
        now = self._positions
        if sub not in self._waiting:
            return True  # it has gone with its connection
        if sub.session.is_behind or not self._ring.has_all_behind(sub.positions):
            return False
        if any(at > now[partition] for partition, at in sub.positions.items()):
            return False  # another worker has read further: what it has told must not come twice
        self._show()  # what the others have not been told has a number, and this one has it from the ring
        records = list(filter(sub.filter.wants, self._ring.behind(sub.positions)))
        if records:
            frames = events_frames(sub.id_json, self._topic_id, records, sub.positions, now)
            sub.session.put(frames, sub)
        if self._waiting.pop(sub, sub) is not None:
            return True  # its connection has failed with them
        channel = self._channels.get(sub.filter)
        if channel is None:
            channel = TopicChannel(self._topic_id, sub.filter, self._next_number, now)
            self._channels[sub.filter] = channel
        channel.add(sub)
        sub.start_live(self._number)
        sub.tell("synced", self._synced(now))
        if self._is_stale:
            sub.tell("rebalancing", self._stale_tail())
        return True

    # -- what comes ------------------------------------------------------------------------------

    async def _read_on(self) -> None:
        """The one reader, from the end of what is committed now."""
        while True:
            follower = self._served.follow(self.name)
            try:
                if self._positions is None:
                    self._open(await follower.ends())
                assert self._positions is not None
                await follower.assign(self._positions)
                await self._follow(follower)
            except StreamflowError as exc:
                log.warning("topic %s can't be read for live clients now: %s", self.name, exc)
            except Exception:
                log.exception("live records of topic %s", self.name)
            finally:
                await _closed(follower)
            self._tell_stale()
            await self._clock.sleep_ms(RETRY_MS)

    def _open(self, ends: Ends) -> None:
        self._topic_id = ends.topic_id
        self._positions = dict(ends.offsets)
        self._ring = _Ring(self._positions)
        resuming, self._resuming = self._resuming, {}
        for sub, since in resuming.items():
            if sub in self._subscriptions:
                self._admit(sub, since)

    async def _follow(self, follower: Follows) -> None:
        while True:
            stretches = await follower.read(READ_WAIT_MS)
            if self._is_stale:
                self._is_stale = False
                self._note_all("synced", self._synced(self._positions or {}))
            for stretch in stretches:
                if stretch.gone:
                    self._skip(stretch)
                take = partial(self._take, stretch.partition)
                await self._shown(stretch.messages, stretch.next, take)

    async def _shown(
        self, messages: Sequence[Message], behind: int, take: Callable[[list[TopicRecord], int], None]
    ) -> None:
        """Gives them on as they are shown, in slices; with each where its partition goes on behind it."""
        slices = Slices(self._clock)
        records: list[TopicRecord] = []
        for message in messages:
            shown = message_object(self._served.log, message)
            records.append(TopicRecord(message.partition, message.offset, shown))
            if slices.over():
                take(records, message.offset + 1)
                records = []
                await self._clock.sleep_ms(REST_MS)
                slices = Slices(self._clock)
        take(records, behind)

    def _take(self, partition: int, records: list[TopicRecord], behind: int) -> None:
        assert self._positions is not None
        self._positions = {**self._positions, partition: behind}
        self._ring.add(records)
        self._fresh.extend(records)
        self._fanout.wake(self)
        if self._waiting:
            self.go_on()

    def _skip(self, stretch: Stretch) -> None:
        """Records left the log before anybody here had read them."""
        assert self._positions is not None
        partition = stretch.partition
        first = stretch.messages[0].offset if stretch.messages else stretch.next
        self._show()
        self._positions = {**self._positions, partition: first}
        self._ring.skip(partition, first)
        self._note_all("reset", self._lost("records-lost", self._positions, [partition]), lasts=True)

    # -- what goes out ---------------------------------------------------------------------------

    def stir(self) -> Sequence[TopicChannel]:
        self._show()
        return [channel for channel in self._channels.values() if channel.has_something]

    def _show(self) -> None:
        """To all channels, what has come."""
        if self._positions is None:
            return
        fresh, self._fresh = self._fresh, []
        for channel in self._channels.values():
            channel.see(fresh, self._positions)
        if fresh:
            self._fanout.wake(self)

    def _note_all(self, name: str, tail: bytes, *, lasts: bool = False) -> None:
        self._show()
        for channel in self._channels.values():
            channel.tell(Note(name, tail, lasts=lasts))
        self._fanout.wake(self)

    def _stale_tail(self) -> bytes:
        return b'"partitions":%b}' % encoding.encode(sorted(self._positions or {}))

    def _tell_stale(self) -> None:
        if not self._is_stale and self._positions is not None:
            self._is_stale = True
            self._note_all("rebalancing", self._stale_tail())

    def tell_progress(self) -> None:
        """A cursor moves on where nothing that comes is wanted."""
        if self._positions is None or self._is_stale:
            return
        self._show()
        note = Note("synced", self._synced(self._positions))
        for channel in self._channels.values():
            channel.tell_position(note)
        self._fanout.wake(self)

    def void(self) -> None:
        """Something went wrong as records went out: all go on from the log, where they were."""
        for sub in list(self._subscriptions):
            if sub.is_live:
                sub.session.abort()

    # -- for those who are behind ------------------------------------------------------------------

    def go_on(self) -> None:
        """Somebody waits, and may take more."""
        if self._catching_up is None and self._waiting and self._positions is not None:
            self._catching_up = asyncio.create_task(self._catch_up(), name=f"streamflow-resume-{self.name}")

    async def _catch_up(self) -> None:
        try:
            while self._ready():
                follower = self._served.follow(self.name)
                try:
                    while ready := self._ready():
                        if not await self._turn(ready, follower):
                            await self._clock.sleep_ms(READ_WAIT_MS)  # nothing came: no need to hurry
                except StreamflowError as exc:
                    log.warning("topic %s can't be read for live clients now: %s", self.name, exc)
                    await self._clock.sleep_ms(RETRY_MS)
                finally:
                    await _closed(follower)
        except Exception:
            log.exception("resuming live records of topic %s", self.name)
        finally:
            self._catching_up = None

    def _ready(self) -> list[TopicSubscription]:
        """Those who have to be read for, and take what is read."""
        takers = [sub for sub in self._waiting if not sub.session.is_behind]
        return [sub for sub in takers if not self._joins(sub)]

    async def _turn(self, ready: list[TopicSubscription], follower: Follows) -> bool:
        """Reads a little for some of them: by turns for the one who is furthest behind, with all who
        stand further, and for the one who came first. Did anything come?"""
        assert self._positions is not None
        now = self._positions
        ahead = [sub for sub in ready if any(at > now[p] for p, at in sub.positions.items())]
        if ahead:
            await self._check_ahead(ahead, follower)
        among = ready if next(self._turns) % 2 == 0 else ready[:1]
        start = {p: min(sub.positions[p] for sub in among) for p in now}
        missing = {p: at for p, at in start.items() if at < now[p]}
        if not missing:
            return False  # they are ahead of us: it is for our reader to come up to them
        if among is not ready:
            self._to_the_end(ready[0])
        await follower.assign(missing)
        return await self._read_for(ready, follower, missing)

    def _to_the_end(self, sub: TopicSubscription) -> None:
        if sub in self._waiting:
            del self._waiting[sub]
            self._waiting[sub] = None

    async def _check_ahead(self, subs: list[TopicSubscription], follower: Follows) -> None:
        """Who stands behind the end has a cursor of another topic, or of what the broker has lost."""
        ends = (await follower.ends()).offsets
        for sub in subs:
            lost = [p for p, at in sub.positions.items() if at > ends.get(p, 0)]
            for partition in lost:
                sub.pass_over(partition, ends.get(partition, 0))
            if lost and sub in self._waiting:
                sub.tell("reset", self._lost("records-lost", sub.positions, lost), lasts=True)

    async def _read_for(
        self, subs: list[TopicSubscription], follower: Follows, reached: dict[int, int]
    ) -> bool:
        """From where ``reached`` says up to where our own reader stands now, as far as a turn goes."""
        goals = self._positions or {}  # of this moment: what is read behind them is given to nobody
        until_ms = self._clock.monotonic_ms() + TURN_MS
        left, came = TURN_BYTES, False
        while any(at < goals[p] for p, at in reached.items()):
            if left <= 0 or self._clock.monotonic_ms() >= until_ms:
                break
            for stretch in await follower.read(READ_WAIT_MS):
                partition = stretch.partition
                if partition not in reached or reached[partition] >= goals[partition]:
                    continue
                came = True
                left -= sum(message.size for message in stretch.messages)
                first = stretch.messages[0].offset if stretch.messages else stretch.next
                if stretch.gone:
                    self._tell_lost(subs, partition, reached[partition], first)
                    reached[partition] = first
                messages = [message for message in stretch.messages if message.offset < goals[partition]]
                give = partial(self._give_all, subs, reached, partition)
                await self._shown(messages, max(first, min(stretch.next, goals[partition])), give)
        return came

    def _give_all(
        self,
        subs: list[TopicSubscription],
        reached: dict[int, int],
        partition: int,
        records: list[TopicRecord],
        behind: int,
    ) -> None:
        for sub in subs:
            self._give(sub, partition, reached[partition], records, behind)
        reached[partition] = behind

    def _give(
        self, sub: TopicSubscription, partition: int, first: int, records: list[TopicRecord], behind: int
    ) -> None:
        """What lies from ``first`` to before ``behind``, to one for whom that is what comes next."""
        at = sub.positions[partition]
        if sub not in self._waiting or sub.session.is_behind or not first <= at < behind:
            return
        wanted = [record for record in records if record.offset >= at and sub.filter.wants(record)]
        before = dict(sub.positions)
        sub.pass_over(partition, behind)
        if wanted:
            frames = events_frames(sub.id_json, self._topic_id, wanted, before, sub.positions)
            sub.session.put(frames, sub)

    def _tell_lost(self, subs: list[TopicSubscription], partition: int, from_: int, first: int) -> None:
        """What lay from ``from_`` to before ``first`` has left the log."""
        for sub in subs:
            if sub in self._waiting and from_ <= sub.positions[partition] < first:
                sub.pass_over(partition, first)
                sub.tell("reset", self._lost("records-lost", sub.positions, [partition]), lasts=True)

    def stop(self) -> None:
        for task in (self._reading, self._catching_up):
            if task is not None:
                task.cancel()
        self._reading = None


async def _closed(follower: Follows) -> None:
    """What can't be closed any more is gone."""
    with suppress(StreamflowError):
        await follower.close()
