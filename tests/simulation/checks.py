"""What must hold when a world has become quiet. Each check appends a sentence for what it finds wrong."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import orjson

from streamflow.aggregates.late_events import EVENTS_MAX
from streamflow.aggregates.partition import AggregatePartition
from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.aggregates.windowed_fold import HoppingPanesConsumer
from streamflow.clock import rfc3339
from streamflow.engine.engine import Engine
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress, ProgressKey, progress_from_record
from streamflow.transports.memory import MemoryBroker
from streamflow.verify.pane_rows import rows_of_panes
from tests.simulation.cluster import APP, LETTERS, RETRY_TOPICS, Cluster
from tests.simulation.later import nothing_waits
from tests.simulation.scenario import ECHO, EVENTS, GRACE_MS, HOP_SIZE_MS, MOVING, SOURCES, Expected, SimEvent

FOLDS = ("by_key", "by_type", "totals")
Faults = list[str]


def records_of(broker: MemoryBroker, topic: str) -> list[tuple[int, bytes | None, bytes | None]]:
    """(partition, key, value) of all that is committed in a topic, in order within each partition."""
    found = []
    for partition in range(broker.partition_count(topic)):
        batch = broker.log((topic, partition)).read(0, 10**9)
        if batch is not None:
            found += [(partition, k, v) for k, v in zip(batch.keys, batch.values, strict=True)]
    return found


def digest(broker: MemoryBroker) -> str:
    """Of every visible record of every topic, with its place and its stamp."""
    found = hashlib.sha256()
    for topic in broker.topics():
        for partition in range(broker.partition_count(topic)):
            found.update(repr(broker.log((topic, partition)).read(0, 10**9)).encode())
    return found.hexdigest()[:16]


def live_rows(broker: MemoryBroker, topic: str) -> dict[tuple[int, bytes], bytes]:
    """(partition, key) -> value as a compacted topic stands for it."""
    rows: dict[tuple[int, bytes], bytes] = {}
    for partition, key, value in records_of(broker, topic):
        assert key is not None
        if value is None:
            rows.pop((partition, key), None)
        else:
            rows[partition, key] = value
    return rows


def durable_progress(broker: MemoryBroker) -> dict[tuple[str, int], Progress]:
    """(consumer, source partition) -> what is checkpointed."""
    found: dict[tuple[str, int], Progress] = {}
    for (_, key), value in live_rows(broker, f"{APP}-progress").items():
        if orjson.loads(key)[0] != "declaration":
            progress = progress_from_record(key, value)
            if progress.topic not in RETRY_TOPICS:
                found[progress.consumer, progress.partition] = progress
    return found


def agents(cluster: Cluster) -> list[str]:
    return ["count", *cluster.scenario.trouble.extra]


def giving_up(cluster: Cluster) -> list[str]:
    """The agents that set hopeless events aside."""
    return [*agents(cluster), *(["later"] if cluster.scenario.trouble.later else [])]


def consumers(cluster: Cluster) -> list[str]:
    folds = [f"aggregate:{name}" for name in (*FOLDS, *MOVING)]
    return [*(f"agent:{name}" for name in agents(cluster)), *folds]


def ends(broker: MemoryBroker) -> dict[int, int]:
    return {p: broker.log((EVENTS, p)).end for p in range(SOURCES)}


def has_become_quiet(cluster: Cluster, time_ms: int) -> bool:
    """Everything is taken and durable, and what ``time_ms`` closes or expires is closed and gone."""
    if cluster.broker.undecided():
        return False
    progress = durable_progress(cluster.broker)
    end = ends(cluster.broker)
    later = ["agent:later"] if cluster.scenario.trouble.later else []
    for consumer in [*consumers(cluster), *later]:
        for p in range(SOURCES):
            mine = progress.get((consumer, p))
            if mine is None or mine.position < end[p] or mine.watermark_ms is None:
                return False
            if mine.watermark_ms < time_ms:
                return False
    engines = [w.engine for w in cluster.workers.values() if w.engine.live and w.engine.active is not None]
    owned = sorted(at for engine in engines if engine.active for at in engine.active.assignment.partitions)
    topics = sorted([EVENTS, *(RETRY_TOPICS if later else [])])
    if owned != [(topic, p) for topic in topics for p in range(SOURCES)]:
        return False
    if later and not nothing_waits(cluster.broker):
        return False
    return all(engine.active is not None and _is_done(engine, time_ms) for engine in engines)


def _is_done(engine: Engine, time_ms: int) -> bool:
    active = engine.active
    assert active is not None
    for stage in active.stages:
        least_ms = stage.least_watermark_ms()
        if not stage.ready or least_ms is None or least_ms < time_ms or stage.due():
            return False
    return not any(part.cut is not None or any(part.changes.values()) for part in active.table_partitions())


def emitted_moving(broker: MemoryBroker, fold: str, wrong: Faults) -> dict[tuple[str, str, Any], int]:
    """(window start, its end, key) -> count of the closed rows, as a reader of them keeps these.

    That is by key and start (a late event may make a second session of one start, so by their ends as well
    where nothing was revised). Each may be there once only, but for those that are revised; what is withdrawn
    was told of before.
    """
    found: dict[tuple[str, str, Any], int] = {}
    for _, _, value in records_of(broker, f"{fold}-closed"):
        row = orjson.loads(value or b"")
        at = row["window_start"], row["window_end"], row["key"]
        if row.get("withdrawn"):
            if found.pop(at, None) is None:
                wrong.append(f"{fold}: row {at} was withdrawn, and was not there")
            continue
        if row.get("revised"):
            before = [one for one in found if (one[0], one[2]) == (at[0], at[2]) and one[1] <= at[1]]
            if before and at not in before:
                del found[max(before)]
        elif at in found:
            wrong.append(f"{fold}: row {at} was emitted twice, as {found[at]} and as {row['value']}")
        found[at] = row["value"]
    return found


def check_moving(cluster: Cluster, expected: Expected, time_ms: int, wrong: Faults) -> None:
    """Windows that events make: the rows, and each closed one once, are those of the definition."""
    for name in MOVING:
        rows = {at: len(events) for at, events in expected.moving[name].rows.items()}
        want = {
            (rfc3339(start), rfc3339(end), key): count
            for (start, end, key), count in rows.items()
            if end + GRACE_MS <= time_ms
        }
        found = emitted_moving(cluster.broker, name, wrong)
        if _is_ticking(cluster, name, wrong):
            found = {at: count for at, count in found.items() if _ms(at[1]) + GRACE_MS <= time_ms}
        _compare(f"{name}, closed rows", found, want, wrong)
        _compare(f"{name}, rows", _shown_moving(cluster, name), rows, wrong)
        progress = durable_progress(cluster.broker)
        late = [progress[f"aggregate:{name}", p].counters.get("late", 0) for p in range(SOURCES)]
        if late != expected.moving[name].late:
            wrong.append(f"{name}: late {late}, wanted {expected.moving[name].late}")


def _shown_moving(cluster: Cluster, name: str) -> dict[tuple[int, int, Any], int]:
    shown: dict[tuple[int, int, Any], int] = {}
    for worker in cluster.workers.values():
        active = worker.engine.active
        if active is None:
            continue
        for aggregate in active.aggregate_partitions:
            spec = aggregate.aggregate.spec
            if spec.name == name and not spec.is_shuffled:
                for number, key, kept in _kept_rows(aggregate):
                    start, end, count = spec.shown(number, kept)
                    shown[start, end, key] = count
        for stage in active.stages:
            if stage.spec.name == name:
                for number, key in stage.rows():
                    start, end, count = stage.spec.shown(number, stage.state(number, key))
                    shown[start, end, key] = count
    return shown


def _kept_rows(aggregate: AggregatePartition) -> Iterator[tuple[int, Any, Any]]:
    """Window's id, key and what is kept of each row of a partition."""
    consumer, part = aggregate.aggregate, aggregate.part
    if isinstance(consumer, HoppingPanesConsumer):
        for (start, key), state in rows_of_panes(consumer, part, {}):
            yield start, key, state
    else:
        yield from part.store.scan()


