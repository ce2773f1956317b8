"""The final stage of sessions, whose rows are made of the partials of several source partitions.

Which sessions there are is a pure function of all partials (`sessions_of`), the same in whatever order they
came. What is closed is taken out of that, which changes no result and bounds the work: the watermarks of all
source partitions have passed it.

Where silence alone had raised a watermark, its partition may bring more in order: then a partial touches
a closed session, or one that a closed session is made of changes, and the session is *open again*. It may
go on, or be closed as it is; two may become one. So of each session that was told of there is a note in the
log, ``["told", group, end]`` -> [start, is it a revision, [[source partition, id, position] of each
partial]]. By the notes a stage knows, whoever made them: a closed session with its note is as it was told
of, one without or with another is still to be told of, and a note without its session says what the session
that holds it now takes the place of. Rows, notes and "closed up to here" are of one commit, so a kill at any
point tells of nothing twice and of all at last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from streamflow.aggregates.closed_rows import session_records
from streamflow.aggregates.shuffle.final import Closing, Emit, FinalStage, RowId, in_order
from streamflow.aggregates.shuffle.partial import NO_POSITION, announced_key
from streamflow.aggregates.spec import AggregateSpec
from streamflow.codecs import GroupKey
from streamflow.state.cut import Cut
from streamflow.state.sessions import SessionIndex
from streamflow.transports.base import Record
from streamflow.windows.session import Part, Session, sessions_of

Member = tuple[int, int]
"""(id, source partition) of a partial"""
Content = tuple[tuple[int, int, int], ...]
"""(source partition, id, position) of each partial, in order: differs when any has changed"""


class _Note(NamedTuple):
    """What was told of a session."""

    start: int
    revised: bool
    content: Content

    def dump(self) -> bytes:
        return orjson.dumps([self.start, self.revised, self.content])

    @staticmethod
    def load(value: bytes) -> _Note:
        start, revised, content = orjson.loads(value)
        return _Note(start, revised, tuple(map(tuple, content)))


class Notes:
    """What was told of in one shuffle partition, as the log says, and what this worker has added since.

    Its own come back with the log, but later: meanwhile one may have taken the place of another. What others
    have written it reads before `hold` too, while it does not know yet that the partition is theirs.
    """

    def __init__(self) -> None:
        self._read: dict[RowId, _Note] = {}
        self._own: dict[RowId, _Note | None] = {}  # committed, and not read back yet; None: it is no more
        self._telling: dict[RowId, _Note | None] = {}  # in the checkpoint that is on its way
        self._ends: SessionIndex[GroupKey] = SessionIndex()

    def get(self, row: RowId) -> _Note | None:
        return self._own[row] if row in self._own else self._read.get(row)

    def within(self, group: GroupKey, start: int, end: int) -> list[tuple[int, int]]:
        """(start, end) of the group's sessions within these bounds that were told of."""
        notes = [(self.get((e, group)), e) for e in self._ends.after(group, start) if e <= end]
        return [(note.start, e) for note, e in notes if note is not None and note.start >= start]

    def read(self, row: RowId, note: _Note | None) -> None:
        """``None``: it is no more."""
        if note is None:
            self._read.pop(row, None)
        else:
            self._read[row] = note
        if row in self._own and self._own[row] == note:
            del self._own[row]
        self._index(row)

    def tell(self, row: RowId, note: _Note | None) -> None:
        """The checkpoint that is being cut says so."""
        self._telling[row] = note

    def is_telling(self, row: RowId) -> bool:
        """Does the checkpoint that is being cut say something of it?"""
        return row in self._telling

    def committed(self) -> None:
        telling, self._telling = self._telling, {}
        self._own.update(telling)
        for row in telling:
            self._index(row)

    def hold(self) -> None:
        """From here on the log alone tells, also what became of the checkpoint that was on its way."""
        own, self._own, self._telling = self._own, {}, {}
        for row in own:
            self._index(row)

    def forget(self, row: RowId) -> None:
        """It has expired; its tombstone is in the log, or was."""
        if self.get(row) is not None:
            self._read.pop(row, None)
            self._own[row] = None
            self._index(row)

    def _index(self, row: RowId) -> None:
        end, group = row
        if self.get(row) is None:
            self._ends.drop(end, (group,))
        else:
            self._ends.add(end, group)


