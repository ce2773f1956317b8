"""The rules of the checkpoint, each of which can be switched off to see that the simulation notices.

A rule is broken where it lives: in the transport (its ``broken_...`` switches) or by replacing one method
of the engine. What is broken here is exactly one thing; everything else runs as it does for users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from streamflow.aggregates.shuffle import final_windows
from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.aggregates.shuffle.final_windows import SlidingFinalStage
from streamflow.aggregates.shuffle.partial import PartialSender, partial_key
from streamflow.aggregates.shuffle.session_stage import Notes
from streamflow.aggregates.windowed_fold import SessionConsumer
from streamflow.engine import assignment_builder, restoration
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.beginnings import Beginnings
from streamflow.processing.acks import AckTracker
from streamflow.processing.gate import Gate
from streamflow.processing.units import InFlight
from streamflow.state.beginning import Start
from streamflow.state.cut import Cut
from streamflow.state.event_context import EventContext
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress
from streamflow.state.stores.base import MISSING
from streamflow.transports.base import Commit, Record, TopicPartition
from streamflow.transports.memory import MemoryTransport

Broken = dict[str, Any]
"""Switches for the transport's `Faults`."""


def not_atomic(patch: pytest.MonkeyPatch) -> Broken:
    """A crash leaves the first records of a checkpoint, and readers see it grow."""
    return {"broken_atomic": True}


def no_fence(patch: pytest.MonkeyPatch) -> Broken:
    """A worker that has lost its partitions still commits."""
    return {"broken_fence": lambda commit: True}


def no_second_fence(patch: pytest.MonkeyPatch) -> Broken:
    """The final stage's closing goes out whoever sends it; the rest of the checkpoint is fenced."""
    commit = MemoryTransport.commit

    async def closing_first(self: MemoryTransport, whole: Commit) -> dict[TopicPartition, int]:
        closing = [record for record in whole.records if _is_closing(record)]
        if closing:
            self.broker.write(closing)
        rest = [record for record in whole.records if not _is_closing(record)]
        return await commit(self, Commit(whole.assignment, rest, whole.offsets))

    patch.setattr(MemoryTransport, "commit", closing_first)
    return {}


def _is_closing(record: Record) -> bool:
    if record.topic in {"by_type-closed", "totals-closed"}:
        return True
    return record.topic.endswith("-shuffle") and (
        record.value is None or (record.key or b"")[:9] == b'["closed"'
    )


def marks_first(patch: pytest.MonkeyPatch) -> Broken:
    """In the shuffles a checkpoint's watermark stands before its partials."""

    def reorder(records: Sequence[Record]) -> list[Record]:
        return sorted(records, key=lambda record: not (record.key or b"").startswith(b'["watermarks"'))

    return {"broken_order": reorder}


def some_watermarks(patch: pytest.MonkeyPatch) -> Broken:
    """The final stage closes by the watermarks that it has, not waiting for all source partitions."""

    def least(self: FinalStage) -> int | None:
        known = [mark.watermark_ms for mark in self.watermarks.values() if mark.watermark_ms is not None]
        return min(known, default=None)

    patch.setattr(FinalStage, "least_watermark_ms", least)
    return {}


class DifferenceSender(PartialSender):
    """Sends what has been added since the last checkpoint, where the partial is a plain number."""

    def partials(self, part: TablePartition, records: list[Record], position: int) -> None:
        if self.spec.name != "by_type":
            super().partials(part, records, position)
            return
        for start, rows in (part.cut or {}).items():
            for group, state in rows.items():
                before = part.store.get(start, group)
                added = state - (0 if before is MISSING else before)
                key = partial_key(self.partition, group, start)
                records.append(Record(self.topic, self.target(start, group), key, orjson.dumps(added)))


class AddingStage(FinalStage):
    """Adds a partial to what it had of the source partition."""

    def _read_record(self, key: bytes | None, value: bytes | None, changed: dict[Any, None]) -> None:
        kind, *rest = orjson.loads(key or b"")
        if self.spec.name == "by_type" and kind == "share" and value is not None:
            source, group, start = rest
            partials = self.partials.setdefault(start, {}).setdefault(group, {})
            partials[source] = partials.get(source, 0) + orjson.loads(value)
            changed[start, group] = None
        else:
            super()._read_record(key, value, changed)