def emitted(broker: MemoryBroker, fold: str, wrong: Faults) -> dict[tuple[str, Any], Any]:
    """(window start, key) -> newest content of closed rows; revised ones aside each is there once only."""
    found: dict[tuple[str, Any], Any] = {}
    for _, _, value in records_of(broker, f"{fold}-closed"):
        assert value is not None
        row = orjson.loads(value)
        at = row.pop("window_start"), row.pop("key", None)
        row.pop("window_end")
        revised = row.pop("revised", False)
        content = row.get("value", row)
        if at in found and not revised:
            wrong.append(f"{fold}: row {at} was emitted twice, as {found[at]} and as {content}")
        found[at] = content
    return found


def _ms(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * 1_000)


def _is_ticking(cluster: Cluster, fold: str, wrong: Faults) -> bool:
    """Are there idle ticks? Without them no row is ever told of anew."""
    if cluster.scenario.trouble.idle_close_s is not None:
        return True
    rows = [orjson.loads(value or b"") for _, _, value in records_of(cluster.broker, f"{fold}-closed")]
    anew = [row for row in rows if row.get("revised") or row.get("withdrawn")]
    if anew:
        wrong.append(f"{fold}: {len(anew)} rows were told of anew, such as {anew[0]}")
    return False


def check_closed_rows(cluster: Cluster, expected: Expected, open_from_ms: int, wrong: Faults) -> None:
    """Each row of each closed window once, with what was accepted for it."""
    for fold in FOLDS:
        found = emitted(cluster.broker, fold, wrong)
        if _is_ticking(cluster, fold, wrong):
            found = {at: content for at, content in found.items() if _ms(at[0]) < open_from_ms}
        rows: dict[Any, Any] = getattr(expected, fold)
        want = {(rfc3339(start), key): v for (start, key), v in rows.items() if start < open_from_ms}
        _compare(f"{fold}, closed rows", found, want, wrong)


