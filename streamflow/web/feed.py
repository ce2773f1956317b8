"""One table, live: changes of all its owners in one order, with a history to resume from.

What is promised to every subscription: its snapshot, folded with the changes that follow, equals its
view of the table at the ``position`` of the last message. Where that can't be kept (partitions moved, a
peer was away too long) it is told ``reset`` and starts again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from streamflow.rows import TableChanges, TableReader
from streamflow.web import encoding
from streamflow.web.filters import Filter, Item, RowId
from streamflow.web.peers import Peers, peers_of
from streamflow.web.served import Served
from streamflow.web.session import Emission, Snapshot, Subscription
from streamflow.web.settings import WebSettings
from streamflow.web.upstream import Collector, Upstream

SETTLE_MS = 2_000.0
"""How long partitions may be without an owner before subscribers start without them."""
FIRST_CONNECT_MS = 300.0
"""The first connection to the peers may take so long before anybody is told of missing partitions."""
HISTORY_DELTAS_MAX = 2_000
REPLAY_ROWS = 500


@dataclass(frozen=True, slots=True)
class Delta:
    """What one checkpoint of one worker changed.

    ``position``: that of the table with it, as JSON; ``before``: without it.
    """

    seq: int
    items: Sequence[Item]
    position: bytes
    before: bytes


class Channel:
    """The subscriptions that get the very same messages: one filter, one rate."""

    def __init__(self, feed: Feed, view: Filter, conflates: bool, max_hz: float | None) -> None:
        self.feed = feed
        self.filter = view
        self.subscriptions: set[Subscription] = set()
        self._fingerprint = view.fingerprint
        self._conflates = conflates
        self._interval_ms = 0.0 if max_hz is None else 1_000.0 / max_hz
        self._held: list[Item] = []
        self._held_by_id: dict[RowId, Item] = {}
        self._skipped = 0
        self._first: Delta | None = None  # of those that are held
        self._last: Delta | None = None
        self._sent_at_ms = float("-inf")
        self._timer: asyncio.Task[None] | None = None

    def offer(self, delta: Delta) -> None:
        items = [item for item in map(self.filter.view, delta.items) if item is not None]
        if not items:
            return
        self._last = delta
        if self._first is None:
            self._first = delta
        if self._interval_ms == 0.0:
            self._emit(items, 0)
            return
        self._hold(items)
        wait_ms = self._sent_at_ms + self._interval_ms - self.feed.served.clock.monotonic_ms()
        if wait_ms <= 0:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.create_task(self._flush_in(wait_ms))

    def _hold(self, items: list[Item]) -> None:
        if not self._conflates:
            self._held.extend(items)
            return
        before = len(self._held_by_id)
        for item in items:
            self._held_by_id[item.id] = item
        self._skipped += before + len(items) - len(self._held_by_id)

    async def _flush_in(self, wait_ms: float) -> None:
        await self.feed.served.clock.sleep_ms(wait_ms)
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Sends what the rate has held back."""
        held = self._held or list(self._held_by_id.values())
        skipped, self._skipped = self._skipped, 0
        self._held, self._held_by_id = [], {}
        if held:
            self._sent_at_ms = self.feed.served.clock.monotonic_ms()
            self._emit(held, skipped)

    def _emit(self, items: Sequence[Item], skipped: int) -> None:
        assert self._first is not None
        assert self._last is not None
        meta = self.feed.meta(self._last.seq, self._fingerprint, self._last.position)
        before = self.feed.meta(self._first.seq - 1, self._fingerprint, self._first.before)
        self._first = None
        emission = Emission(items, meta, before, skipped)
        for sub in list(self.subscriptions):
            sub.offer(emission)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Feed:
    """``own_rows_only``: what a peer subscribes to; such a feed never asks peers itself."""

    def __init__(
        self, served: Served, settings: WebSettings, peers: Peers, reader: TableReader, *, own_rows_only: bool
    ) -> None:
        self.served = served
        self.settings = settings
        self.peers = peers
        self.reader = reader
        self.own_rows_only = own_rows_only
        self.subscriptions: set[Subscription] = set()
        self.idle_since_ms: float | None = served.clock.monotonic_ms()
        self._channels: dict[tuple[Filter, bool, float | None], Channel] = {}
        self._upstreams: dict[str, Upstream] = {}  # address of a peer -> its rows, live
        self._positions: dict[str, dict[int, int]] = {}  # address -> source partition -> next offset
        self._watermarks: dict[str, int | None] = {}  # address -> epoch ms
        self._seen: dict[int, int] = {}  # our positions one progress tick ago
        self._told: bytes = b""  # the progress told last
        self._loads: set[asyncio.Task[None]] = set()
        self._owned: frozenset[int] = frozenset()  # at the last look
        self._moves = 0  # how often that changed
        self._topology: object = None  # at the last look
        self._topology_since_ms = 0.0
        self._synced: object = None  # topology that the subscribers' rows come from; None: none yet
        self._missing: frozenset[int] = frozenset()  # told to the subscribers
        self._start_history()

    # -- history and cursors -------------------------------------------------------------------

    def _start_history(self) -> None:
        self.id = secrets.token_hex(4)
        self.seq = 0
        self._history: deque[Delta] = deque()
        self._history_changes = 0
        self._forgotten_seq = 0  # the last one that is not in the history any more

    def _remember(self, delta: Delta) -> None:
        self._history.append(delta)
        self._history_changes += len(delta.items)
        while (
            self._history_changes > self.settings.ws_history_changes_max
            or len(self._history) > HISTORY_DELTAS_MAX
        ):
            old = self._history.popleft()
            self._history_changes -= len(old.items)
            self._forgotten_seq = old.seq

    def meta(self, seq: int, fingerprint: str, position: bytes) -> bytes:
        """Cursor and position as members of a message."""
        return b'"cursor":"%b.%d.%b","position":%b' % (self.id.encode(), seq, fingerprint.encode(), position)

    def _replayable(self, since: str, view: Filter) -> list[Delta] | None:
        """What came after the cursor, or ``None`` if that is not known any more."""
        feed_id, _, rest = since.partition(".")
        seq_text, _, fingerprint = rest.partition(".")
        if feed_id != self.id or fingerprint != view.fingerprint or not seq_text.isdigit():
            return None
        seq = int(seq_text[:18])
        if not self._forgotten_seq <= seq <= self.seq:
            return None
        return [delta for delta in self._history if delta.seq > seq]

    # -- positions -----------------------------------------------------------------------------

    def position(self) -> bytes:
        """The table's position as JSON: what all owners have reached."""
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
        before = self.position()
        self._read_local_position()
        self._publish([Item.of(change) for part in changes for change in part.changes], before)

    def on_remote(self, url: str, items: list[Item], position: dict[int, int]) -> None:
        """A checkpoint of a peer."""
        before = self.position()
        self._positions[url] = position
        self._publish(items, before)

    def on_remote_progress(self, url: str, position: dict[int, int], watermark_ms: int | None) -> None:
        self._positions[url] = position
        self._watermarks[url] = watermark_ms

    def watermark_of(self, url: str) -> int | None:
        return self._watermarks.get(url)

    def _publish(self, items: list[Item], before: bytes) -> None:
        if not items:
            return
        self.seq += 1
        delta = Delta(self.seq, items, self.position(), before)
        self._remember(delta)
        for channel in self._channels.values():
            channel.offer(delta)

    def tell_progress(self) -> None:
        """Positions move without changes too. Ours counts when it is one tick old: until then changes
        that belong to it may still be on their way to us."""
        if self.reader.owned:
            status = self.reader.status()
            if "" in self._positions:
                for partition, offset in self._seen.items():
                    if partition in status.positions:
                        known = self._positions[""].get(partition, 0)
                        self._positions[""][partition] = max(offset, known)
                self._watermarks[""] = status.watermark_ms
            self._seen = dict(status.positions)
        watermark = encoding.time_text(encoding.least_watermark(self._watermarks.values()))
        tail = b'"position":%b,"watermark":%b}' % (self.position(), encoding.encode(watermark))
        if tail != self._told:
            self._told = tail
            for sub in list(self.subscriptions):
                sub.offer_progress(tail)

    # -- subscribers ---------------------------------------------------------------------------

    def join(self, sub: Subscription, since: str | None) -> None:
        """A new subscription: resumes from ``since`` if that is still known, else from a snapshot."""
        self.check()  # before it is one of us: it must hear `subscribed` first
        self.subscriptions.add(sub)
        self.idle_since_ms = None
        if self._is_synced and since is not None:
            deltas = self._replayable(since, sub.filter)
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
        return self._synced is not None and self._synced == self._topology

    def _tell_subscribed(self, sub: Subscription, *, recovered: bool) -> None:
        if not self._positions:
            self._read_local_position()
        meta = self.meta(self.seq, sub.filter.fingerprint, self.position())
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
        key = (sub.filter, sub.mode == "latest", sub.max_hz)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(self, *key)
        channel.flush()  # what it holds back is in what this one already has
        channel.subscriptions.add(sub)
        sub.is_live = True
        self._tell_synced(sub)

    def _tell_synced(self, sub: Subscription) -> None:
        meta = self.meta(self.seq, sub.filter.fingerprint, self.position())
        sub.tell("synced", b'%b,"partitions":%b}' % (meta, encoding.encode(sorted(self.covered()))))
        if self._missing:
            sub.tell("rebalancing", self._missing_tail())

    def _leave_channels(self, sub: Subscription) -> None:
        sub.is_live = False
        for key, channel in list(self._channels.items()):
            channel.subscriptions.discard(sub)
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
        self._start_all([sub])

    def _start_all(self, subs: Sequence[Subscription]) -> None:
        """Brings subscriptions to life, those of one filter with one snapshot."""
        by_filter: dict[Filter, list[Subscription]] = {}
        for sub in subs:
            if sub.wants_snapshot:
                by_filter.setdefault(sub.filter, []).append(sub)
            else:
                self._go_live(sub)
        for view, waiting in by_filter.items():
            collectors = [
                upstream.collect(view) for upstream in self._upstreams.values() if upstream.is_connected
            ]
            if not collectors:
                self._deliver(view, waiting, [])
                continue
            task = asyncio.create_task(self._load(view, waiting, collectors, self._synced))
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)

    async def _load(
        self, view: Filter, waiting: list[Subscription], collectors: list[Collector], topology: object
    ) -> None:
        """Waits for the peers' rows; ours are read when theirs are complete, all in one step."""
        try:
            await asyncio.gather(*(collector.done.wait() for collector in collectors))
            refused = [collector.error for collector in collectors if collector.error]
            if refused:
                self._refuse(waiting, refused[0])
            elif topology == self._synced and not any(collector.is_lost for collector in collectors):
                self._deliver(view, waiting, collectors)
            # Else they are started again: with the new owners, or when the peer is back.
        finally:
            for collector in collectors:
                collector.close()

    def _deliver(self, view: Filter, waiting: list[Subscription], collectors: list[Collector]) -> None:
        rows = [Item("upsert", row) for row in view.rows(self.reader)]
        self._read_local_position()
        for collector in collectors:
            rows.extend(collector.rows.values())
        if len(rows) > self.settings.ws_snapshot_rows_max:
            self._refuse(
                waiting, f"{len(rows)} rows: subscribe to some keys or a prefix, or without a snapshot"
            )
            return
        snapshot = Snapshot(rows, self.settings.ws_snapshot_chunk_rows)
        for sub in waiting:
            if sub in self.subscriptions and not sub.is_live:
                sub.session.put_snapshot(snapshot, sub)
                self._go_live(sub)

    def _refuse(self, waiting: list[Subscription], why: str) -> None:
        for sub in waiting:
            if sub in self.subscriptions and not sub.is_live:
                sub.session.say("error", id=sub.id, code="snapshot-too-large", message=why, retry=False)
                sub.session.subscriptions.pop(sub.id, None)
                self.leave(sub)

    # -- owners --------------------------------------------------------------------------------

    def covered(self) -> frozenset[int]:
        """The partitions whose rows this feed shows now."""
        remote: frozenset[int] = frozenset().union(*(up.covered for up in self._upstreams.values()))
        return self.reader.owned | remote

    def check(self) -> None:
        """Looks who owns what; starts subscribers again when the rows come from elsewhere than before."""
        owned = self.reader.owned
        partitions = frozenset(range(self.reader.partitions))
        if not self.own_rows_only:
            self._choose_upstreams(partitions - owned)
        sources = tuple(sorted((url, up.epoch, up.covered) for url, up in self._upstreams.items()))
        if owned != self._owned:
            # What went and came back may have changed meanwhile, so that the same set is not the same rows.
            self._owned = owned
            self._moves += 1
        topology = (self.served.generation(), self._moves, sources)
        now_ms = self.served.clock.monotonic_ms()
        if topology != self._topology:
            self._topology = topology
            self._topology_since_ms = now_ms
        missing = partitions - self.covered()
        if self._is_synced:
            if missing != self._missing and not self.own_rows_only:
                self._tell_missing(missing)
            return
        is_settled = now_ms - self._topology_since_ms >= SETTLE_MS
        if self.own_rows_only or not missing or is_settled:
            self._sync_all(missing)
        elif self._synced is not None or now_ms - self._topology_since_ms >= FIRST_CONNECT_MS:
            self._tell_missing(missing)

    def _choose_upstreams(self, partitions: frozenset[int]) -> None:
        by_url, _ = peers_of(self.served, self.reader, partitions)
        for url in [url for url in self._upstreams if url not in by_url]:
            self._upstreams.pop(url).stop()
            self._positions.pop(url, None)
            self._watermarks.pop(url, None)
        for url in by_url:
            if url not in self._upstreams:
                self._upstreams[url] = Upstream(self, url)

    def void(self) -> None:
        """Something went wrong: all subscribers start again at the next look."""
        self._synced = ("void",)

    def _missing_tail(self) -> bytes:
        return b'"partitions":%b}' % encoding.encode(sorted(self._missing))

    def _tell_missing(self, missing: frozenset[int]) -> None:
        if missing == self._missing:
            return
        self._missing = missing
        for sub in list(self.subscriptions):
            if missing:
                sub.tell("rebalancing", self._missing_tail())
            elif sub.is_live:
                self._tell_synced(sub)

    def _sync_all(self, missing: frozenset[int]) -> None:
        """A new start for everybody: old cursors say nothing about the new sources."""
        is_first = self._synced is None
        self._synced = self._topology
        self._missing = frozenset() if self.own_rows_only else missing
        self._start_history()
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
        for upstream in self._upstreams.values():
            upstream.stop()
        for channel in self._channels.values():
            channel.stop()
        for task in self._loads:
            task.cancel()
        self._upstreams = {}
        self._channels = {}
