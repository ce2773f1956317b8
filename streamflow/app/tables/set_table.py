"""Tables of sets: ``table[key].add(member)`` writes the row.

A row is a whole set, written to the changelog as an array; so the changelog of such a table is compacted
like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, MutableSet
from collections.abc import Set as AbstractSet
from typing import Any, Required, TypedDict, Unpack, cast

from faust.models import maybe_model
from faust.tables.sets import SetAction, SetManagerOperation
from faust.types import EventT, StreamT
from yarl import URL

from streamflow.app.interface import AppT, Recovered
from streamflow.app.tables.base import WindowClosed
from streamflow.app.tables.global_table import GlobalTable
from streamflow.app.tables.row_codecs import set_key_in
from streamflow.app.tables.table import Table
from streamflow.app.tables.windowed import WindowedRow
from streamflow.state.changelog import RowCodec
from streamflow.state.stores.base import MISSING, NO_WINDOW


class SetRow(MutableSet[Any]):
    """One set of a table: what it does to itself is written."""

    __slots__ = ("_key", "_start", "_table")

    def __init__(self, table: Table, key: Hashable, start: int = NO_WINDOW) -> None:
        self._table = table
        self._key = key
        self._start = start

    def is_of(self, table: Table, key: Hashable) -> bool:
        return self._table is table and self._key == key

    @property
    def data(self) -> set[Any]:
        """What it holds now; not to be changed."""
        found = self._table.find(self._key, self._start)
        return set() if found is MISSING else found

    def _put(self, members: set[Any]) -> None:
        if members != self.data:
            self._table.write(self._key, members, self._start)
            if self._table.watched:
                self._table.on_key_set(self._key, members)

    @classmethod
    def _from_iterable(cls, members: Iterable[Any]) -> Any:
        return set(members)  # what `|` and the like give is no row of a table

    def __contains__(self, member: object) -> bool:
        return member in self.data

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.data))

    def __len__(self) -> int:
        return len(self.data)

    def add(self, member: Hashable) -> None:
        self._put(self.data | {member})

    def discard(self, member: Hashable) -> None:
        self._put(self.data - {member})

    def clear(self) -> None:
        self._put(set())

    def update(self, *members: Iterable[Any]) -> None:
        self._put(self.data.union(*members))

    def difference_update(self, *members: Iterable[Any]) -> None:
        self._put(self.data.difference(*members))

    def intersection_update(self, *members: Iterable[Any]) -> None:
        self._put(self.data.intersection(*members))

    def symmetric_difference_update(self, members: Iterable[Any]) -> None:
        self._put(self.data.symmetric_difference(members))

    def union(self, *members: Iterable[Any]) -> set[Any]:
        return self.data.union(*members)

    def difference(self, *members: Iterable[Any]) -> set[Any]:
        return self.data.difference(*members)

    def intersection(self, *members: Iterable[Any]) -> set[Any]:
        return self.data.intersection(*members)

    def symmetric_difference(self, members: Iterable[Any]) -> set[Any]:
        return self.data.symmetric_difference(members)

    def issubset(self, other: Iterable[Any]) -> bool:
        return self.data.issubset(other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        return self.data.issuperset(other)

    def copy(self) -> set[Any]:
        return set(self.data)

    def __ior__(self, other: AbstractSet[Any]) -> Any:  # type: ignore[misc]  # `|` gives a plain set
        self.update(other)
        return self

    def __iand__(self, other: AbstractSet[Any]) -> Any:
        self.intersection_update(other)
        return self

    def __isub__(self, other: AbstractSet[Any]) -> Any:
        self.difference_update(other)
        return self

    def __ixor__(self, other: AbstractSet[Any]) -> Any:  # type: ignore[misc]  # `^` gives a plain set
        self.symmetric_difference_update(other)
        return self

    def __repr__(self) -> str:
        return repr(self.data)


class WindowedSetRow(WindowedRow):
    """The sets of one key in the windows of the event in flight."""

    def add(self, member: Hashable, *, event: EventT[Any] | None = None) -> None:
        self._change(self.key, _with, member)

    def discard(self, member: Hashable, *, event: EventT[Any] | None = None) -> None:
        self._change(self.key, _without, member)


def _with(members: set[Any], member: Hashable) -> set[Any]:
    return members | {member}


def _without(members: set[Any], member: Hashable) -> set[Any]:
    return members - {member}


class SetTableOptions(TypedDict, total=False):
    """Those of `Table`; but a set table's default is the empty set."""

    name: Required[str]
    default: Callable[[], Any] | None
    partitions: int | None
    key_type: type[object] | None
    value_type: type[object] | None
    help: str | None
    on_recover: Recovered | None
    on_window_close: WindowClosed | None
    store: str | URL | None


