"""Joins in Faust's form: ``(orders & payments).inner_join(Order.id, Payment.order, within=60)``."""

from __future__ import annotations

from typing import Any

import faust
from faust.exceptions import ImproperlyConfigured, Skip
from faust.types import FieldDescriptorT
from mode.utils.times import want_seconds

from streamflow.app.streams.sources import JoinedSource, MergedSource
from streamflow.errors import ConfigurationError
from streamflow.processing.joins import JoinSpec
from streamflow.state.event_context import current_context

OUTER = {"inner": (False, False), "left": (True, False), "right": (False, True), "outer": (True, True)}


def is_stream(node: Any) -> bool:
    return isinstance(node, faust.Stream)


class Joinable:
    """The part of a stream that joins.

    Two streams: their values come as pairs ``(left, right)`` where the keys are equal and the event times
    at most ``within`` seconds apart. ``fields`` say the key, one of each model, where it is not the
    message's own. In a left, right or outer join what finds no match comes alone, with ``None``, when both
    sides' time has passed ``within + grace``; a side that is silent for ``idle`` seconds holds nothing back.
    ``name`` names its tables (the agent's name, if it is not said). A stream and a table: each value comes
    as ``(value, row)`` with the row of its key as of now.

    Raises ConfigurationError for what can't be joined.
    """

    def join(self, *what: Any, **options: Any) -> Any:
        """`inner_join`."""
        return self._joined("inner", what, options)

    def inner_join(self, *what: Any, **options: Any) -> Any:
        """Pairs where both sides match."""
        return self._joined("inner", what, options)

    def left_join(self, *what: Any, **options: Any) -> Any:
        """`inner_join`, and each event of the left side that found no match."""
        return self._joined("left", what, options)

    def right_join(self, *what: Any, **options: Any) -> Any:
        """`inner_join`, and each event of the right side that found no match."""
        return self._joined("right", what, options)

    def outer_join(self, *what: Any, **options: Any) -> Any:
        """`inner_join`, and each event of either side that found no match."""
        return self._joined("outer", what, options)

    def _joined(self, kind: str, what: Any, options: dict[str, Any]) -> Any:
        stream: Any = self
        fields = [each for each in what if isinstance(each, FieldDescriptorT)]
        others = [each for each in what if not isinstance(each, FieldDescriptorT)]
        tables = [*stream.tables, *(each for each in others if not is_stream(each))]
        streams = [each for each in others if is_stream(each)]
        left = stream
        if isinstance(stream.source, MergedSource):
            left, *more = stream.source.streams
            streams = [*more, *streams]
        if len(tables) == 1 and not streams:
            return _with_table(left, tables[0], kind, fields)
        if len(streams) != 1 or tables:
            raise ConfigurationError("a join is of two streams, or of a stream and a table")
        if left.source.shared or streams[0].source.shared:
            raise ImproperlyConfigured("an agent with concurrency > 1 cannot join streams")
        return stream.again(JoinedSource(left, streams[0], _spec(stream, kind, options), _getters(fields)))


def _spec(stream: Any, kind: str, options: dict[str, Any]) -> JoinSpec:
    unknown = options.keys() - {"within", "grace", "idle", "name"}
    if unknown:
        raise TypeError(f"a join has no option {', '.join(sorted(unknown))}")
    within = options.get("within")
    if within is None:
        raise ConfigurationError("a join of two streams needs within=: how many seconds apart events match")
    times = {name: int(want_seconds(options.get(name, 0)) * 1_000) for name in ("within", "grace")}
    if min(times.values()) < 0:
        raise ConfigurationError(f"a join can't look {options} apart")
    name = options.get("name") or f"{stream.prefix or 'stream'}-join"
    idle_ms = int(want_seconds(options.get("idle", 10)) * 1_000)
    return JoinSpec(name, OUTER[kind], times["within"], times["grace"], idle_ms)


def _getters(fields: list[Any]) -> list[tuple[type, Any]]:
    return [(each.model, each.getattr) for each in fields]


def _with_table(stream: Any, table: Any, kind: str, fields: list[Any]) -> Any:
    """Each value with the table's row of its key; in an inner join only where there is one."""
    if kind not in ("inner", "left"):
        raise ConfigurationError(f"a stream joins a table by inner_join or left_join, not by {kind}_join")
    getters = _getters(fields)

    async def with_row(value: Any) -> tuple[Any, Any]:
        context = current_context.get()
        assert context is not None, "a value has its event in flight"
        key = context.keys[context.position]
        for model, getter in getters:
            if isinstance(value, model):
                key = getter(value)
        if key not in table:
            if kind == "inner":
                raise Skip
            return value, None
        row = table[key]
        return value, row.value() if hasattr(row, "value") and hasattr(row, "delta") else row

    return stream.add_processor(with_row) or stream