def differences(patch: pytest.MonkeyPatch) -> Broken:
    """Partials are differences that the final stage adds up, not whole states."""
    patch.setattr(final_windows, "FinalStage", AddingStage)
    patch.setattr(assignment_builder, "PartialSender", DifferenceSender)
    return {}


def no_restore(patch: pytest.MonkeyPatch) -> Broken:
    """A rebuilt final stage closes before it has read to the end of its log."""
    patch.setattr(FinalStage, "ready", True)
    return {}


class ForgetfulSender(PartialSender):
    """Leaves behind, in the shuffle, the partials of sessions that have grown."""

    def partials(self, part: TablePartition, records: list[Record], position: int) -> None:
        first = len(records)
        super().partials(part, records, position)
        if self.spec.name == "sessions":
            kept = [record for record in records[first:] if record.value is not None]
            for index, record in enumerate(kept):
                parts, _, at = orjson.loads(record.value or b"")
                value = orjson.dumps([parts, [], at])
                kept[index] = Record(record.topic, record.partition, record.key, value)
            records[first:] = kept


def left_behind(patch: pytest.MonkeyPatch) -> Broken:
    """A session that has grown does not take the place of what it has grown out of."""
    patch.setattr(assignment_builder, "PartialSender", ForgetfulSender)
    return {}


def all_one(patch: pytest.MonkeyPatch) -> Broken:
    """Events that came behind are made one with the sessions of their own partition before others join."""
    patch.setattr(SessionConsumer, "_merged", lambda self, parts: (self._one(parts),))
    return {}


class UnmarkedStage(SlidingFinalStage):
    """Takes what came behind for what came within the grace."""

    def _put(self, source: int, group: Any, start: int, data: Any) -> None:
        whole = self.spec.values.merge_all([self.spec.values.load(state) for _, state in data])
        super()._put(source, group, start, [[None, self.spec.values.dump(whole)]])


def not_marked(patch: pytest.MonkeyPatch) -> Broken:
    """A sliding window's events that came behind count in windows that were closed by then."""
    patch.setattr(final_windows, "SlidingFinalStage", UnmarkedStage)
    return {}


class DeletingSender(PartialSender):
    """The partial stage deletes its partials from the shuffle when it forgets them itself."""

    def partials(self, part: TablePartition, records: list[Record], position: int) -> None:
        super().partials(part, records, position)
        for start in part.drops:
            for group in part.store.window(start):
                key = partial_key(self.partition, group, start)
                records.append(Record(self.topic, self.target(start, group), key, None))


def not_the_owner(patch: pytest.MonkeyPatch) -> Broken:
    """Shares are deleted by who wrote them, not by the owner with the record that says it has emitted."""
    patch.setattr(assignment_builder, "PartialSender", DeletingSender)
    return {}


def past_a_hole(patch: pytest.MonkeyPatch) -> Broken:
    """The position moves past the event in flight."""
    patch.setattr(EventContext, "settled", lambda self: self.position)
    return {}


def no_undo(patch: pytest.MonkeyPatch) -> Broken:
    """What a failed event wrote stays when it is tried again."""

    def forget_only(self: EventContext) -> None:
        self.sends = [sent for sent in self.sends if sent[0] != self.position]

    patch.setattr(EventContext, "revert", forget_only)
    return {}


def no_catch_up(patch: pytest.MonkeyPatch) -> Broken:
    """What a rebalance left with a worker is taken as it is, whatever others wrote meanwhile."""

    def only_the_empty(parts: dict[TopicPartition, TablePartition], ends: dict[TopicPartition, int]) -> int:
        return sum(ends.get(at, 0) for at, part in parts.items() if part.store.offset == 0)

    patch.setattr(restoration, "missing", only_the_empty)
    return {}


def stores_ahead(patch: pytest.MonkeyPatch) -> Broken:
    """Rows reach the store with the cut, before the commit has decided that they count."""
    emit = TablePartition.emit

    def apply_too(self: TablePartition, cut: Cut) -> None:
        emit(self, cut)
        self.store.apply(self.cut or {})

    patch.setattr(TablePartition, "emit", apply_too)
    return {}


