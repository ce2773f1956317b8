"""One table, live: changes of all its owners in one order, with a history to resume from.

What is promised to every subscription: its snapshot, folded with the changes that follow, equals its
view of the table at the ``position`` of the last message, but for the partitions that it was told are
missing. Where that can't be kept (partitions moved, a peer was away too long) it hears nothing more
until it is told ``reset`` and starts again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence

from streamflow.query.rows import PartitionMoved, TableChanges
from streamflow.query.table_reader import TableReader
from streamflow.web import encoding
from streamflow.web.live.alignment import Alignment
from streamflow.web.live.channel import Channel, Delta
from streamflow.web.live.fanout import Fanout
from streamflow.web.live.filters import Filter, Item
from streamflow.web.live.gathered import Gathered
from streamflow.web.live.history import History
from streamflow.web.live.peer_feed import PeerFeed, PeerSnapshot
from streamflow.web.live.session import Emission, Notice, Snapshot, Subscription
from streamflow.web.peers import Peers, peers_of
from streamflow.web.served import Served
from streamflow.web.settings import WebSettings

SETTLE_MS = 2_000.0
"""How long partitions may be without an owner before subscribers start without them."""
CALM_MS = 250.0
"""Where partitions have moved, subscribers start again once nothing has moved for so long."""
FIRST_CONNECT_MS = 300.0
"""The first connection to the peers may take so long before anybody is told of missing partitions."""
REST_POLL_MS = 5.0
REPLAY_ROWS = 500

Source = tuple[str, int]
"""Address of the peer ("" for ourselves) and an epoch, which is another one when the rows may be others."""


class Feed:
    """``own_rows_only``: what a peer subscribes to; such a feed never asks peers itself."""

    def __init__(
        self,
        served: Served,
        settings: WebSettings,
        peers: Peers,
        reader: TableReader,
        fanout: Fanout,
        *,
        own_rows_only: bool,
    ) -> None:
        self.name = reader.name
        self._fanout = fanout
        self._fresh: deque[Delta] = deque()  # what not every channel has seen
        self._numbers = itertools.count(1)  # of what goes out to many
        self._number = 0  # the last one
        self.served = served
        self.settings = settings
        self.peers = peers
        self.reader = reader
        self.own_rows_only = own_rows_only
        self.subscriptions: set[Subscription] = set()
        self.idle_since_ms: float | None = served.clock.monotonic_ms()
        # Of tables whose rows are merged: what waits, and the position that was told last.
        self._alignment = Alignment(served.clock, reader) if reader.is_merged else None
        self._told: bytes | None = None
        self._channels: dict[tuple[Filter, bool, float | None], Channel] = {}
        self._peer_feeds: dict[str, PeerFeed] = {}  # address of a peer -> its rows, live
        self._positions: dict[str, dict[int, int]] = {}  # address -> source partition -> next offset
        self._watermarks: dict[str, int | None] = {}  # address -> epoch ms
        self._seen: dict[int, int] = {}  # our positions one progress tick ago
        self._loads: set[asyncio.Task[None]] = set()
        self._loading: dict[Filter, list[Subscription]] = {}  # who waits for rows that are being read
        self._recorders: list[list[Item]] = []  # of those who read: what is published meanwhile
        self._owned: frozenset[int] = frozenset()  # at the last look
        self._generation = -1  # at the last look
        self._epoch = 0  # that of our own rows
        self._epochs = itertools.count(1)
        self._sources: dict[int, Source] = {}  # partition -> where its rows come from, at the last look
        self._sources_since_ms = 0.0
        self._synced: dict[int, Source] | None = None  # those of the subscribers' rows; None: none yet
        self._disputed: frozenset[int] = frozenset()  # partitions that several claim, at the last look
        self._synced_disputed: frozenset[int] = frozenset()
        self._sync_count = 0
        self._must_sync = False
        self._missing: frozenset[int] = frozenset()  # told to the subscribers
        self.history = History(settings.ws_history_changes_max)

    def meta(self, seq: int, fingerprint: str, position: bytes) -> bytes:
        """Cursor and position as members of a message."""
        return b'"cursor":"%b","position":%b' % (self.history.cursor(seq, fingerprint), position)

    # -- positions -----------------------------------------------------------------------------

    def position(self) -> bytes:
        """The table's position as JSON: what all owners have reached.

        Of a merged table: that of what is shown, maybe followed by the member that says it is not exact.
        """
        return self._reached() if self._told is None else self._told

    def _reached(self) -> bytes:
        return encoding.encode(encoding.position_object(encoding.least_positions(self._positions.values())))

    def _read_local_position(self) -> None:
        if self.reader.owned:
            status = self.reader.status()
            self._positions[""] = dict(status.positions)
            self._watermarks[""] = status.watermark_ms
        else:
            self._positions.pop("", None)
            self._watermarks.pop("", None)

    # -- what comes in -------------------------------------------------------------------------

    def on_local(self, changes: Sequence[TableChanges]) -> None:
        """A checkpoint of this worker. The rows already hold it."""
        if self._alignment is not None:
            # Before anybody looks whether all agree now: these belong to what they agree on.
            self._alignment.hold([Item.of(change) for part in changes for change in part.changes])
            self.check()
            self._must_sync |= self._alignment.holds and not self._is_synced
            self._release()
            return
        self.check()  # what was gained or restored with these changes is no change of what was shown
        before = self.position()
        self._read_local_position()
        self._offer([Item.of(change) for part in changes for change in part.changes], before)

    def on_remote(self, url: str, items: list[Item], position: dict[int, int]) -> None:
        """A checkpoint of a peer."""
        self.check()
        if url not in self._peer_feeds:
            return  # we have just let go of it
        before = self.position()
        self._positions[url] = position
        self._offer([item for item in items if self._comes_from(item, url)], before)

    def on_remote_progress(self, url: str, position: dict[int, int], watermark_ms: int | None) -> None:
        if url in self._peer_feeds:
            self._positions[url] = position
            self._watermarks[url] = watermark_ms
            self._release()

    def watermark_of(self, url: str) -> int | None:
        return self._watermarks.get(url)

    def _offer(self, items: list[Item], before: bytes) -> None:
        if items and not self._is_synced:
            self._must_sync = True  # even if all is as it was a moment later: these would be lacking
        elif self._alignment is not None:
            self._alignment.hold(items)
            self._release()
        elif items:
            self._publish(items, before)

    def _release(self) -> None:
        """Shows what has waited until all partitions have come equally far, when they have."""
        alignment = self._alignment
        if alignment is None or not self._is_synced:
            return
        self._read_local_position()
        agrees = alignment.agree(self._positions.values())
        if not agrees and not (alignment.is_overdue and alignment.holds):
            return
        before = self.position()
        self._told = self._reached() if agrees else self._reached() + b',"exact":false'
        items = alignment.take()
        if items:
            self._publish(items, before)
        elif self.own_rows_only and self._told != before:
            self._tell_position()  # what the others have of this commit waits for it

    @property
    def _is_at_rest(self) -> bool:
        """Are the rows those of the position that is told, or have they not been for too long?"""
        alignment = self._alignment
        if alignment is None:
            return True
        self._release()
        return not alignment.holds and (alignment.agree(self._positions.values()) or alignment.is_overdue)

    def _publish(self, items: list[Item], before: bytes) -> None:
        for recorder in self._recorders:
            recorder.extend(items)
        delta = self.history.add(items, self.position(), before)
        if self._channels:
            self._fresh.append(delta)
            self._fanout.wake(self)

    def stir(self) -> list[Channel]:
        """Lets every channel see what is new; those that have something to say."""
        fresh, channels = self._fresh, list(self._channels.values())
        for channel in channels:
            channel.see(fresh)
        fresh.clear()
        return [channel for channel in channels if channel.ripen()]

    def _wake(self) -> None:
        self._fanout.wake(self)

    def _next_number(self) -> int:
        self._number = next(self._numbers)
        return self._number

    def tell_progress(self) -> None:
        """Positions move without changes too. Ours counts when it is one tick old: until then changes
        that belong to it may still be on their way to us."""
        self.check()
        if not self._is_synced:
            return
        if self.reader.owned:
            status = self.reader.status()
            if "" in self._positions and self._alignment is None:
                for partition, offset in self._seen.items():
                    if partition in status.positions:
                        known = self._positions[""].get(partition, 0)
                        self._positions[""][partition] = max(offset, known)
                self._watermarks[""] = status.watermark_ms
            self._seen = dict(status.positions)
        self._tell_position()

    def _tell_position(self) -> None:
        watermark = encoding.time_text(encoding.least_watermark(self._watermarks.values()))
        tail = b'"position":%b,"watermark":%b}' % (self.position(), encoding.encode(watermark))
        for channel in self._channels.values():
            channel.see(self._fresh)
            channel.tell_progress(tail)
        self._wake()

    # -- subscribers ---------------------------------------------------------------------------

    def join(self, sub: Subscription, since: str | None) -> None:
        """A new subscription: resumes from ``since`` if that is still known, else from a snapshot."""
        self.check()  # before it is one of us: it must hear `subscribed` first
        self.subscriptions.add(sub)
        self.idle_since_ms = None
        if self._is_synced and since is not None:
            deltas = self.history.after(since, sub.filter.fingerprint)
            if deltas is not None:
                self._tell_subscribed(sub, recovered=True)
                self._replay(sub, deltas)
                return
        self._tell_subscribed(sub, recovered=False)
        if since is not None:
            sub.tell("reset", self._reset_tail("cursor-expired"), lasts=True)
        if self._is_synced:
            self._start(sub)
        elif self._missing:
            sub.tell("rebalancing", self._missing_tail())

    @property
    def _is_synced(self) -> bool:
        """Whether what the subscribers have comes from where the rows are now. Missing ones don't matter:
        what was shown of them stands, and is told to be old."""
        if self._synced is None or self._must_sync or self._disputed - self._synced_disputed:
            return False
        return all(self._synced.get(partition) == source for partition, source in self._sources.items())

    def _tell_subscribed(self, sub: Subscription, *, recovered: bool) -> None:
        if not self._positions:
            self._read_local_position()
        meta = self.meta(self.history.seq, sub.filter.fingerprint, self.position())
        tail = b'%b,"recovered":%b,"partitions":%b}'
        covered = encoding.encode(sorted(self.covered()))
        sub.tell("subscribed", tail % (meta, b"true" if recovered else b"false", covered), lasts=True)

    def _replay(self, sub: Subscription, deltas: Sequence[Delta]) -> None:
        held: list[Item] = []
        first = None
        for index, delta in enumerate(deltas):
            first = first or delta
            held.extend(item for item in map(sub.filter.view, delta.items) if item is not None)
            if held and (len(held) >= REPLAY_ROWS or index == len(deltas) - 1):
                meta = self.meta(delta.seq, sub.filter.fingerprint, delta.position)
                before = self.meta(first.seq - 1, sub.filter.fingerprint, first.before)
                sub.session.put(Emission(held, meta, before).frames(sub.id_json), sub)
                held, first = [], None
        self._go_live(sub)

    def _go_live(self, sub: Subscription) -> None:
        """From here on ``sub`` gets every change."""
        assert self._synced is not None
        # What is missing now, this one has not seen: should it come back unchanged, it is new all the same.
        self._synced = {p: source for p, source in self._synced.items() if p in self._sources}
        key = _channel_key(sub)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(
                self.served.clock,
                self.meta,
                self._next_number,
                self._wake,
                sub.filter,
                seq=self.history.seq,
                conflates=sub.mode == "latest",
                max_hz=sub.max_hz,
            )
        channel.see(self._fresh)
        channel.flush()  # what it holds back is in what this one already has
        channel.add(sub)
        sub.start_live(self._number)
        self._tell_synced(sub)
        self._wake()

    def _tell_synced(self, sub: Subscription) -> None:
        sub.tell("synced", self._synced_tail(sub.filter))
        if self._missing:
            sub.tell("rebalancing", self._missing_tail())

    def _synced_tail(self, view: Filter) -> bytes:
        meta = self.meta(self.history.seq, view.fingerprint, self.position())
        return b'%b,"partitions":%b}' % (meta, encoding.encode(sorted(self.covered())))

    def _leave_channels(self, sub: Subscription) -> None:
        sub.stop_live()
        key = _channel_key(sub)
        channel = self._channels.get(key)
        if channel is not None:
            channel.discard(sub)
            if not channel.subscriptions:
                channel.stop()
                del self._channels[key]

    def leave(self, sub: Subscription) -> None:
        self.subscriptions.discard(sub)
        self._leave_channels(sub)
        if not self.subscriptions:
            self.idle_since_ms = self.served.clock.monotonic_ms()

    def resync(self, sub: Subscription, reason: str) -> None:
        """Voids what ``sub`` was told, and starts it again."""
        sub.session.purge(sub)
        self._leave_channels(sub)
        sub.tell("reset", self._reset_tail(reason), lasts=True)
        self._start(sub)

    def _reset_tail(self, reason: str) -> bytes:
        return b'"reason":"%b","partitions":%b}' % (reason.encode(), encoding.encode(sorted(self.covered())))

    # -- snapshots -----------------------------------------------------------------------------

    def _start(self, sub: Subscription) -> None:
        self._look()
        if self._is_synced:
            self._start_all([sub])
        else:
            self._must_sync = True  # which starts all of them

    def _start_all(self, subs: Sequence[Subscription]) -> None:
        """Brings subscriptions to life, those of one filter with one snapshot."""
        by_filter: dict[Filter, list[Subscription]] = {}
        for sub in subs:
            if sub.wants_snapshot:
                by_filter.setdefault(sub.filter, []).append(sub)
            else:
                self._go_live(sub)
        for view, waiting in by_filter.items():
            if view in self._loading:
                self._loading[view].extend(waiting)  # what is being read is given out when it is whole
                continue
            self._loading[view] = waiting
            snapshots = [peer.collect(view) for peer in self._peer_feeds.values() if peer.covered]
            task = asyncio.create_task(self._load(view, waiting, snapshots, self._sync_count))
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)

    async def _load(
        self, view: Filter, waiting: list[Subscription], snapshots: list[PeerSnapshot], sync_count: int
    ) -> None:
        """Reads this worker's rows in slices while those of the peers come; gives them out in one step.

        What is published meanwhile is folded into what was read: so all rows are of one moment in the end.
        """
        published: list[Item] = []
        self._recorders.append(published)
        try:
            rows = await self._read(view)
            await asyncio.gather(*(snapshot.done.wait() for snapshot in snapshots))
            while not self._is_at_rest and sync_count == self._sync_count:
                await self.served.clock.sleep_ms(REST_POLL_MS)
            refused = [snapshot.error for snapshot in snapshots if snapshot.error]
            if refused:
                self._refuse(waiting, refused[0])
                return
            self.check()
            if sync_count != self._sync_count:
                return  # all were started again meanwhile
            if not self._is_synced or any(snapshot.is_lost for snapshot in snapshots):
                self._must_sync = True  # with the next owner, or when the peer is back
                return
            rows.fold([item for item in published if self._comes_from(item, "")], view)
            self._deliver(waiting, rows, snapshots)
        except (PartitionMoved, KeyError):
            self._must_sync = True
        finally:
            self._recorders.remove(published)
            if self._loading.get(view) is waiting:
                del self._loading[view]
            for snapshot in snapshots:
                snapshot.close()

    async def _read(self, view: Filter) -> Gathered:
        """This worker's rows, or some more than may be sent."""
        rows = Gathered()
        async for some in view.rows(self.reader):
            for row in some:
                rows.add(Item("upsert", row))
            if len(rows) > self.settings.ws_snapshot_rows_max:
                break
        return rows

    def _deliver(self, waiting: list[Subscription], own: Gathered, snapshots: list[PeerSnapshot]) -> None:
        most = self.settings.ws_snapshot_rows_max
        self._read_local_position()
        if self._alignment is not None:
            agrees = self._alignment.agree(self._positions.values())
            self._told = self._reached() if agrees else self._reached() + b',"exact":false'
        if len(own) + sum(len(theirs.rows) for theirs in snapshots) > most:
            why = f"more than {most} rows: subscribe to some keys or a prefix, or without a snapshot"
            self._refuse(waiting, why)
            return
        parts = [(own, self._partitions_of(""))]
        parts += [(theirs.rows, self._partitions_of(theirs.peer.url)) for theirs in snapshots]
        snapshot = Snapshot(parts, self.settings.ws_snapshot_chunk_rows)
        for sub in waiting:
            if sub in self.subscriptions and not sub.is_live:
                sub.session.put_snapshot(snapshot, sub)
                self._go_live(sub)

    def _partitions_of(self, url: str) -> frozenset[int]:
        return frozenset(partition for partition, (source, _) in self._sources.items() if source == url)

    def _refuse(self, waiting: list[Subscription], why: str) -> None:
        for sub in waiting:
            if sub in self.subscriptions and not sub.is_live:
                sub.session.say("error", id=sub.id, code="snapshot-too-large", message=why, retry=False)
                sub.session.subscriptions.pop(sub.id, None)
                self.leave(sub)

    # -- owners --------------------------------------------------------------------------------

    def next_epoch(self) -> int:
        """A number that no source of this feed has had."""
        return next(self._epochs)

    def covered(self) -> frozenset[int]:
        """The partitions whose rows this feed shows now."""
        return frozenset(self._sources)

    def _comes_from(self, item: Item, url: str) -> bool:
        return self._sources.get(item.row.partition, ("", 0))[0] == url

    def _look(self) -> None:
        """Finds out where the rows of each partition come from now."""
        owned, generation = self.reader.owned, self.served.generation()
        if generation != self._generation or owned - self._owned:
            # What went and came back may have changed meanwhile: the same partitions are not the same rows.
            self._epoch = self.next_epoch()
        self._owned, self._generation = owned, generation
        if not self.own_rows_only:
            self._choose_peers(frozenset(range(self.reader.partitions)) - owned)
        sources: dict[int, Source] = {}
        claims = [owned, *(peer_feed.covered for peer_feed in self._peer_feeds.values())]
        for url, peer_feed in self._peer_feeds.items():
            sources.update(dict.fromkeys(peer_feed.covered, (url, peer_feed.epoch)))
        sources.update(dict.fromkeys(owned, ("", self._epoch)))
        # Two that claim a partition: one has not told us yet that it is gone. Its position can't be used.
        self._disputed = frozenset(p for p in sources if sum(p in claim for claim in claims) > 1)
        if sources != self._sources:
            self._sources = sources
            self._sources_since_ms = self.served.clock.monotonic_ms()

    def check(self) -> None:
        """Looks who owns what; starts subscribers again when the rows come from elsewhere than before."""
        self._look()
        missing = frozenset(range(self.reader.partitions)) - self.covered()
        since_ms = self.served.clock.monotonic_ms() - self._sources_since_ms
        if self.own_rows_only:
            # A peer takes every change of what we own as a new start, and knows itself what is missing.
            if not self._is_synced or self._synced != self._sources:
                self._sync_all(frozenset())
            else:
                self._release()
        elif self._is_synced:
            self._tell_missing(missing)
            self._release()
        elif since_ms >= (SETTLE_MS if missing or self._disputed else self._calm_ms):
            self._sync_all(missing)
        elif self._synced is not None or since_ms >= FIRST_CONNECT_MS:
            # What has come back from elsewhere is shown only after the new start: until then it is missing.
            self._tell_missing(missing | self._missing)

    @property
    def _calm_ms(self) -> float:
        """So long nothing must move before all start again: a rebalance comes in steps, and is told once."""
        return 0.0 if self._synced is None else CALM_MS

    def _choose_peers(self, partitions: frozenset[int]) -> None:
        by_url, _ = peers_of(self.served, self.reader, partitions)
        for url in [url for url in self._peer_feeds if url not in by_url]:
            self._peer_feeds.pop(url).stop()
            self._positions.pop(url, None)
            self._watermarks.pop(url, None)
        for url in by_url:
            if url not in self._peer_feeds:
                clock = self.served.clock
                self._peer_feeds[url] = PeerFeed(self, self.peers, clock, self.reader.name, url)

    def void(self) -> None:
        """Something went wrong: all subscribers start again at the next look."""
        self._must_sync = True

    def _missing_tail(self) -> bytes:
        return b'"partitions":%b}' % encoding.encode(sorted(self._missing))

    def _tell_missing(self, missing: frozenset[int]) -> None:
        if missing == self._missing:
            return
        self._missing = missing
        for sub in self.subscriptions if missing else ():
            if not sub.is_live:
                sub.tell("rebalancing", self._missing_tail())
        for channel in self._channels.values():
            channel.see(self._fresh)
            if missing:
                channel.tell(Notice("rebalancing", self._missing_tail()))
            else:
                channel.tell(Notice("synced", self._synced_tail(channel.filter)))
        self._wake()

    def _sync_all(self, missing: frozenset[int]) -> None:
        """A new start for everybody: old cursors say nothing about the new sources."""
        is_first = self._synced is None
        self._synced = dict(self._sources)
        self._synced_disputed = self._disputed
        self._sync_count += 1
        self._must_sync = False
        self._missing = missing
        self._fresh.clear()
        self._loading = {}  # they are started again
        self._told = None
        if self._alignment is not None:
            self._alignment.forget()
        self.history = History(self.settings.ws_history_changes_max)
        self._read_local_position()
        self._seen = {}
        subs = list(self.subscriptions)
        for sub in subs:
            sub.session.purge(sub)
            self._leave_channels(sub)
            if not is_first:
                sub.tell("reset", self._reset_tail("rebalanced"), lasts=True)
        self._start_all(subs)

    def stop(self) -> None:
        for peer_feed in self._peer_feeds.values():
            peer_feed.stop()
        for channel in self._channels.values():
            channel.stop()
        for task in self._loads:
            task.cancel()
        self._peer_feeds = {}
        self._channels = {}


def _channel_key(sub: Subscription) -> tuple[Filter, bool, float | None]:
    return (sub.filter, sub.mode == "latest", sub.max_hz)