class SetTable(Table):
    """A table of sets. With ``start_manager`` they can also be changed from elsewhere, see `SetManager`."""

    Row = WindowedSetRow

    def __init__(
        self,
        app: AppT,
        *,
        start_manager: bool = False,
        manager_topic_name: str | None = None,
        manager_topic_suffix: str = "-setmanager",
        **options: Unpack[SetTableOptions],
    ) -> None:
        options["default"] = set
        super().__init__(app, **options)
        self.start_manager = start_manager
        self.manager_topic_name = manager_topic_name or self.name + manager_topic_suffix
        self.manager = SetManager(self)

    def row_codec(self, key_type: type[object] | None) -> RowCodec:
        kind = self.value_type
        return RowCodec(
            self.window,
            key_in=set_key_in(key_type),
            value_in=lambda data: {_member(kind, member) for member in data},
        )

    def __getitem__(self, key: Hashable) -> SetRow:
        if self.watched:
            self.on_key_get(key)
        return SetRow(self, key)

    def __setitem__(self, key: Hashable, value: object) -> None:
        if isinstance(value, SetRow) and value.is_of(self, key):
            return  # `table[key] |= members` has written already
        super().__setitem__(key, set(cast("Iterable[Any]", value)))

    def get(self, key: Hashable, default: object = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401  # this is that get

    def pop(self, key: Hashable, *default: object) -> Any:
        if key not in self:
            return super().pop(key, *default)
        members = self[key].copy()
        del self[key]
        return members


class SetGlobalTable(GlobalTable, SetTable):
    """A set table whose rows every worker holds."""


def _member(kind: type[object] | None, data: object) -> Any:
    if isinstance(data, dict) and (from_data := getattr(kind, "from_data", None)) is not None:
        return from_data(data)
    found = maybe_model(data)
    return tuple(found) if isinstance(found, list) else found


class SetManager:
    """Changes sets from pages, tasks and other agents: sends each change to the worker that has the set."""

    def __init__(self, table: SetTable) -> None:
        self.table = table
        self.topic: Any = None
        self._actions: dict[SetAction, Callable[[SetRow, list[Any]], None]] = {
            SetAction.ADD: SetRow.update,
            SetAction.DISCARD: SetRow.difference_update,
            SetAction.CLEAR: lambda row, _: row.clear(),
            SetAction.INTERSECTION: SetRow.intersection_update,
            SetAction.SYMDIFF: SetRow.symmetric_difference_update,
        }
        if table.start_manager:
            app = table.app
            self.topic = app.topic(
                table.manager_topic_name,
                key_type=str if table.key_type is None else table.key_type,
                value_type=SetManagerOperation,
                partitions=table.partitions,
            )
            app.agent(self.topic, name=f"{table.name}-setmanager")(self._run)

    async def _run(self, stream: StreamT[Any]) -> None:
        async for key, operation in stream.items():
            members = [maybe_model(member) for member in operation.members]
            self._actions[SetAction(operation.action)](self.table[key], members)

    async def add(self, key: Hashable, member: Hashable) -> None:
        await self._send(SetAction.ADD, key, [member])

    async def discard(self, key: Hashable, member: Hashable) -> None:
        await self._send(SetAction.DISCARD, key, [member])

    async def clear(self, key: Hashable) -> None:
        await self._send(SetAction.CLEAR, key, [])

    async def update(self, key: Hashable, members: Iterable[Any]) -> None:
        await self._send(SetAction.ADD, key, members)

    async def difference_update(self, key: Hashable, members: Iterable[Any]) -> None:
        await self._send(SetAction.DISCARD, key, members)

    async def intersection_update(self, key: Hashable, members: Iterable[Any]) -> None:
        await self._send(SetAction.INTERSECTION, key, members)

    async def symmetric_difference_update(self, key: Hashable, members: Iterable[Any]) -> None:
        await self._send(SetAction.SYMDIFF, key, members)

    async def _send(self, action: SetAction, key: Hashable, members: Iterable[Any]) -> None:
        if self.topic is None:
            raise RuntimeError(f"set table {self.table.name!r} was not declared with start_manager=True")
        await self.topic.send(key=key, value=SetManagerOperation(action=action, members=list(members)))
