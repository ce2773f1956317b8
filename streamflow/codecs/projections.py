"""Decodes only the fields that somebody needs, and accepts exactly what the whole model accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from streamflow.codecs.fields import step, times_ms_column
from streamflow.errors import DecodeError
from streamflow.event import Event

if TYPE_CHECKING:
    from streamflow.codecs.values import ValueCodec

Columns = tuple[dict[str, list[Any]], list[int], list[tuple[int, DecodeError]]]
"""(path -> values, event times in ms, what could not be read by index)"""

_FREE_OBJECTS = (dict, dict[str, Any])


class ProjectionCodec:
    """A Struct class made for the model and the paths: each field keeps its type, so the same values
    pass, but an object of free form is skipped over but for the keys that are needed.
    """

    def __init__(self, model: ValueCodec, paths: Sequence[str], explain: Callable[..., DecodeError]) -> None:
        self._model = model
        self._explain = explain
        self._is_event = issubclass(model.value_type, Event)
        nested: dict[str, dict[str, str]] = {}  # free object -> key in it -> attribute
        self._getters: dict[str, Callable[[Any], Any]] = {}
        infos = {info.encode_name: info for info in msgspec.structs.fields(model.value_type)}
        for path in paths:
            first, *rest = path.split(".")
            info = infos.get(first)
            if info is not None and rest and info.type in _FREE_OBJECTS:
                names = nested.setdefault(first, {})
                attribute = names.setdefault(rest[0], f"k{len(names)}")
                self._getters[path] = _nested_getter(info.name, attribute, rest[1:])
            else:
                self._getters[path] = _plain_getter(None if info is None else info.name, rest)
        self._decode = msgspec.json.Decoder(self._struct(infos, nested)).decode

    def _struct(self, infos: dict[str, Any], nested: dict[str, dict[str, str]]) -> type[msgspec.Struct]:
        fields: list[Any] = []
        for name, info in infos.items():
            kind = info.type
            if kind in _FREE_OBJECTS:
                inner = [
                    (attribute, Any, msgspec.field(name=key, default=None))
                    for key, attribute in nested.get(name, {}).items()
                ]
                kind = msgspec.defstruct("Fields", inner, gc=False)
            elif self._is_event and name == "timestamp":
                kind = kind | int
            if info.required:
                fields.append((info.name, kind, msgspec.field(name=name)))
            elif info.default_factory is not msgspec.NODEFAULT:
                fields.append(
                    (info.name, kind, msgspec.field(name=name, default_factory=info.default_factory))
                )
            else:
                fields.append((info.name, kind, msgspec.field(name=name, default=info.default)))
        return msgspec.defstruct("Projection", fields, gc=False, kw_only=True)

    def decode_columns(self, values: Sequence[bytes | None], timestamps_ms: Sequence[int]) -> Columns:
        """Columns of the paths; rows that could not be read hold None and a good row's time."""
        decode = self._decode
        bad: list[tuple[int, DecodeError]] = []
        try:
            if values and max(map(len, values)) > self._model.value_bytes_max:  # type: ignore[arg-type]
                raise ValueError
            rows = [decode(value) for value in values]  # type: ignore[arg-type]  # None raises TypeError
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
            rows = self._one_by_one(values, bad)
        columns = {path: list(map(getter, rows)) for path, getter in self._getters.items()}
        return columns, self._times(rows, timestamps_ms, bad), bad

    def _one_by_one(self, values: Sequence[bytes | None], bad: list[tuple[int, DecodeError]]) -> list[Any]:
        rows: list[Any] = []
        for index, value in enumerate(values):
            try:
                rows.append(self._row(value))
            except DecodeError as exc:
                rows.append(None)
                bad.append((index, exc))
        filler = next((row for row in rows if row is not None), None)
        if filler is None:
            return []
        return [filler if row is None else row for row in rows]

    def _row(self, value: bytes | None) -> Any:
        """One value. Raises the whole model's DecodeError, so that the reason is the same on both roads."""
        if value is None or len(value) > self._model.value_bytes_max:
            self._model.decode(value)
        try:
            return self._decode(value)  # type: ignore[arg-type]  # None has raised
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            self._model.decode(value)
            raise self._explain(exc, missing_type=self._is_event) from exc

    def _times(
        self, rows: list[Any], timestamps_ms: Sequence[int], bad: list[tuple[int, DecodeError]]
    ) -> list[int]:
        if self._model.time_field is None or not rows:
            return list(timestamps_ms)
        name = self._model.time_field
        times, wrong = times_ms_column([getattr(row, name) for row in rows], name)
        known = {index for index, _ in bad}
        bad.extend((index, error) for index, error in wrong if index not in known)
        return times


def _nested_getter(outer: str, attribute: str, rest: list[str]) -> Callable[[Any], Any]:
    read: Callable[[Any], Any] = attrgetter(f"{outer}.{attribute}")
    if not rest:
        return read
    return lambda row: _walk(read(row), rest)


def _plain_getter(name: str | None, rest: list[str]) -> Callable[[Any], Any]:
    if name is None:
        return lambda row: None
    read: Callable[[Any], Any] = attrgetter(name)
    if not rest:
        return read
    return lambda row: _walk(read(row), rest)


def _walk(value: Any, path: list[str]) -> Any:
    for name in path:
        value = step(value, name)
    return value
