"""One worker as the web view serves it: its readers, what changes their rows, and how it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, overload

from streamflow.aggregates.shuffle.final import FinalStage, RowId
from streamflow.aggregates.shuffle.session_stage import SessionFinalStage
from streamflow.clock import Clock
from streamflow.engine.engine import Engine
from streamflow.errors import StreamflowError
from streamflow.metrics import Metrics
from streamflow.processing.circuit_breaker import STATE_NUMBERS, circuit_states
from streamflow.query.agent_tables import AgentReader
from streamflow.query.aggregate_tables import FinalStageReader
from streamflow.query.browse import Browser
from streamflow.query.facts import AgentFacts, WorkerFacts
from streamflow.query.follow import Follower
from streamflow.query.letter_book import LetterBook
from streamflow.query.publishing import Publishes
from streamflow.query.reader import TableReaderBase
from streamflow.query.readers import make_readers
from streamflow.query.rows import Operation, RowChange, RowListener, TableChanges
from streamflow.query.standby_tables import Standby, make_standby
from streamflow.query.table_reader import StandbyReader, TableReader
from streamflow.query.topic_facts import TopicBook
from streamflow.query.worker_facts import agent_facts, worker_facts
from streamflow.state.committed import CommittedChanges
from streamflow.state.progress import OUTCOMES
from streamflow.state.stores.base import DELETED, MISSING
from streamflow.transports.base import Member
from streamflow.windows import SessionWindow

logger = logging.getLogger(__name__)


class LazyChanges(Sequence[RowChange]):
    """Changes that are looked up when somebody asks, so that a table that nobody watches costs nothing.

    To be read at once, while the rows are those of the checkpoint that told of them.
    """

    def __init__(self, make: Callable[[], list[RowChange]]) -> None:
        self._make: Callable[[], list[RowChange]] | None = make
        self._made: list[RowChange] = []

    def _read(self) -> list[RowChange]:
        make, self._make = self._make, None
        if make is not None:
            self._made = make()
        return self._made

    @overload
    def __getitem__(self, index: int) -> RowChange: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RowChange]: ...
    def __getitem__(self, index: int | slice) -> RowChange | Sequence[RowChange]:
        return self._read()[index]

    def __iter__(self) -> Iterator[RowChange]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


class WorkerView:
    """What a worker shows of its engine: see `streamflow.web.served.Served`.

    To be made before the engine starts, and told by `open` when it has. An `EngineListener`; ``on_live`` is
    called when partitions are live; ``publisher`` sends what comes over HTTP.
    """

    def __init__(
        self,
        engine: Engine,
        url: str,
        on_live: Callable[[], None] = lambda: None,
        *,
        publisher: Publishes | None = None,
    ) -> None:
        self.engine = engine
        self.url = url
        self._on_live = on_live
        self._tables: dict[str, TableReaderBase] = {}
        self._standbys: dict[str, Standby | None] = {}
        self._is_open = False
        self._listeners: list[RowListener] = []
        self._generation = 0
        self._ready: set[tuple[str, int]] = set()  # final stages that were seen ready
        self._started_ms = engine.clock.now_ms()
        self._committed_ms: int | None = None
        self.topics = TopicBook(engine)
        self.log = Browser(engine)
        self.letters = LetterBook(engine, self.log)
        self.publisher = publisher
        engine.listen(self)
        engine.metrics.on_collect(self._collect)

    def open(self) -> None:
        """The engine knows the partitions of everything now."""
        if not self._is_open:
            self._tables.update(make_readers(self.engine))
            self._is_open = True

    # -- Served --------------------------------------------------------------------------------

    @property
    def app_id(self) -> str:
        return self.engine.settings.id

    @property
    def tables(self) -> Mapping[str, TableReader]:
        return self._tables

    def standby(self, table: str) -> StandbyReader | None:
        if table not in self._standbys:
            self._standbys[table] = make_standby(self.engine, table)
        standby = self._standbys[table]
        if standby is None or not standby.owned:
            return None
        standby.renew()
        return standby

    def knows_tables(self) -> bool:
        return self._is_open

    def follow(self, topic: str) -> Follower:
        return Follower(self.engine, topic)

    @property
    def clock(self) -> Clock:
        return self.engine.clock

    @property
    def metrics(self) -> Metrics:
        return self.engine.metrics

    def listen(self, listener: RowListener) -> Callable[[], None]:
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    async def apply_late(self, table: str) -> Mapping[str, int]:
        """Folds what came too late in this worker's partitions into its closed windows; durable on return.

        Returns how many events were ``applied``, have ``expired`` or are ``unsupported``. Raises
        StreamflowError when the partitions went while it was on its way: then some may be applied, each
        exactly once, and asking again applies the rest.
        """
        engine, active = self.engine, self.engine.active
        done = {"applied": 0, "expired": 0, "unsupported": 0}
        if active is None or not engine.live:
            return done
        for aggregate_partition in active.aggregate_partitions:
            if aggregate_partition.aggregate.spec.name == table and aggregate_partition.revisions is not None:
                for name, count in aggregate_partition.revisions.apply().items():
                    done[name] += count
        await engine.checkpoint()
        if engine.active is not active:
            raise StreamflowError("partitions moved while late events were being applied; ask again")
        return done

    def members(self) -> tuple[Member, ...]:
        return self.engine.rebalance.members

    def generation(self) -> int:
        return self._generation

    def ready(self) -> bool:
        engine = self.engine
        if engine.failure is not None or not engine.topology.sources:
            return engine.failure is None
        if engine.watch.reason() is not None:
            return False
        active = engine.active
        if not engine.live or active is None or active.unopened:
            return False
        return all(stage.ready for stage in active.stages)

    def health(self) -> Mapping[str, Any]:
        failure = self.engine.failure
        if failure is not None:
            return {"status": "failed", "error": f"{type(failure).__name__}: {failure}"}
        reason = self.engine.watch.reason()
        if reason is not None:
            return {"status": "stalled", "error": None, "reason": reason}
        slow = self.engine.watchdog.slow()
        found = {"slow": slow} if slow else {}
        return {"status": "ok" if self.ready() else "recovering", "error": None, **found}

    def stats(self) -> Mapping[str, Any]:
        engine, active = self.engine, self.engine.active
        lags = self._lags()
        return {
            "records_total": int(engine.metrics.records_total.value),
            "lag_records": sum(lag for lag in lags.values() if lag is not None),
            "partitions": [] if active is None else [[topic, p] for topic, p in active.source_partitions()],
            "agents": {
                agent.spec.name: {
                    "processed": agent.processed,
                    "retries": agent.retries,
                    "queued": agent.queued,
                }
                for agent in engine.topology.agents
            },
            "workers": len(engine.rebalance.members),
        }

    def agents(self) -> list[AgentFacts]:
        return agent_facts(self.engine)

    def worker(self) -> WorkerFacts:
        health = self.health()
        word = health["status"]
        return worker_facts(
            self.engine,
            "ready" if word == "ok" and self.ready() else word if word != "ok" else "recovering",
            health.get("error") or health.get("reason"),
            started_ms=self._started_ms,
            committed_ms=self._committed_ms,
            lags=self._lags(),
        )

    # -- EngineListener --------------------------------------------------------------------------

    def on_active(self) -> None:
        """Rows went, or came back: what was shown must be read anew."""
        self._generation += 1
        self._ready.clear()
        if not self.engine.live:
            for reader in self._tables.values():
                reader.lists.forget()
            return
        self.open()
        for reader in self._tables.values():
            reader.lists.forget()
            if isinstance(reader, AgentReader):
                parts = self.engine.topology.tables[reader.name].parts
                reader.close_to({p: part.expired_to_ms for p, part in parts.items()})
        self._on_live()

    def on_committed(self, committed: Sequence[CommittedChanges]) -> None:
        self._committed_ms = self.engine.clock.now_ms()
        changes: list[TableChanges] = []
        by_part = {(change.table, change.partition): change for change in committed}
        for name, table in self.engine.topology.tables.items():
            reader = self._tables[name]
            assert isinstance(reader, AgentReader)
            for partition, part in table.parts.items():
                before_ms = reader.closed_to_ms.get(partition)
                if part.expired_to_ms is not None and part.expired_to_ms != before_ms:
                    reader.closed_to_ms[partition] = part.expired_to_ms
                    change = by_part.setdefault((name, partition), CommittedChanges(name, partition))
                    change.closed.extend(closed_between(reader, partition, before_ms, part.expired_to_ms))
        for (name, _), change in by_part.items():
            keep_lists(self._tables[name], change)
            told = self._changes(self._tables[name], change)
            if told is not None:
                changes.append(told)
        self._tell(changes)

    def _changes(self, reader: TableReaderBase, change: CommittedChanges) -> TableChanges | None:
        partition = change.partition
        if partition not in reader.owned or not (change.rows or change.expired or change.closed):
            return None

        def make() -> list[RowChange]:
            made: list[RowChange] = []
            upserts: list[RowChange] = []
            starts: Mapping[tuple[int, Any], int] = change.starts
            sessions = isinstance(reader.window, SessionWindow)

            def gone(op: Operation, start: int, key: Hashable) -> None:
                row = reader.row(partition, start, key, None, starts.get((start, key)))
                made.append(RowChange(op, row))

            for start, keys in change.expired.items():
                for key in keys:
                    gone("expire", start, key)
            for start, key, began in change.moved:
                made.append(RowChange("delete", reader.row(partition, start, key, None, began)))
            rows = reader.changed(partition, change.rows)
            # A window that closes changes the state of all its rows.
            closed = {start: dict.fromkeys(reader.keys(partition, start)) for start in change.closed}
            changed = {
                start: {**rows.get(start, {}), **closed.get(start, {})}
                for start in {**rows, **closed}
                if start not in change.expired
            }
            for start, key, value in reader.values(partition, changed):
                if value is not MISSING:
                    upserts.append(RowChange("upsert", reader.row(partition, start, key, value)))
                elif rows.get(start, {}).get(key) is DELETED and not sessions:
                    gone("delete", start, key)
            return made + upserts

        return self._told(reader, partition, make)

    def on_stage(self, stage: FinalStage, changed: list[RowId]) -> None:
        reader = self._tables.get(stage.spec.name)
        if not isinstance(reader, FinalStageReader):
            return
        at = (stage.topic, stage.partition)
        if at not in self._ready:
            # Its rows appear all at once, and not as changes of anything.
            self._ready.add(at)
            self._generation += 1
            reader.lists.forget()
            return
        # Without a change too: how far it has come decides when those of other partitions may be shown.
        partition = stage.partition
        # It tells once. Where nobody lists, it is asked only when somebody watches.
        touched = stage.rows_changed(changed) if reader.lists.active else None
        for start, key in touched or ():
            there = stage.has(start, key)
            reader.lists.change(partition, start, *(((key,), ()) if there else ((), (key,))))

        def make() -> list[RowChange]:
            upserts: list[RowChange] = []
            for start, key in stage.rows_changed(changed) if touched is None else touched:
                value = reader.value(partition, start, key)
                if value is not MISSING:  # tombstones come when the row was expired long since
                    upserts.append(RowChange("upsert", reader.row(partition, start, key, value)))
            moved = stage.moved if isinstance(stage, SessionFinalStage) else []
            gone = [
                RowChange("delete", reader.row(partition, end, key, None, start)) for end, key, start in moved
            ]
            return gone + upserts

        self._tell([self._told(reader, partition, make)])

    def _told(
        self, reader: TableReaderBase, partition: int, make: Callable[[], list[RowChange]]
    ) -> TableChanges:
        return TableChanges(
            reader.name,
            partition,
            LazyChanges(make),
            reader.positions(partition),
            reader.watermark_ms(partition),
        )

    def _tell(self, changes: list[TableChanges]) -> None:
        if not changes:
            return
        for listener in list(self._listeners):
            try:
                listener(changes)
            except Exception:  # it must not fail the checkpoint that it is told of
                logger.exception("a listener raised")

    # -- metrics -------------------------------------------------------------------------------

    def _lags(self) -> dict[tuple[str, int], int | None]:
        """Source partition -> records that its slowest consumer has still to take."""
        active = self.engine.active
        if active is None:
            return {}
        return {at: active.lag_at(at, offset) for at, offset in active.offsets().items()}

    def _collect(self) -> None:
        metrics = self.engine.metrics
        metrics.consumer_lag_records.clear()
        for (topic, partition), lag in self._lags().items():
            if lag is not None:
                metrics.consumer_lag_records.labels(topic, partition).set(lag)
        self._collect_commits()
        for name, reader in self._tables.items():
            metrics.table_rows.labels(name).set(reader.row_count())
            metrics.table_bytes.labels(name).set(reader.approximate_bytes())
        for agent in self.engine.topology.agents:
            metrics.events_processed_total.labels(agent.spec.name).grow_to(agent.processed)
        for name, state in circuit_states().items():
            metrics.circuit_state.labels(name).set(STATE_NUMBERS[state])
        metrics.retries_total.grow_to(sum(agent.retries for agent in self.engine.topology.agents))

    def _collect_commits(self) -> None:
        """What the newest durable checkpoint says, and how old it is."""
        engine, metrics = self.engine, self.engine.metrics
        since_ms = self._started_ms if self._committed_ms is None else self._committed_ms
        metrics.last_commit_age_seconds.set(max(0, engine.clock.now_ms() - since_ms) / 1_000)
        metrics.commit_overdue_seconds.set(engine.watch.commit_age_ms / 1_000)
        events: dict[tuple[str, str], int] = {}
        for progress in () if engine.active is None else engine.active.shown.values():
            for outcome in ("in", *OUTCOMES):
                at = progress.consumer, outcome
                events[at] = events.get(at, 0) + progress.counters.get(outcome, 0)
        metrics.consumer_events.clear()
        for labels, count in events.items():
            metrics.consumer_events.labels(*labels).set(count)


def keep_lists(reader: TableReaderBase, change: CommittedChanges) -> None:
    """What lists of the table rely on follows a durable checkpoint."""
    lists = reader.lists
    if not lists.active:
        return
    lists.checked()
    for start, rows in change.rows.items():
        gone = [key for key, value in rows.items() if value is DELETED]
        lists.change(change.partition, start, rows.keys() - set(gone) if gone else rows.keys(), gone)
    # Of hopping windows panes are kept, and so are dropped.
    for start, keys in (change.dropped if reader.kept_as_panes else change.expired).items():
        lists.change(change.partition, start, (), keys)


def closed_between(
    reader: TableReaderBase, partition: int, before_ms: int | None, after_ms: int
) -> list[int]:
    """Starts of the windows with rows that closed when the watermark moved from ``before_ms``."""
    window = reader.window
    if window is None:
        return []
    first = None if before_ms is None else window.first_open_start(before_ms)
    end = window.first_open_start(after_ms)
    if first is not None and first >= end:
        return []
    return [start for start in reader.starts(partition) if start < end and (first is None or start >= first)]