def past_a_hole_in_units(patch: pytest.MonkeyPatch) -> Broken:
    """The position of the concurrent path moves past what is in flight."""
    settle = AckTracker.settle

    def everything(self: AckTracker) -> None:
        moved = self.moved
        settle(self)
        if moved and self._chunks:
            self.progress.take(self._chunks[-1].chunk.next_offset)

    patch.setattr(AckTracker, "settle", everything)
    return {}


def no_undo_of_units(patch: pytest.MonkeyPatch) -> Broken:
    """What a failed unit wrote stays when it is tried again."""

    def forget_only(self: InFlight) -> None:
        self.uncommitted_writes.clear()
        self.sends.clear()

    patch.setattr(InFlight, "revert", forget_only)
    return {}


def forget_what_is_done(patch: pytest.MonkeyPatch) -> Broken:
    """What is done behind the mark is not written down."""
    patch.setattr(AckTracker, "_ranges", lambda self: ())
    return {}


def never_conflicting(patch: pytest.MonkeyPatch) -> Broken:
    """Cuts and undo go through rows that several events in flight have written."""
    patch.setattr(Gate, "is_conflicting", lambda self, context: False)
    return {}


def no_barriers(patch: pytest.MonkeyPatch) -> Broken:
    """Without a transaction the records of a checkpoint become durable in any order."""
    patch.setattr(Cut, "barriers", lambda self: ())
    return {}


def not_beside(patch: pytest.MonkeyPatch) -> Broken:
    """A consumer that is behind the others is given what the group's reader brings, as they are."""

    def opened(self: ActiveAssignment, progress: Iterable[Progress]) -> None:
        self.progress.update(((each.consumer, each.topic, each.partition), each) for each in progress)

    patch.setattr(ActiveAssignment, "open", opened)
    return {}


def time_goes_on(patch: pytest.MonkeyPatch) -> Broken:
    """What silence assumed makes late what comes in order after it."""
    patch.setattr(Progress, "passed_ms", lambda self, retain_ms: self.watermark_ms)
    return {}


def not_noted(patch: pytest.MonkeyPatch) -> Broken:
    """A final stage does not know which sessions others have told of."""
    patch.setattr(Notes, "read", lambda self, row, note: None)
    return {}


def not_told(patch: pytest.MonkeyPatch) -> Broken:
    """A session forgets what was told of before it grew."""
    patch.setattr(SessionConsumer, "told", lambda self, stored: ())
    return {}


def not_begun(patch: pytest.MonkeyPatch) -> Broken:
    """Where a consumer begins in a retry topic is written down when it has taken something there."""
    begin = Beginnings.begin

    def unwritten(self: Beginnings, consumer: str, at: TopicPartition, start: Start | None) -> Progress:
        return replace(begin(self, consumer, at, start), changed=False)

    patch.setattr(Beginnings, "begin", unwritten)
    return {}


PLAIN_RULES: dict[str, Callable[[pytest.MonkeyPatch], Broken]] = {"barriers": no_barriers}
"""Those of a driver without transactions: with one they change nothing."""

RULES: dict[str, Callable[[pytest.MonkeyPatch], Broken]] = {
    "atomic": not_atomic,
    "fence": no_fence,
    "fence2": no_second_fence,
    "order": marks_first,
    "all_wm": some_watermarks,
    "whole": differences,
    "restore": no_restore,
    "owner": not_the_owner,
    "grown": left_behind,
    "apart": all_one,
    "marked": not_marked,
    "contiguous": past_a_hole,
    "undo": no_undo,
    "contiguous_units": past_a_hole_in_units,
    "undo_units": no_undo_of_units,
    "done": forget_what_is_done,
    "conflicting": never_conflicting,
    "catch_up": no_catch_up,
    "behind": stores_ahead,
    "beside": not_beside,
    "silence": time_goes_on,
    "noted": not_noted,
    "told": not_told,
    "begun": not_begun,
}


@contextmanager
def without(rule: str | None) -> Iterator[Broken]:
    """Switches a rule off (``None``: none); yields what the transport's faults need for that."""
    with pytest.MonkeyPatch.context() as patch:
        yield {} if rule is None else {**RULES, **PLAIN_RULES}[rule](patch)
