"""Joins in Faust's form: ``(orders & payments).inner_join(Order.id, Payment.order, within=60)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict, TypeGuard, cast

import faust
from faust.exceptions import ImproperlyConfigured, Skip
from faust.types import FieldDescriptorT
from mode import Seconds
from mode.utils.times import want_seconds

from streamflow.app.streams.key_types import check_join_keys
from streamflow.app.streams.sources import JoinedSource, MergedSource, SourcedStream, StreamSource
from streamflow.errors import ConfigurationError
from streamflow.processing.joins import JoinSpec
from streamflow.state.event_context import current_context

Kind = Literal["inner", "left", "right", "outer"]
OUTER = {"inner": (False, False), "left": (True, False), "right": (False, True), "outer": (True, True)}


class JoinOptions(TypedDict, total=False):
    """How two streams are joined: see `joined`."""

    within: Seconds
    grace: Seconds
    idle: Seconds
    name: str


class JoinableStream(SourcedStream, Protocol):
    """A stream of this engine, as far as a join asks."""

    tables: list[Mapping[Any, Any]]
    prefix: str

    def again(self, source: StreamSource) -> Any:
        """A stream of its name whose events come from elsewhere."""

    def add_processor(self, processor: Callable[[Any], Any]) -> None: ...


def is_stream(node: object) -> TypeGuard[JoinableStream]:
    return isinstance(node, faust.Stream)


def joined(stream: JoinableStream, kind: Kind, what: Sequence[object], options: JoinOptions) -> Any:
    """The stream that comes of a join.

    Two streams: their values come as pairs ``(left, right)`` where the keys are equal and the event times
    at most ``within`` seconds apart. Fields in ``what`` say the key, one of each model, where it is not the
    message's own. In a left, right or outer join what finds no match comes alone, with ``None``, when both
    sides' time has passed ``within + grace``; a side that is silent for ``idle`` seconds holds nothing back.
    ``name`` names its tables (the agent's name, if it is not said). A stream and a table: each value comes
    as ``(value, row)`` with the row of its key as of now.

    Raises ConfigurationError for what can't be joined.
    """
    fields = [each for each in what if isinstance(each, FieldDescriptorT)]
    others = [each for each in what if not isinstance(each, FieldDescriptorT)]
    tables = [*stream.tables, *(each for each in others if not is_stream(each))]
    streams: list[SourcedStream] = [each for each in others if is_stream(each)]
    left: SourcedStream = stream
    if isinstance(stream.source, MergedSource):
        left, *more = stream.source.streams
        streams = [*more, *streams]
    if len(tables) == 1 and not streams:
        return _with_table(left, cast("Mapping[Any, Any]", tables[0]), kind, fields)
    if len(streams) != 1 or tables or any(_has_several(each) for each in (left, *streams)):
        raise ConfigurationError(
            "a join is of two streams, or of a stream and a table: join two, send the pairs to a topic, and "
            "join that one with the third"
        )
    if left.source.shared or streams[0].source.shared:
        raise ImproperlyConfigured("an agent with concurrency > 1 cannot join streams")
    check_join_keys(left, streams[0], fields, plain=not (left.has_processors or streams[0].has_processors))
    return stream.again(JoinedSource(left, streams[0], _spec(stream, kind, options), _getters(fields)))


def _has_several(stream: SourcedStream) -> bool:
    """Are its events those of several streams?"""
    return isinstance(stream.source, MergedSource | JoinedSource)


def _spec(stream: JoinableStream, kind: Kind, options: JoinOptions) -> JoinSpec:
    unknown = options.keys() - {"within", "grace", "idle", "name"}
    if unknown:
        raise TypeError(f"a join has no option {', '.join(sorted(unknown))}")
    within = options.get("within")
    if within is None:
        raise ConfigurationError("a join of two streams needs within=: how many seconds apart events match")
    within_ms, grace_ms = (int(want_seconds(time) * 1_000) for time in (within, options.get("grace", 0)))
    if min(within_ms, grace_ms) < 0:
        raise ConfigurationError(f"a join can't look {options} apart")
    name = options.get("name") or f"{stream.prefix or 'stream'}-join"
    idle_ms = int(want_seconds(options.get("idle", 10)) * 1_000)
    return JoinSpec(name, OUTER[kind], within_ms, grace_ms, idle_ms)


def _getters(fields: Sequence[FieldDescriptorT[Any]]) -> list[tuple[type, Callable[[Any], Any]]]:
    return [(each.model, each.getattr) for each in fields]


def _with_table(
    stream: SourcedStream, table: Mapping[Any, Any], kind: Kind, fields: Sequence[FieldDescriptorT[Any]]
) -> Any:
    """Each value with the table's row of its key; in an inner join only where there is one."""
    if kind not in ("inner", "left"):
        raise ConfigurationError(f"a stream joins a table by inner_join or left_join, not by {kind}_join")
    getters = _getters(fields)

    async def with_row(value: object) -> tuple[Any, Any]:
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

    stream.add_processor(with_row)
    return stream