def shown_rows(cluster: Cluster) -> dict[str, dict[tuple[int, Any], Any]]:
    """Table -> (start, key) -> what the owners show, of every window that is not expired."""
    shown: dict[str, dict[tuple[int, Any], Any]] = {name: {} for name in ("by_user", *FOLDS)}
    for worker in cluster.workers.values():
        active = worker.engine.active
        if active is None:
            continue
        for part in worker.table.parts.values():
            shown["by_user"].update({(start, key): value for start, key, value in part.store.scan()})
        for name, table in worker.extra.items():
            rows = shown.setdefault(f"by_user_{name}", {})
            for part in table.parts.values():
                rows.update({(start, key): value for start, key, value in part.store.scan()})
        if "many" in worker.extra:
            for p, part in worker.shared.parts.items():
                shown.setdefault("shared", {}).update({(p, k): n for _, k, n in part.store.scan()})
        for aggregate in active.aggregate_partitions:
            spec = aggregate.aggregate.spec
            if not spec.is_shuffled and spec.name in shown:
                scanned = aggregate.part.store.scan()
                shown[spec.name].update({(s, k): spec.values.result(v) for s, k, v in scanned})
        for stage in active.stages:
            spec = stage.spec
            for start, key in stage.rows() if spec.name in shown else ():
                shown_key = None if spec.by is None else key
                shown[spec.name][start, shown_key] = spec.values.result(stage.state(start, key))
    return shown


def check_rows(cluster: Cluster, expected: Expected, wrong: Faults) -> None:
    """What the owners show is what the definition says."""
    for name, found in shown_rows(cluster).items():
        _compare(f"{name}, rows", found, wanted_rows(expected, name), wrong)


def wanted_rows(expected: Expected, name: str) -> dict[Any, Any]:
    """Of a table, by its name."""
    same = name.startswith("by_user") and name != "by_user_later"
    rows: dict[Any, Any] = expected.by_user if same else getattr(expected, name)
    return rows


