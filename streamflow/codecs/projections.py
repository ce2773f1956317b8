"""Decodes only the fields that somebody needs, and accepts exactly what the whole model accepts.

A Struct class is made for the model and the paths: every field keeps its type, so the same values
pass, but of an object of free form only the keys that are needed are decoded and the rest is skipped
over. Skipping checks the syntax; what it leaves out is checked here: UTF-8, and that no integer has
more digits than Python reads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from streamflow.clock import EPOCH
from streamflow.codecs.events import twin_fields, with_ms
from streamflow.codecs.fields import datetime_of_ms, times_ms_column, walk
from streamflow.codecs.reasons import Bad, are_utf8, number
from streamflow.codecs.times import numbers_as_ms
from streamflow.errors import DecodeError

Columns = tuple[dict[str, list[Any]], list[int], list[Bad]]
"""(path -> values, event times in ms, what could not be read); of a bad one the columns say nothing."""

Getter = Callable[[Any], Any]
_FREE_OBJECTS = (dict, dict[str, Any])
_DIGITS = bytes(ord("0") if chr(byte) in "0123456789" else ord(" ") for byte in range(256))


class WholeModel(Protocol):
    """The codec of whole values: what a projection of them is made from, and what says what is wrong."""

    value_type: Any
    value_bytes_max: int
    time_field: str | None
    time_unit: str
    is_event: bool

    def decode(self, raw: bytes | None) -> object: ...

    def error(self, exc: BaseException) -> DecodeError: ...


class ProjectionCodec:
    """Columns of some paths of a model's fields. What is missing on the way is ``None``."""

    def __init__(self, model: WholeModel, paths: Sequence[str]) -> None:
        self._model = model
        # A run of so many digits may be an integer that the whole model refuses.
        self._digits = b"0" * (sys.get_int_max_str_digits() + 1)
        self._getters: dict[str, Getter] = {}
        heads: dict[str, list[tuple[str, list[str]]]] = {}  # first name -> paths, the names that follow
        for path in paths:
            first, *rest = path.split(".")
            heads.setdefault(first, []).append((path, rest))
        if model.value_type in _FREE_OBJECTS:
            row, keys = _object_of(heads)
            for first, wanted in heads.items():
                self._read(keys[first], wanted)
            self._blank = row()
        else:
            row, blanks = self._row(heads)
            self._blank = row(**dict.fromkeys(row.__struct_fields__) | blanks)
        self._first = msgspec.json.Decoder(row).decode
        self._second = msgspec.json.Decoder(row, float_hook=number).decode

    @classmethod
    def of(cls, model: WholeModel, paths: Sequence[str]) -> ProjectionCodec | None:
        """``None`` for a model that has no fixed fields, or that checks more than their types."""
        kind = model.value_type
        if kind not in _FREE_OBJECTS:
            config = getattr(kind, "__struct_config__", None)
            if (
                config is None
                or config.tag is not None
                or config.array_like
                or hasattr(kind, "__post_init__")
            ):
                return None
        return cls(model, paths)

    def _read(self, attribute: str, wanted: list[tuple[str, list[str]]]) -> None:
        for path, rest in wanted:
            self._getters[path] = _getter(attribute, rest)

    def _row(
        self, heads: dict[str, list[tuple[str, list[str]]]]
    ) -> tuple[type[msgspec.Struct], dict[str, Any]]:
        """The class of one row of a Struct model, and what is not None in a blank one."""
        model = self._model
        types = with_ms(model.value_type) if model.is_event else {}
        blanks: dict[str, Any] = {} if model.time_field is None else {model.time_field: EPOCH}
        names = {info.name for info in msgspec.structs.fields(model.value_type)}
        for info in msgspec.structs.fields(model.value_type):
            wanted = heads.get(info.name, [])
            if _is_free(info) and all(rest for _, rest in wanted):
                inner, keys = _object_of({rest[0] for _, rest in wanted})
                types[info.name] = inner
                blanks[info.name] = inner()
                for path, (second, *rest) in wanted:
                    self._getters[path] = _getter(f"{info.name}.{keys[second]}", rest)
            else:
                self._read(info.name, wanted)
        fields = twin_fields(model.value_type, types)
        for first in [first for first in heads if first not in names]:
            if model.is_event:  # which keeps what it does not know
                attribute = _free_name(names)
                fields.append((attribute, Any, msgspec.field(name=first, default=None)))
                self._read(attribute, heads[first])
            else:
                self._getters.update((path, _nothing) for path, _ in heads[first])
        if model.is_event and "timestamp" in self._getters:
            self._getters["timestamp"] = _event_time
        forbid = model.value_type.__struct_config__.forbid_unknown_fields and not model.is_event
        row = msgspec.defstruct("Projection", fields, gc=False, kw_only=True, forbid_unknown_fields=forbid)
        return row, blanks

    def decode_columns(self, values: Sequence[bytes | None], timestamps_ms: Sequence[int]) -> Columns:
        """The columns of a batch, each as long as it; ``timestamps_ms`` are the records' own."""
        rows: list[Any] = []
        bad: list[Bad] = []
        if self._plain(values):
            rest = iter(values)
            while True:
                try:
                    # HOT PATH. `extend` keeps what came before an exception, and `rest` goes on behind it.
                    rows.extend(map(self._first, rest))  # type: ignore[arg-type]  # plain: no null
                    break
                except Exception:  # noqa: BLE001  # whatever it is, the whole model says what is wrong
                    self._one(values[len(rows)], rows, bad)
        else:
            for value in values:
                self._one(value, rows, bad)
        times = self._times(rows, timestamps_ms, bad)
        return {path: list(map(getter, rows)) for path, getter in self._getters.items()}, times, bad

    def _plain(self, values: Sequence[bytes | None]) -> bool:
        """Is there no null among them, nothing too large, and nothing that skipping would leave out?"""
        try:
            longest = max(map(len, values), default=0)  # type: ignore[arg-type]  # null raises
        except TypeError:
            return False
        if longest > self._model.value_bytes_max or longest >= len(self._digits) > 1:
            return False
        return are_utf8(values)  # type: ignore[arg-type]  # no null is left

    def _one(self, value: bytes | None, rows: list[Any], bad: list[Bad]) -> None:
        """One value with every check. What is refused is shown to the whole model, for its reason."""
        try:
            if value is None or self._is_suspect(value):
                self._model.decode(value)
            rows.append(self._blank if value is None else self._read_row(value))
        except DecodeError as exc:
            bad.append((len(rows), exc))
            rows.append(self._blank)

    def _is_suspect(self, value: bytes) -> bool:
        """Might the whole model refuse what we only skip over?"""
        if len(value) > self._model.value_bytes_max or not are_utf8([value]):
            return True
        return len(value) >= len(self._digits) > 1 and self._digits in value.translate(_DIGITS)

    def _read_row(self, value: bytes) -> Any:
        try:
            return self._second(value)
        except Exception as exc:
            self._model.decode(value)
            raise self._model.error(exc) from exc

    def _times(self, rows: list[Any], timestamps_ms: Sequence[int], bad: list[Bad]) -> list[int]:
        name = self._model.time_field
        if name is None:
            return list(timestamps_ms)
        times, wrong = times_ms_column(
            numbers_as_ms([getattr(row, name) for row in rows], self._model.time_unit), name
        )
        bad.extend(wrong)
        return times


