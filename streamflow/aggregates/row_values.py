"""Several functions as one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamflow.aggregates import Aggregate
from streamflow.errors import ConfigurationError
from streamflow.windows.session import Part

State = Any


class RowFunctions:
    """The aggregates of one row: a single one (the row's value is its result), or several by name.

    The state of a row is the aggregate's own, or the list of all, in the order of their names.
    """

    def __init__(self, values: Aggregate | Mapping[str, Aggregate]) -> None:
        self.scalar = isinstance(values, Aggregate)
        self.names: tuple[str, ...] = ()
        if isinstance(values, Aggregate):
            self.aggregates: tuple[Aggregate, ...] = (values,)
        else:
            if not values:
                raise ConfigurationError("values= names no aggregate")
            self.names = tuple(values)
            self.aggregates = tuple(values.values())

    def fold_columns(self, groups: Sequence[Any], columns: Sequence[list[Any] | None]) -> dict[Any, State]:
        """Group -> fresh state of the rows of one stretch; ``columns`` holds one for each aggregate."""
        folded = [
            aggregate.fold_column(groups, column)
            for aggregate, column in zip(self.aggregates, columns, strict=True)
        ]
        if self.scalar:
            return folded[0]
        seen: dict[Any, None] = {}
        for states in folded:
            seen.update(dict.fromkeys(states))
        return {
            group: [
                states[group] if group in states else aggregate.initial()
                for aggregate, states in zip(self.aggregates, folded, strict=True)
            ]
            for group in seen
        }

    def copy(self, state: State) -> State:
        if self.scalar:
            return self.aggregates[0].copy(state)
        return [aggregate.copy(part) for aggregate, part in zip(self.aggregates, state, strict=True)]

    def merge(self, state: State, delta: State) -> State:
        """May change ``state``, never ``delta``."""
        if self.scalar:
            return self.aggregates[0].merge(state, delta)
        return [a.merge(s, d) for a, s, d in zip(self.aggregates, state, delta, strict=True)]

    def merge_all(self, states: Sequence[State]) -> State:
        """The merged state of at least one; changes none of them."""
        merged = self.copy(states[0])
        for state in states[1:]:
            merged = self.merge(merged, state)
        return merged

    def result(self, state: State) -> Any:
        """The row's value: the scalar's result, or name -> result."""
        if self.scalar:
            return self.aggregates[0].result(state)
        return {n: a.result(s) for n, a, s in zip(self.names, self.aggregates, state, strict=True)}

    def dump(self, state: State) -> Any:
        """JSON value of a state."""
        if self.scalar:
            return self.aggregates[0].dump(state)
        return [a.dump(s) for a, s in zip(self.aggregates, state, strict=True)]

    def load(self, data: Any) -> State:
        if self.scalar:
            return self.aggregates[0].load(data)
        return [a.load(d) for a, d in zip(self.aggregates, data, strict=True)]

    def describe(self) -> Any:
        """JSON description, to tell a changed declaration."""
        described = [a.describe() for a in self.aggregates]
        return described[0] if self.scalar else dict(zip(self.names, described, strict=True))


class PaneValues(RowFunctions):
    """What is kept of a sliding window's pane: ``after_ms`` -> state of the events that came at it.

    Such events count in windows that end after ``after_ms`` only, the others were closed when they
    came; ``None`` is for those that came within the grace, which count in every window that holds them.
    """

    def __init__(self, values: RowFunctions) -> None:
        self.scalar, self.names, self.aggregates = values.scalar, values.names, values.aggregates

    def copy(self, state: dict[int | None, State]) -> State:
        return {after_ms: super(PaneValues, self).copy(part) for after_ms, part in state.items()}

    def merge(self, state: dict[int | None, State], delta: dict[int | None, State]) -> State:
        for after_ms, part in delta.items():
            if after_ms in state:
                state[after_ms] = super().merge(state[after_ms], part)
            else:
                state[after_ms] = super().copy(part)
        return state

    def dump(self, state: dict[int | None, State]) -> Any:
        return [[after_ms, super(PaneValues, self).dump(part)] for after_ms, part in state.items()]

    def load(self, data: Any) -> State:
        return {after_ms: super(PaneValues, self).load(part) for after_ms, part in data}


class SessionValues(RowFunctions):
    """What is kept of a session: its parts (see `windows.session.Part`)."""

    def __init__(self, values: RowFunctions) -> None:
        self.scalar, self.names, self.aggregates = values.scalar, values.names, values.aggregates

    def dump(self, state: tuple[Part, ...]) -> Any:
        return [
            [start, end, after_ms, super(SessionValues, self).dump(s)] for start, end, after_ms, s in state
        ]

    def load(self, data: Any) -> State:
        load = super().load
        return tuple(Part(start, end, after_ms, load(state)) for start, end, after_ms, state in data)