def standbys_are_whole(cluster: Cluster, time_ms: int) -> bool:
    """Has each partition as many standbys as are wanted, and do they hold what its owner holds?

    Apart from what has expired by ``time_ms``: its tombstones may have been compacted away.
    """
    engines = [worker.engine for worker in cluster.workers.values()]
    held: dict[tuple[str, int], Any] = {}
    for active in (engine.active for engine in engines):
        if active is None or active.unopened:
            return False
        held |= _kept(list(active.table_partitions()), active.stages, time_ms)
    wanted = min(cluster.standby_replicas, len(engines) - 1)
    found: Counter[tuple[str, int]] = Counter()
    for engine in engines:
        kept = _kept(*engine.rebalance.standby_tasks(), time_ms)
        if any(held.get(at) != rows for at, rows in kept.items()):
            return False
        found.update(kept.keys())
    return all(found[at] == wanted for at in held)


def _kept(parts: list[TablePartition], stages: list[FinalStage], time_ms: int) -> dict[tuple[str, int], Any]:
    """(table or shuffle, partition) -> rows that have not expired"""
    rows: dict[tuple[str, int], Any] = {
        (part.spec.name, part.partition): {
            (start, key): value
            for start, key, value in part.store.scan()
            if part.spec.window is None or not part.spec.window.expired(start, time_ms)
        }
        for part in parts
    }
    for stage in stages:
        assert stage.spec.window is not None
        rows[stage.topic, stage.partition] = {
            start: groups
            for start, groups in stage.partials.items()
            if not stage.spec.window.expired(start, time_ms)
        }
    return rows


def check_progress(cluster: Cluster, expected: Expected, wrong: Faults) -> None:
    """The counters of each consumer and partition account for every event."""
    progress = durable_progress(cluster.broker)
    for p in range(SOURCES):
        total = expected.decodable[p]
        fold = {"in": total, "late": expected.late[p], "counted": total - expected.late[p]}
        failed, late = expected.hopeless[p], expected.agent_late[p]
        agent = {"in": total, "late": late, "failed": failed, "counted": total - late - failed}
        moving = {f"aggregate:{name}" for name in MOVING}
        for consumer in (name for name in consumers(cluster) if name not in moving):
            want = agent if consumer.startswith("agent") else fold
            found = {name: n for name, n in progress[consumer, p].counters.items() if n}
            _compare(f"{consumer}[{p}], counters", found, {n: c for n, c in want.items() if c}, wrong)


def check_outputs(cluster: Cluster, events: list[list[SimEvent]], wrong: Faults) -> None:
    """What agents send and what is set aside: each once, sends in the order of their events."""
    sent: dict[int, list[str]] = {p: [] for p in range(SOURCES)}
    for p, _, value in records_of(cluster.broker, ECHO):
        sent[p].append((value or b"").decode())
    letters: Counter[bytes] = Counter(value or b"" for _, _, value in records_of(cluster.broker, LETTERS))
    for name in cluster.scenario.trouble.extra:
        _check_extra(cluster, name, events, wrong)
    want: Counter[bytes] = Counter()
    for p, part in enumerate(events):
        good = [e.id for e in part if e.fate in ("good", "flaky")]
        if sent[p] != good:
            wrong.append(
                f"{ECHO}[{p}]: sent {_difference(Counter(sent[p]), Counter(good)) or 'in wrong order'}"
            )
        want.update(e.record().value or b"" for e in part if e.fate == "bad")
        for _ in giving_up(cluster):
            want.update(e.record().value or b"" for e in part if e.fate == "hopeless")
    if letters != want:
        wrong.append(f"dead letters: {_difference(letters, want)}")


def _check_extra(cluster: Cluster, name: str, events: list[list[SimEvent]], wrong: Faults) -> None:
    """Each once; in the order of the events where one coroutine sends."""
    topic = f"echo-{name}"
    sent: dict[int, list[str]] = {p: [] for p in range(SOURCES)}
    for p, _, value in records_of(cluster.broker, topic):
        sent[p].append((value or b"").decode())
    for p, part in enumerate(events):
        good = [e.id for e in part if e.fate in ("good", "flaky")]
        found = sorted(sent[p]) if name == "many" else sent[p]
        if found != (sorted(good) if name == "many" else good):
            what = _difference(Counter(sent[p]), Counter(good)) or "in wrong order"
            wrong.append(f"{topic}[{p}]: sent {what}")