class SessionFinalStage(FinalStage):
    """Partials are the sessions of each source partition; those that touch are one.

    The sessions of a group are made anew whenever one of its open partials changes.
    """

    def __init__(
        self, spec: AggregateSpec, topic: str, partition: int, sources: int, emit: Emit | None = None
    ) -> None:
        super().__init__(spec, topic, partition, sources, emit)
        # group -> the partials that are in no closed session
        self._open: dict[GroupKey, dict[Member, None]] = {}
        self._positions: dict[GroupKey, dict[Member, int]] = {}  # none of what older versions wrote
        self._ends: SessionIndex[GroupKey] = SessionIndex()  # of open rows
        self._closed_ends: SessionIndex[GroupKey] = SessionIndex()
        # end -> group -> the session; the state of each part is (id, source, state) of its partial
        self._open_rows: dict[int, dict[GroupKey, Session]] = {}
        self._closed_rows: dict[int, dict[GroupKey, Session]] = {}
        self._untold: dict[RowId, None] = {}  # open rows that are closed, and not told of as they are
        self._notes = Notes()
        self._stale: dict[GroupKey, None] = {}  # groups whose open rows are to be made anew
        # (id, group, start) of rows that the newest reading made part of one with other bounds
        self.moved: list[tuple[int, GroupKey, int]] = []
        self._gone: dict[RowId, int] = {}  # rows that have expired -> their start

    # -- partials ------------------------------------------------------------------------------------

    def _put(self, source: int, group: GroupKey, start: int, data: object) -> None:
        assert isinstance(data, list)
        parts, replaced, *position = data
        self._reopen_holder(source, group, start)
        super()._put(source, group, start, parts)
        self._open.setdefault(group, {})[start, source] = None
        if position:
            self._positions.setdefault(group, {})[start, source] = position[0]
        self._stale[group] = None
        for old in replaced:
            self._remove(source, group, old)

    def _remove(self, source: int, group: GroupKey, start: int) -> None:
        if source not in self.partials.get(start, {}).get(group, ()):
            return
        self._reopen_holder(source, group, start)
        super()._remove(source, group, start)
        _drop(self._positions, group, (start, source))
        if _drop(self._open, group, (start, source)):
            self._stale[group] = None

    def _reopen_holder(self, source: int, group: GroupKey, start: int) -> None:
        """A partial changes: the closed session that it is part of, if it is, is made anew."""
        for end in self._closed_ends.after(group, start - 1):
            if (start, source) in _members(self._closed_rows[end][group]):
                self._reopen(end, group)
                return

    def _reopen_touched(self, group: GroupKey) -> None:
        """What touches a closed session is not closed yet for its own partition, so they become one.

        None of a closed session can join one of these the other way round: it would be touched by it.
        """
        while True:
            touched = {
                end
                for start, source in self._open.get(group, ())
                for part in self.partials[start][group][source]
                for end in self._closed_ends.after(group, part.start)
                if self._closed_rows[end][group].start < part.end
                and (part.after_ms is None or end > part.after_ms)
            }
            if not touched:
                return
            for end in touched:
                self._reopen(end, group)

    def _reopen(self, end: int, group: GroupKey) -> None:
        session = self._closed_rows[end][group]
        _take(self._closed_rows, end, group)
        self._closed_ends.drop(end, (group,))
        self._open_rows.setdefault(end, {})[group] = session
        self._ends.add(end, group)
        mine = self._open.setdefault(group, {})
        mine.update(_members(session))
        self._stale[group] = None

    def _refresh(self) -> list[RowId]:
        """Makes the open rows of stale groups anew; returns what may have changed."""
        changed: dict[RowId, None] = {}
        self.moved, self._gone = [], {}
        for group in list(self._stale):
            self._reopen_touched(group)
            before = {end: self._open_rows[end][group].start for end in self._ends.take(group)}
            for end in before:
                changed[end, group] = None
                _take(self._open_rows, end, group)
                self._untold.pop((end, group), None)
            parts = [
                part._replace(state=(start, source, part.state))
                for start, source in self._open.get(group, ())
                for part in self.partials[start][group][source]
            ]
            sessions = sessions_of(parts)
            for session in sessions:
                changed[session.end, group] = None
                self._open_rows.setdefault(session.end, {})[group] = session
                self._ends.add(session.end, group)
            for session in sessions:
                if self.ready and self.is_closed(session.end):
                    self._settle(session.end, group)
            now = {(session.end, session.start) for session in sessions}
            self.moved += [(end, group, start) for end, start in before.items() if (end, start) not in now]
        self._stale = {}
        return list(changed)

    def rows_changed(self, changed: list[RowId]) -> list[RowId]:
        return self._refresh()

    def _refresh_for_readers(self) -> None:
        if self._stale:
            self._refresh()

    # -- closing -------------------------------------------------------------------------------------

    def _content(self, group: GroupKey, session: Session) -> Content:
        positions = self._positions.get(group, {})
        members = _members(session)
        return tuple(sorted((p, end, positions.get((end, p), NO_POSITION)) for end, p in members))

    def _is_told(self, end: int, group: GroupKey, session: Session) -> bool:
        """Was a closed session told of as it is?"""
        note, content = self._notes.get((end, group)), self._content(group, session)
        if note is None:  # older versions made no notes, and told of what they closed
            return all(position == NO_POSITION for _, _, position in content)
        return (note.start, note.content) == (session.start, content)

    def _settle(self, end: int, group: GroupKey) -> None:
        """An open row is closed: it is done with, if it was told of as it is."""
        session = self._open_rows[end][group]
        if not self._is_told(end, group, session):
            self._untold[end, group] = None
            return
        self._freeze(end, group)

    def _freeze(self, end: int, group: GroupKey) -> None:
        session = self._open_rows[end][group]
        self._untold.pop((end, group), None)
        _take(self._open_rows, end, group)
        self._ends.drop(end, (group,))
        self._closed_rows.setdefault(end, {})[group] = session
        self._closed_ends.add(end, group)
        for member in _members(session):
            _drop(self._open, group, member)

    def _settle_closed(self) -> None:
        window = self.spec.window
        if window is None or self.closed_to_ms is None:
            return
        for end in [end for end in self._open_rows if window.closed(end, self.closed_to_ms)]:
            for group in list(self._open_rows[end]):
                self._settle(end, group)

    def _plan(self) -> Closing | None:
        window, low, before_ms = self.spec.window, self.least_watermark_ms(), self.closed_to_ms
        if window is None or not self.ready or low is None:
            return None
        self._refresh_for_readers()
        if before_ms is not None and low <= before_ms:
            rows = sorted(self._untold, key=lambda row: row[0])
            return Closing(before_ms, rows=rows) if rows else None
        closing = Closing(low)
        for end in sorted(end for end in self._open_rows if window.closed(end, low)):
            closing.rows.extend((end, group) for group in in_order(self._open_rows[end]))
        for of in (self._closed_rows, self._open_rows):
            for end in [end for end in of if window.expired(end, low)]:
                closing.expired.setdefault(end, []).extend(of[end])
                for group, session in of[end].items():
                    closing.partials.extend((start, group, source) for start, source in _members(session))
        return closing if closing.rows or closing.partials else None

    def _tell(self, closing: Closing, cut: Cut) -> None:
        emit = self._emit
        for end, group in closing.rows:
            session = self._open_rows[end][group]
            told = list(self._replaced(end, group, session))
            if emit is not None:
                cut.closed.extend(session_records(emit, group, self.state(end, group), told))
            note = _Note(session.start, bool(told), self._content(group, session))
            self._note((end, group), note, cut.closings)
            for _, old_end in told:
                if old_end != end:
                    self._note((old_end, group), None, cut.closings)
        for end, groups in closing.expired.items():
            for group in groups:
                if self._notes.get((end, group)) is not None or self._notes.is_telling((end, group)):
                    key = announced_key(group, end)
                    cut.partial_tombstones.append(Record(self.topic, self.partition, key, None))

    def _replaced(self, end: int, group: GroupKey, session: Session) -> Iterator[tuple[int, int]]:
        """(start, end) of the sessions that were told of and that this one takes the place of."""
        for start, old_end in self._notes.within(group, session.start, end):
            if old_end == end or not (
                self._notes.is_telling((old_end, group)) or self._is_there(start, old_end, group)
            ):
                yield start, old_end

    def _is_there(self, start: int, end: int, group: GroupKey) -> bool:
        return any(
            group in rows.get(end, ()) and rows[end][group].start == start
            for rows in (self._open_rows, self._closed_rows)
        )

    def _note(self, row: RowId, note: _Note | None, records: list[Record]) -> None:
        end, group = row
        self._notes.tell(row, note)
        value = None if note is None else note.dump()
        records.append(Record(self.topic, self.partition, announced_key(group, end), value))

    def _read_told(self, row: RowId, value: bytes | None) -> None:
        self._notes.read(row, None if value is None else _Note.load(value))

    def close(self, closing: Closing) -> None:
        super().close(closing)
        self._notes.committed()
        # What has come since the cut may be closed by it as well, or be other than it was told of.
        self._settle_closed()

    def hold(self) -> None:
        super().hold()
        self._notes.hold()

    def is_revised(self, start: int, group: GroupKey) -> bool:
        note = self._notes.get((start, group))
        return note is not None and note.revised

    # -- expiry --------------------------------------------------------------------------------------

    def starts_of(self, closing: Closing) -> dict[RowId, int]:
        return {
            (end, group): self.start_of(end, group)
            for end, groups in closing.expired.items()
            for group in groups
        }

    def forget(self, closing: Closing) -> None:
        for end, groups in closing.expired.items():
            for group in groups:
                if group in self._open_rows.get(end, ()):
                    self._freeze(end, group)
                self._gone[end, group] = self._closed_rows[end][group].start
                self._forget_closed(end, group)
        super().forget(closing)

    def _forget_closed(self, end: int, group: GroupKey) -> None:
        _take(self._closed_rows, end, group)
        self._closed_ends.drop(end, (group,))
        self._notes.forget((end, group))

    def _forget_expired(self) -> None:
        """After a restore: what was closed and told of is done with, and what has expired goes."""
        window = self.spec.window
        self._refresh()
        self._gone = {}
        if window is None or self.closed_to_ms is None:
            return
        self._settle_closed()
        for end in [end for end in self._closed_rows if window.expired(end, self.closed_to_ms)]:
            for group, session in list(self._closed_rows[end].items()):
                self._forget_closed(end, group)
                for start, source in _members(session):
                    self._remove(source, group, start)

    # -- rows ----------------------------------------------------------------------------------------

    def row_count(self) -> int:
        self._refresh_for_readers()
        return sum(map(len, (*self._open_rows.values(), *self._closed_rows.values())))

    def _session(self, end: int, group: GroupKey) -> Session:
        for rows in (self._open_rows, self._closed_rows):
            session = rows.get(end, {}).get(group)
            if session is not None:
                return session
        raise KeyError((end, group))

    def start_of(self, end: int, group: GroupKey) -> int:
        """Where the session began that is kept by this end, also if it has just expired."""
        try:
            return self._session(end, group).start
        except KeyError:
            return self._gone.get((end, group), end)

    def starts(self) -> list[int]:
        self._refresh_for_readers()
        return sorted({*self._open_rows, *self._closed_rows})

    def has(self, start: int, group: GroupKey) -> bool:
        self._refresh_for_readers()
        return any(group in rows.get(start, ()) for rows in (self._open_rows, self._closed_rows))

    def groups(self, start: int) -> Iterable[GroupKey]:
        self._refresh_for_readers()
        return [*self._open_rows.get(start, ()), *self._closed_rows.get(start, ())]

    def state(self, start: int, group: GroupKey) -> tuple[Part, ...]:
        """What `AggregateSpec.shown` takes: the row as one part. Raises KeyError."""
        session = self._session(start, group)
        merged = self.spec.values.merge_all([part.state[2] for part in session.parts])
        return (Part(session.start, session.end, None, merged),)


def _members(session: Session) -> dict[Member, None]:
    """The partials that a session is made of."""
    return dict.fromkeys(part.state[:2] for part in session.parts)


def _take(rows: dict[int, dict[GroupKey, Session]], end: int, group: GroupKey) -> None:
    del rows[end][group]
    if not rows[end]:
        del rows[end]


def _drop(of: dict[GroupKey, dict[Member, Any]], group: GroupKey, member: Member) -> bool:
    """Was it there?"""
    mine = of.get(group)
    if mine is None or member not in mine:
        return False
    del mine[member]
    if not mine:
        del of[group]
    return True