def _is_free(info: msgspec.structs.FieldInfo) -> bool:
    """Is the field an object of free form, of which some keys can stand for the whole?"""
    return info.type in _FREE_OBJECTS and (info.required or info.default_factory is dict)


def _object_of(keys: Iterable[str]) -> tuple[type[msgspec.Struct], dict[str, str]]:
    """A class that takes any object and holds these keys; key -> its attribute."""
    attributes = {key: f"k{number}" for number, key in enumerate(sorted(keys))}
    fields = [
        (attribute, Any, msgspec.field(name=key, default=None)) for key, attribute in attributes.items()
    ]
    return msgspec.defstruct("Object", fields, gc=False), attributes


def _free_name(names: set[str]) -> str:
    name = "x"
    while name in names:
        name += "x"
    names.add(name)
    return name


def _getter(attribute: str, rest: list[str]) -> Getter:
    read: Getter = attrgetter(attribute)
    return (lambda row: walk(read(row), rest)) if rest else read


def _nothing(row: object) -> None:
    return None


class _Stamped(Protocol):
    timestamp: datetime | int | None


def _event_time(row: _Stamped) -> datetime | None:
    """The timestamp as the whole Event has it."""
    stamp = row.timestamp
    try:
        return datetime_of_ms(stamp) if isinstance(stamp, int) else stamp
    except DecodeError:  # `_times` has named it
        return None
