"""What every aggregate function is: a fold over events whose states merge. Pure, and the same in any order.

Contract of every aggregate function, which the property tests hold it to:

- A state is a plain value. ``merge`` is commutative and associative, and `initial` is its neutral
  element, so partials of many partitions, restored and fresh ones, may meet in any order.
- `fold_column` of a column, merged, equals `fold` of its values one by one, exactly: floats are added
  without rounding error, and rounded once, in `result`.
- `dump` gives JSON that survives 64-bit JSON libraries, and ``load(dump(state))`` is the state again.
- null and missing fields are passed over, as in SQL (but are a group of their own for `CountBy`).

Sketches hold the first two within the error that they state, and are exact while they are small;
what a state shows is a function of the state alone, so that a row that is read twice reads the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from streamflow.codecs.canonical import group_key_text
from streamflow.errors import ConfigurationError, DecodeError

Field = str | Callable[[Any], Any]
"""A field path such as ``"data.amount"``, or a function of the event."""
G = TypeVar("G", bound=Hashable)

OTHER = "…other"
"""Where `CountBy` and `TopK` count what they have no room for."""
KEY_CHARACTERS_MAX = 256
"""What is longer is no kind of event but content; a thousand of these must fit into a record."""
INT64_MIN, UINT64_MAX = -(2**63), 2**64 - 1
SCALARS = {int, float, str, bool, type(None)}

Bad = tuple[int, DecodeError]
"""(index in the column, why the value there can't be folded)"""
Placed = tuple[int, int, int, Any]
"""(event time in ms, source partition, offset, value): where an event stands among all others."""


class Aggregate(ABC):
    """One aggregate function of a declared table. Frozen: states are held by those who fold.

    What a state is only the function knows, so ``Any`` stands here where each has its own type.
    """

    name: str
    """The kind, for `describe`."""
    field: Field | None = None
    approximate = False
    """True: what a state shows depends, within the stated error, on how it was merged."""
    placed = False
    """True: `fold` and `fold_column` are given `Placed` values, for the order of events counts."""

    @abstractmethod
    def initial(self) -> Any:
        """The state of no events."""

    @abstractmethod
    def fold(self, state: Any, value: Any) -> Any:
        """The state with one event more; may change ``state``. ``value`` is that of `field`, else None."""

    @abstractmethod
    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, Any]:
        """Group -> fresh state of that group's events. ``values`` is as long as ``groups``, or None."""

    @abstractmethod
    def merge(self, state: Any, delta: Any) -> Any:
        """Both together; may change ``state``, never ``delta``, and keeps nothing of it that is mutable."""

    def copy(self, state: Any) -> Any:
        """A state that may be changed without changing this one."""
        return state

    def result(self, state: Any) -> Any:
        """What people see: a JSON value."""
        return state

    def dump(self, state: Any) -> Any:
        """The state as a JSON value."""
        return state

    def load(self, data: Any) -> Any:
        """The state of what `dump` wrote, as parsed JSON."""
        return data

    def agrees(self, state: Any, other: Any) -> bool:
        """Can both be states of the same events, however those came and were merged?"""
        return bool(self.result(state) == self.result(other))

    def describe(self) -> dict[str, Any]:
        """JSON description of the declaration, equal iff old states still mean the same."""
        described: dict[str, Any] = {"aggregate": self.name}
        if self.field is not None:
            described["field"] = getattr(self.field, "__qualname__", self.field)
        return described

    def check(self, value: object) -> None:  # noqa: B027  # every value will do, unless a kind says otherwise
        """Raises DecodeError, with the field named, for a value that can't be folded."""

    def check_column(self, values: Sequence[Any]) -> list[Bad]:
        """What of a column can't be folded, in order; such values must not reach `fold_column`."""
        bad: list[Bad] = []
        for index, value in enumerate(values):
            try:
                self.check(value)
            except DecodeError as exc:
                bad.append((index, exc))
        return bad

    def wrong(self, value: object, message: str) -> DecodeError:
        """The error that names the field, what it must be, and what it is."""
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
        return DecodeError("wrong-type", f"{message}, not {shown}", field=self._field_name())

    def _field_name(self) -> str | None:
        return self.field if self.field is None or isinstance(self.field, str) else self.field.__qualname__

    def __repr__(self) -> str:
        facts = [f"{key}={value!r}" for key, value in self.describe().items() if key != "aggregate"]
        return f"{type(self).__name__}({', '.join(facts)})"


class OfJson(Aggregate):
    """What all aggregates over a field of any JSON values share."""

    def check(self, value: object) -> None:
        try:
            group_key_text(value).encode()
        except (TypeError, UnicodeEncodeError):
            raise self.wrong(value, "must be a JSON value") from None

    def check_column(self, values: Sequence[Any]) -> list[Bad]:
        return super().check_column(values) if not _are_plain(values) else []


def _are_plain(values: Sequence[Any]) -> bool:
    # HOT PATH: a text needs no look of its own unless it holds a lone surrogate.
    if not set(map(type, values)) <= SCALARS:
        return False
    try:
        "".join([value for value in values if type(value) is str]).encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_field(aggregate: Aggregate, field: Field) -> Field:
    """The field. Raises ConfigurationError for what is neither a path nor a function."""
    if all(field.split(".")) if isinstance(field, str) else callable(field):
        return field
    raise ConfigurationError(f"{type(aggregate).__name__}({field!r}): a field path or a function is needed")


def checked_whole(aggregate: Aggregate, name: str, value: object, least: int, most: int) -> int:
    """A whole number of a declaration. Raises ConfigurationError."""
    if type(value) is not int or not least <= value <= most:
        raise ConfigurationError(
            f"{type(aggregate).__name__}({name}={value!r}) must be a whole number from {least} to {most}"
        )
    return value


def columns_by(groups: Sequence[G], values: Sequence[Any]) -> dict[G, list[Any]]:
    """Group -> its values in order, null left out; every group is there, be it empty."""
    columns: defaultdict[G, list[Any]] = defaultdict(list)
    if None in values:
        for group, value in zip(groups, values, strict=True):
            column = columns[group]
            if value is not None:
                column.append(value)
    else:
        for group, value in zip(groups, values, strict=True):
            columns[group].append(value)
    return columns


def shown_int(number: int) -> int | float:
    """An int beyond 64 bits as a float: hardly any JSON reader would take it."""
    return number if INT64_MIN <= number <= UINT64_MAX else float(number)


def dumped_int(number: int) -> int | str:
    return number if INT64_MIN <= number <= UINT64_MAX else str(number)
