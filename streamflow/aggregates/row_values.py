"""Several functions as one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamflow.aggregates import Aggregate, Count
from streamflow.errors import ConfigurationError
from streamflow.state.hopping_panes import SplitPane
from streamflow.state.panes import Pane
from streamflow.state.sessions import SessionRow
from streamflow.windows.session import Part

State = object
"""Of a row: only its functions know what it is."""


def _check_values(values: object) -> None:
    """Raises ConfigurationError, with what to write, for what is no aggregate function."""
    named: Mapping[str, object] = values if isinstance(values, Mapping) else {"": values}
    for name, value in named.items():
        if isinstance(value, Aggregate):
            continue
        if isinstance(value, type) and issubclass(value, Aggregate):
            shown, made = value.__name__, f"{value.__name__}({'' if value is Count else repr('field')})"
            said = f"this is a class; write values={_within(name, made)}"
        else:
            shown, said = repr(value), "this is no aggregate such as Count() or Sum('field')"
        raise ConfigurationError(f"values={_within(name, shown)}: {said}")


def _within(name: str, text: str) -> str:
    return f"{{{name!r}: {text}}}" if name else text


class RowFunctions:
    """The functions of one row: a single one (the row's value is its result), or several by name.

    The state of a row is the function's own, or the list of all, in the order of their names: so it is
    ``Any`` where it is passed on to functions that have types of their own.
    """

    def __init__(self, values: Aggregate | Mapping[str, Aggregate]) -> None:
        _check_values(values)
        self.scalar = isinstance(values, Aggregate)
        self.names: tuple[str, ...] = ()
        self.functions: tuple[Aggregate, ...]
        if isinstance(values, Aggregate):
            self.functions = (values,)
            return
        if not values:
            raise ConfigurationError("values= names no aggregate")
        self.names = tuple(values)
        self.functions = tuple(values.values())

    @property
    def declared(self) -> Aggregate | Mapping[str, Aggregate]:
        """What it was made of."""
        return self.functions[0] if self.scalar else dict(zip(self.names, self.functions, strict=True))

    def fold_columns(self, groups: Sequence[Any], columns: Sequence[list[Any] | None]) -> dict[Any, State]:
        """Group -> fresh state of the rows of one stretch; ``columns`` holds one for each function."""
        folded = [
            function.fold_column(groups, column)
            for function, column in zip(self.functions, columns, strict=True)
        ]
        if self.scalar:
            return folded[0]
        seen: dict[Any, None] = {}
        for states in folded:
            seen.update(dict.fromkeys(states))
        return {
            group: [
                states[group] if group in states else function.initial()
                for function, states in zip(self.functions, folded, strict=True)
            ]
            for group in seen
        }

    @property
    def shareable(self) -> bool:
        """May one state stand in several rows? Merging makes a new one of it, and never changes it."""
        return all(type(function).copy is Aggregate.copy for function in self.functions)

    @property
    def approximate(self) -> bool:
        """Does what a state shows depend on how it was merged?"""
        return any(function.approximate for function in self.functions)

    def initial(self) -> State:
        """The state of no events, which changes nothing that it is merged with."""
        return self.functions[0].initial() if self.scalar else [each.initial() for each in self.functions]

    def copy(self, state: Any) -> Any:
        if self.scalar:
            return self.functions[0].copy(state)
        return [function.copy(part) for function, part in zip(self.functions, state, strict=True)]

    def merge(self, state: Any, delta: Any) -> Any:
        """May change ``state``, never ``delta``."""
        if self.scalar:
            return self.functions[0].merge(state, delta)
        return [a.merge(s, d) for a, s, d in zip(self.functions, state, delta, strict=True)]

    def merge_all(self, states: Sequence[State]) -> Any:
        """The merged state of at least one; changes none of them."""
        merged = self.copy(states[0])
        for state in states[1:]:
            merged = self.merge(merged, state)
        return merged

    def result(self, state: Any) -> Any:
        """The row's value: the scalar's result, or name -> result."""
        if self.scalar:
            return self.functions[0].result(state)
        return {n: a.result(s) for n, a, s in zip(self.names, self.functions, state, strict=True)}

    def dump(self, state: Any) -> Any:
        """JSON value of a state."""
        if self.scalar:
            return self.functions[0].dump(state)
        return [a.dump(s) for a, s in zip(self.functions, state, strict=True)]

    def load(self, data: Any) -> Any:
        if self.scalar:
            return self.functions[0].load(data)
        return [a.load(d) for a, d in zip(self.functions, data, strict=True)]

    def describe(self) -> Any:
        """JSON description, to tell a changed declaration."""
        described = [a.describe() for a in self.functions]
        return described[0] if self.scalar else dict(zip(self.names, described, strict=True))


class PaneValues(RowFunctions):
    """What is kept of a sliding window's pane: see `state.panes.Pane`."""

    def copy(self, state: Pane) -> dict[int | None, State]:
        return {after_ms: super(PaneValues, self).copy(part) for after_ms, part in state.items()}

    def merge(self, state: dict[int | None, State], delta: Pane) -> State:
        for after_ms, part in delta.items():
            if after_ms in state:
                state[after_ms] = super().merge(state[after_ms], part)
            else:
                state[after_ms] = super().copy(part)
        return state

    def dump(self, state: Pane) -> list[Any]:
        return [[after_ms, super(PaneValues, self).dump(part)] for after_ms, part in state.items()]

    def load(self, data: Sequence[Any]) -> dict[int | None, State]:
        return {after_ms: super(PaneValues, self).load(part) for after_ms, part in data}


class HoppingValues(RowFunctions):
    """What is kept of a hopping window's pane: its state, or a `state.hopping_panes.SplitPane`.

    Dumped, a state is what its functions dump, unless that is an object: then it is ``{"whole": object}``;
    a split pane is ``{"split": [[start or null, state], ...]}``.
    """

    def copy(self, state: Any) -> State:
        if type(state) is SplitPane:
            return SplitPane({first: super(HoppingValues, self).copy(part) for first, part in state.items()})
        return super().copy(state)

    def merge(self, state: Any, delta: Any) -> State:
        if type(delta) is not SplitPane:
            if type(state) is not SplitPane:
                return super().merge(state, delta)
            delta = {None: delta}
        parts = state if type(state) is SplitPane else SplitPane({None: state})
        for first, part in delta.items():
            if first in parts:
                parts[first] = super().merge(parts[first], part)
            else:
                parts[first] = super().copy(part)
        return parts

    def dump(self, state: Any) -> Any:
        if type(state) is SplitPane:
            parts = [[first, super(HoppingValues, self).dump(part)] for first, part in state.items()]
            return {"split": parts}
        data = super().dump(state)
        return {"whole": data} if type(data) is dict else data

    def load(self, data: Any) -> State:
        if type(data) is not dict:
            return super().load(data)
        if "split" in data:
            return SplitPane({first: super(HoppingValues, self).load(part) for first, part in data["split"]})
        return super().load(data["whole"])


class SessionValues(RowFunctions):
    """What is kept of a session: its parts (see `windows.session.Part`)."""

    def dump(self, state: SessionRow) -> list[Any]:
        dump = super().dump
        return [
            [start, end, after_ms, dump(s)] if not told else [start, end, after_ms, dump(s), told]
            for start, end, after_ms, s, told in state
        ]

    def load(self, data: Sequence[Any]) -> SessionRow:
        load = super().load
        return tuple(
            Part(start, end, after_ms, load(state), *(tuple(map(tuple, of)) for of in told))
            for start, end, after_ms, state, *told in data
        )
