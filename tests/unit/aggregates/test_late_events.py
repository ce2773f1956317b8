"""The late-event store: what came too late is kept, bounded, survives kills, and counts once when applied."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from streamflow.aggregates import Count, First, Sum
from streamflow.aggregates import late_events as late
from streamflow.aggregates.late_events import EVENTS_MAX, Late, LateEventStore, late_event_table
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.query.worker_view import WorkerView
from streamflow.state.cut import Cut
from streamflow.state.stores.memory import MemoryStore
from streamflow.transports.memory import MemoryTransport
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window
from tests.support.declared import T0_MS, Declared, event
from tests.support.running import end_engine

TUMBLING = TumblingWindow(size_s=10, grace_s=5, retain_s=100, idle_close_s=None)
HOPPING = HoppingWindow(10, 5, grace_s=5, retain_s=100, idle_close_s=None)


def spec(by: Any, window: Window = TUMBLING, **options: Any) -> AggregateSpec:
    values = options.pop("values", {"n": Count(), "first": First("data.n")})
    return AggregateSpec("table", "events", by, window, RowFunctions(values), emit_closed="closed", **options)


async def started(*specs: AggregateSpec, partitions: int = 1) -> Declared:
    world = Declared(*specs, partitions=partitions)
    await world.start()
    return world


def closed(records: list[tuple[bytes | None, bytes | None]]) -> list[tuple[int, int, bool]]:
    """(window start in s, count, revised) of each closed row."""
    told = [orjson.loads(value or b"") for _, value in records]
    start_s = {f"2025-10-09T08:53:{s}Z": s - 20 for s in range(10, 60)}
    return [(start_s[row["window_start"]], row["n"], row.get("revised", False)) for row in told]


async def apply(world: Declared) -> dict[str, int]:
    view = WorkerView(world.engine, "")
    view.open()
    return dict(await view.apply_late("table"))


async def test_what_came_too_late_is_kept_with_its_place_and_survives_a_restart() -> None:
    world = await started(spec("data.shop"))
    try:
        await world.write(0, event(1, shop="a"), event(26_000, shop="a"), event(2, shop="b", n=7))
        seen = world.reader("table").late()[0]
        (row,) = seen.events
        assert (row.key, row.time_ms, row.offset) == ("b", T0_MS + 2, 2)
        assert row.windows == ((T0_MS, T0_MS + 10_000),)
        assert row.behind_ms == 26_000 - 15_000
        assert seen.totals == {"came": 1, "lost": 0, "applied": 0}
        await world.restart()
        assert world.reader("table").late()[0] == seen
    finally:
        await world.close()


@pytest.mark.parametrize("by", [Key(), "data.shop", None], ids=["key", "field", "none"])
@pytest.mark.parametrize("window", [TUMBLING, HOPPING], ids=["tumbling", "hopping"])
async def test_applied_events_count_once_and_closed_rows_are_told_anew(by: Any, window: Window) -> None:
    world = await started(spec(by, window))
    try:
        await world.write(0, event(1, shop="a", n=1), event(40_000, shop="a"), event(0, shop="a", n=2))
        await world.until(lambda: "closed" in world.states("table").values())
        before = world.rows("table")
        told = closed(await world.read("closed"))
        windows = len(window.windows_of(T0_MS))
        assert told == [(s, 1, False) for s in ([0] if windows == 1 else [-5, 0])]
        assert (await apply(world))["applied"] == 1
        # A second time there is nothing left.
        assert await apply(world) == {"applied": 0, "expired": 0, "unsupported": 0}

        def revised() -> bool:
            states = world.states("table")
            return list(states.values()).count("revised") == windows

        await world.until(revised)
        for (key, start), value in world.rows("table").items():
            first = before[key, start]
            touched = start in {s for s, _ in window.windows_of(T0_MS)}
            # The later one on the log is the earlier one in time.
            assert value == ({"n": 2, "first": 2} if touched else first)
        await world.restart()
        await world.until(revised)
        records = closed(await world.read("closed"))
        assert sorted(records[len(told) :]) == [(s, 2, True) for s, _, _ in told]
        assert world.reader("table").late()[0].totals == {"came": 1, "lost": 0, "applied": 1}
        counters = world.reader("table").status().counters
        assert counters == {"in": 3, "counted": 2, "late": 1, "applied": 1}
    finally:
        await world.close()


async def test_a_second_revision_builds_on_the_first_over_a_restart() -> None:
    world = await started(spec("data.shop"), partitions=2)
    try:
        await world.write(0, event(1, shop="a"), event(40_000, shop="a"), event(0, shop="a"))
        await world.write(1, event(1, shop="a"), event(40_000, shop="a"), event(0, shop="a"))
        await world.until(lambda: "closed" in world.states("table").values())
        assert (await apply(world))["applied"] == 2
        await world.until(lambda: world.rows("table")["a", T0_MS]["n"] == 4)
        await world.restart()
        await world.write(1, event(3, shop="a"))
        assert (await apply(world))["applied"] == 1
        await world.until(lambda: world.rows("table")["a", T0_MS]["n"] == 5)
        await world.restart()
        await world.until(lambda: ("a", T0_MS) in world.rows("table"))
        assert world.rows("table")["a", T0_MS]["n"] == 5
        told = closed(await world.read("closed"))
        assert told[0] == (0, 2, False)
        assert told[-1] == (0, 5, True)
        # Both partitions' corrections may have come in one reading, so in one revision, or in two.
        assert [n for _, n, _ in told[1:]] in ([3, 4, 5], [4, 5])
    finally:
        await world.close()


async def test_windows_that_have_expired_are_revised_no_more() -> None:
    world = await started(spec("data.shop"))
    try:
        await world.write(0, event(1, shop="a"), event(40_000, shop="a"), event(2, shop="a"))
        assert (await apply(world))["applied"] == 1
        await world.write(0, event(3, shop="a"), event(116_000, shop="b"), event(155_000, shop="b"))
        await world.until(lambda: ("a", T0_MS) not in world.rows("table"))
        assert await apply(world) == {"applied": 0, "expired": 1, "unsupported": 0}
        # Nothing of the row is left in any log: not the partials, not the correction, not the note.
        await world.until(lambda: not world.engine.topology.aggregates["table"].late_stores[0].corrected)
        for topic in ("app-table-shuffle", "app-table-changelog", "app-table-late"):
            left = [key for key in await world.compacted(topic) if key and str(T0_MS).encode()[:10] in key]
            assert not [key for key in left if b'"a"' in key and str(T0_MS).encode() in key], topic
        late_topic = await world.compacted("app-table-late")
        assert not [key for key in late_topic if key and key.startswith(b'["row"')]
    finally:
        await world.close()


@pytest.mark.parametrize(
    "window",
    [SlidingWindow(10, grace_s=5, idle_close_s=None), SessionWindow(2, grace_s=5, idle_close_s=None)],
    ids=["sliding", "session"],
)
async def test_sliding_windows_and_sessions_list_what_is_late_and_apply_nothing(window: Window) -> None:
    world = await started(spec("data.shop", window))
    try:
        await world.write(0, event(1, shop="a"), event(60_000, shop="a"), event(2, shop="b"))
        (row,) = world.reader("table").late()[0].events
        assert (row.key, row.time_ms, row.offset, row.applies) == ("b", T0_MS + 2, 2, False)
        assert row.behind_ms == 60_000 - window.last_end_of(2) - 5_000
        assert await apply(world) == {"applied": 0, "expired": 0, "unsupported": 1}
        assert len(world.reader("table").late()[0].events) == 1
    finally:
        await world.close()


async def test_a_kill_before_the_commit_applies_nothing_and_after_it_everything() -> None:
    """Whatever becomes of the commit, the event is either in the late-event store or in its row."""
    world = await started(spec("data.shop"))
    try:
        await world.write(0, event(1, shop="a"), event(40_000, shop="a"), event(2, shop="a"))
        await world.until(lambda: "closed" in world.states("table").values())
        active = world.engine.active
        assert active is not None
        (aggregate,) = active.aggregate_partitions
        assert aggregate.revisions is not None
        assert aggregate.revisions.apply()["applied"] == 1
        # The worker dies here: nothing of it was written. Its successor has the late events as they were.
        cut, _ = active.cut()
        assert any(b"-1" in (record.key or b"") for record in cut.effects), "it would have been written"
        transport = world.engine.transport
        assert isinstance(transport, MemoryTransport)
        await transport.stop()
        end_engine()
        world.engine = world.new_engine("successor")
        await world.begin()
        assert len(world.reader("table").late()[0].events) == 1
        assert world.rows("table")["a", T0_MS]["n"] == 1
        assert (await apply(world))["applied"] == 1
        await world.until(lambda: world.rows("table")["a", T0_MS]["n"] == 2)
    finally:
        await world.close()


def make_store() -> LateEventStore:
    from streamflow.state.changelog import RowCodec

    return LateEventStore(late_event_table("t", "t-late", 1), 0, MemoryStore(), RowCodec(TUMBLING))


def aggregate(late_store: LateEventStore) -> list[bytes]:
    """A checkpoint; returns the keys that it writes."""
    cut = Cut()
    late_store.part.begin_cut(None)
    late_store.part.emit(cut)
    late_store.part.fold_cut(None)
    late_store.committed()
    return [record.key or b"" for record in cut.records()]


def numbered(count: int, start: int = 0) -> list[Late]:
    return [Late(at, 0, at, ((0, "k"),), 1) for at in range(start, start + count)]


def test_a_late_event_store_keeps_the_newest_and_counts_what_it_loses() -> None:
    late_store = make_store()
    late_store.add(numbered(3))
    assert late_store.events() == []  # nothing is shown before it is durable
    assert len(aggregate(late_store)) == 4
    late_store.add(numbered(EVENTS_MAX - 1, 3))
    keys = aggregate(late_store)
    assert len(set(keys)) == EVENTS_MAX
    assert [event.offset for event in late_store.events()] == list(range(2, EVENTS_MAX + 2))
    assert late_store.totals() == {"came": EVENTS_MAX + 2, "lost": 2, "applied": 0}
    late_store.add(numbered(EVENTS_MAX, 5_000), skipped=7)
    aggregate(late_store)
    assert [event.offset for event in late_store.events()] == list(range(5_000, 5_000 + EVENTS_MAX))
    assert late_store.totals()["came"] == 2 * EVENTS_MAX + 9
    assert late_store.totals()["lost"] == EVENTS_MAX + 9


async def test_a_flood_of_late_events_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await started(spec("data.shop", values={"n": Count(), "sum": Sum("data.n")}))
    try:
        await world.write(0, event(100_000, shop="a", n=1))
        await world.write(0, *[event(n, shop="a", n=n) for n in range(2_500)])
        seen = world.reader("table").late()[0]
        assert [row.offset for row in seen.events] == list(range(1_501, 2_501))
        assert seen.totals == {"came": 2_500, "lost": 1_500, "applied": 0}
        assert world.reader("table").status().counters["late"] == 2_500
        compacted = await world.compacted("app-table-late")
        assert len(compacted) <= late.EVENTS_MAX + 1
    finally:
        await world.close()


async def test_what_was_applied_before_the_owner_closed_the_window_is_told_with_the_closing() -> None:
    """Late by its own partition's watermark, in time for the row: told of once, and not as a revision."""
    world = await started(spec("data.shop"), partitions=2)
    try:
        await world.write(0, event(1, shop="a"), event(40_000, shop="a"), event(2, shop="a"))
        assert (await apply(world))["applied"] == 1
        await world.until(lambda: world.rows("table").get(("a", T0_MS), {}).get("n") == 2)
        assert world.states("table")["a", T0_MS] == "open"
        await world.write(1, event(3, shop="a"), event(40_000, shop="a"))
        await world.until(lambda: world.states("table")["a", T0_MS] != "open")
        await world.restart()
        await world.write(0, event(41_000, shop="a"))
        assert closed(await world.read("closed")) == [(0, 3, False)]
    finally:
        await world.close()


async def test_a_window_that_only_silence_closed_is_closed_after_a_restart_too() -> None:
    window = TumblingWindow(size_s=0.1, retain_s=3_600, idle_close_s=0.05)
    world = await started(spec("data.shop", window))
    try:
        await world.write(0, event(1, shop="a"))
        await world.until(lambda: "closed" in world.states("table").values())
        await world.restart()
        assert world.states("table") == {("a", T0_MS): "closed"}
        # No event said that time had passed; the checkpoint did. So it is not told again.
        assert len(await world.read("closed")) == 1
        await world.write(0, event(2, shop="a"))
        assert world.reader("table").status().counters == {"in": 2, "counted": 2}
        await world.until(lambda: world.states("table") == {("a", T0_MS): "revised"})
        assert closed(await world.read("closed")) == [(0, 1, False), (0, 2, True)]
    finally:
        await world.close()