def check_offsets(cluster: Cluster, wrong: Faults) -> None:
    committed = cluster.broker.coordinator(APP).committed
    for p, end in ends(cluster.broker).items():
        if committed.get((EVENTS, p), 0) < end:
            wrong.append(f"{EVENTS}[{p}]: the group's offset is {committed.get((EVENTS, p))}, the end {end}")


def check_bounded(cluster: Cluster, time_ms: int, wrong: Faults) -> None:
    """When everything before ``time_ms`` has expired nothing is left of it, in topics nor in memory.

    Of hopping windows that began before it some end behind it.
    """
    broker = cluster.broker

    def is_over(name: str, start: int) -> bool:
        return start <= time_ms - HOP_SIZE_MS if name.endswith("hops") else start < time_ms

    tables = [f"by_user_{name}" for name in cluster.scenario.trouble.extra]
    for name in ("by_user", *tables, *FOLDS, *MOVING):
        left = [
            key
            for _, key in live_rows(broker, f"{APP}-{name}-changelog")
            if is_over(name, _start_of_row(key))
        ]
        if left:
            wrong.append(f"{name}: {len(left)} rows are left in the changelog, such as {left[0]!r}")
    for name in ("by_type", "totals", "sessions", "slides", "hops"):
        partials = [
            key
            for _, key in live_rows(broker, f"{APP}-{name}-shuffle")
            if key.startswith(b'["share"') and is_over(name, orjson.loads(key)[3])
        ]
        if partials:
            wrong.append(f"{name}: {len(partials)} shares are left, such as {partials[0]!r}")
    for worker in cluster.workers.values():
        active = worker.engine.active
        if active is None:
            continue
        starts = [
            start
            for part in active.table_partitions()
            if part.spec.window
            for start in part.store.starts()
            if is_over(part.spec.name, start)
        ]
        starts += [
            start for stage in active.stages for start in stage.partials if is_over(stage.spec.name, start)
        ]
        # Sliding windows begin before the panes that they are made of.
        starts += [
            end
            for stage in active.stages
            if stage.spec.name == "sessions"
            for end in stage.starts()
            if end < time_ms
        ]
        if starts:
            wrong.append(f"{worker.owner} still holds rows of {min(starts)}")
        for aggregate in active.aggregate_partitions:
            check_late_store(aggregate, active.shown, wrong)


def check_late_store(
    aggregate: AggregatePartition, shown: Mapping[ProgressKey, Progress], wrong: Faults
) -> None:
    """The late-event store has each late event once: as many as the counters say, each at its own place."""
    if aggregate.revisions is None:
        return
    late_store, progress = aggregate.revisions.late_events, aggregate.progress
    counted = shown[progress.consumer, progress.topic, progress.partition].counters.get("late", 0)
    came = late_store.totals()["came"]
    places = [event.offset for event in late_store.events()]
    where = f"the late-event store of {progress.consumer}[{progress.partition}]"
    if came != counted:
        wrong.append(f"{where} has seen {came} late events, the counters {counted}")
    if len(places) != min(came, EVENTS_MAX) or len(set(places)) != len(places):
        wrong.append(f"{where} holds {len(places)} events of {came}, {len(set(places))} different ones")


def _start_of_row(key: bytes) -> int:
    start_s: float = orjson.loads(key)[1][0]
    return round(start_s * 1_000)


def _compare(what: str, found: dict[Any, Any], want: dict[Any, Any], wrong: Faults) -> None:
    if found == want:
        return
    missing = {k: v for k, v in want.items() if k not in found}
    extra = {k: v for k, v in found.items() if k not in want}
    other = {k: (found[k], want[k]) for k in found if k in want and found[k] != want[k]}
    parts = [
        f"{len(part)} {name}, such as {next(iter(part.items()))}"
        for name, part in (("missing", missing), ("extra", extra), ("wrong (found, wanted)", other))
        if part
    ]
    wrong.append(f"{what}: {'; '.join(parts)}")


def _difference(found: Counter[Any], want: Counter[Any]) -> str:
    missing, extra = want - found, found - want
    return "; ".join(
        f"{sum(part.values())} {name}, such as {next(iter(part))!r}"
        for name, part in (("missing", missing), ("too many", extra))
        if part
    )
