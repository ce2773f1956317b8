"""Field paths such as ``data.user``, and event times, as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from streamflow.clock import EPOCH
from streamflow.codecs.reasons import Bad
from streamflow.errors import DecodeError

_MS = timedelta(milliseconds=1)
_YEAR_1_MS = -62_135_596_800_000
_YEAR_10000_MS = 253_402_300_800_000
_BLOCK = 4_096
"""Times that are converted together. Where one can't be, so few are converted one by one with it:"""
_BLOCK_SMALL = 64
_SECONDS_MASK = (1 << 34) - 1
_STAMP_64 = np.dtype([("head", ">u2"), ("stamp", ">u8")])
_STAMP_32 = np.dtype([("head", ">u2"), ("stamp", ">u4")])
_RUN_TIMES = 128
"""Of datetimes with and without a fraction of a second: where runs are shorter, each is converted alone."""
_pack = msgspec.msgpack.Encoder().encode


def step(value: object, name: str) -> Any:
    """One step of a path: a dict's item, a model's field, an Event's unknown field; else ``None``."""
    if isinstance(value, dict):
        return value.get(name)
    kind = type(value)
    if hasattr(kind, "__struct_fields__"):
        if name in kind.__struct_fields__:
            return getattr(value, name)
        kept = getattr(value, "__dict__", None)
        return kept["_extra"].get(name) if kept and "_extra" in kept else None
    if kind in _PLAIN or name.startswith("_"):
        return None
    found = getattr(value, name, None)
    return None if callable(found) else found


_PLAIN = {str, bytes, int, float, bool, list, type(None), datetime}


def field_getter(path: str) -> Callable[[Any], Any]:
    """Reads a dotted path of an event; what is missing anywhere on the way is ``None``."""
    first, *rest = path.split(".")
    if not rest:
        return lambda event: step(event, first)
    if len(rest) == 1:
        second = rest[0]
        return lambda event: step(step(event, first), second)
    return lambda event: walk(step(event, first), rest)


def walk(value: object, names: Sequence[str]) -> Any:
    """`step` by step."""
    for name in names:
        value = step(value, name)
    return value


def time_ms(value: object, field: str | None = None) -> int:
    """Epoch ms, rounded down, of an aware datetime, an integer of epoch ms, or RFC 3339 text.

    Raises DecodeError, with ``field`` in it, for anything else and outside the years 1 to 9999.
    """
    if isinstance(value, str):
        try:
            value = msgspec.convert(value, datetime)
        except msgspec.ValidationError:
            message = f"{str(value)[:80]!r} is no RFC 3339 time"
            raise DecodeError("bad-timestamp", message, field=field) from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise DecodeError("bad-timestamp", f"{value} has no time zone", field=field)
        return (value - EPOCH) // _MS
    if type(value) is int:
        if _YEAR_1_MS <= value < _YEAR_10000_MS:
            return value
        shown = f"{value} ms" if value.bit_length() <= 64 else "a time in ms"
        raise DecodeError("bad-timestamp", f"{shown} lies outside the years 1 to 9999", field=field)
    shown = "null or missing" if value is None else f"{type(value).__name__} {str(value)[:80]!r}"
    message = f"{shown}, neither RFC 3339 text nor integer milliseconds"
    raise DecodeError("bad-timestamp", message, field=field)


def datetime_of_ms(value: int, field: str | None = None) -> datetime:
    """The UTC datetime of epoch ms. Raises DecodeError outside the years 1 to 9999."""
    return EPOCH + time_ms(value, field) * _MS


def times_ms_column(values: Sequence[Any], field: str | None = None) -> tuple[list[int], list[Bad]]:
    """(`time_ms` of each value, what could not be read); a bad one is 0 in the column."""
    times: list[int] = []
    bad: list[Bad] = []
    if _are_texts(values):
        try:
            values = msgspec.convert(values, list[datetime])
        except msgspec.ValidationError:
            pass
    elif _are_good_ints(values):
        return list(values), bad
    for at in range(0, len(values), _BLOCK):
        block = values[at : at + _BLOCK]
        stamps = _stamps(block)
        if stamps is not None:
            times += stamps
        elif len(values) <= _BLOCK_SMALL:
            for index, value in enumerate(values):
                try:
                    times.append(time_ms(value, field))
                except DecodeError as exc:
                    times.append(0)
                    bad.append((index, exc))
        else:
            for small in range(0, len(block), _BLOCK_SMALL):
                more, wrong = times_ms_column(block[small : small + _BLOCK_SMALL], field)
                times += more
                bad += [(at + small + index, error) for index, error in wrong]
    return times, bad


def _are_texts(values: Sequence[Any]) -> bool:
    return len(values) > 0 and type(values[0]) is str and set(map(type, values)) == {str}


def _are_good_ints(values: Sequence[Any]) -> bool:
    if not values or type(values[0]) is not int or set(map(type, values)) != {int}:
        return False
    return bool(min(values) >= _YEAR_1_MS and max(values) < _YEAR_10000_MS)


def _stamps(block: Sequence[Any]) -> list[int] | None:
    """Epoch ms of a block of aware datetimes, or ``None`` where it holds anything else.

    HOT PATH, a fifth of the cost of subtracting datetimes: MessagePack writes an aware datetime of 1970
    to 2514 as its timestamp 64, the bytes D7 FF, 30 bits of nanoseconds and 34 bits of seconds; or, if it
    is a whole second before 2106, as its timestamp 32, D6 FF and 32 bits of seconds. Nothing else begins
    with these bytes, so where each one begins behind the one before, there is nothing else.
    """
    try:
        packed = _pack(block)
    except (TypeError, ValueError, OverflowError):
        return None
    count = len(block)
    at = 1 if count < 16 else 3  # behind the head of the array: its length
    times: list[int] = []
    for _ in range(1 + count // _RUN_TIMES):
        kind = _STAMP_32 if packed[at] == 0xD6 else _STAMP_64
        stamps = np.frombuffer(packed, kind, min(count - len(times), (len(packed) - at) // kind.itemsize), at)
        is_other = stamps["head"] != (0xD6FF if kind is _STAMP_32 else 0xD7FF)
        if is_other.any():
            stamps = stamps[: is_other.argmax()]
            if not len(stamps):
                return None
        whole = stamps["stamp"].astype(np.int64)
        if kind is _STAMP_64:
            whole = (whole & _SECONDS_MASK) * 1_000 + (stamps["stamp"] >> 34).astype(np.int64) // 1_000_000
        else:
            whole *= 1_000
        times += whole.tolist()
        at += len(stamps) * kind.itemsize
        if len(times) == count:
            return times
    return None
