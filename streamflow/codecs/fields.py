"""Field paths such as ``data.user``, and event times, as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from streamflow.clock import EPOCH
from streamflow.errors import DecodeError

_MS = timedelta(milliseconds=1)
_DATETIME_ONLY = {datetime}
_INT_ONLY = {int}
_to_datetime = msgspec.json.Decoder(datetime).decode


def step(value: Any, name: str) -> Any:
    """One step of a path: a dict's item or an object's attribute; what is missing is ``None``."""
    if isinstance(value, dict):
        return value.get(name)
    return getattr(value, name, None)


def field_getter(path: str) -> Callable[[Any], Any]:
    """Reads a dotted path of an event; what is missing anywhere on the way is ``None``."""
    first, *rest = path.split(".")
    if not rest:
        return lambda event: step(event, first)
    if len(rest) == 1:
        second = rest[0]
        return lambda event: step(step(event, first), second)

    def walk(event: Any) -> Any:
        for name in (first, *rest):
            event = step(event, name)
        return event

    return walk


def time_ms(value: Any) -> int:
    """Epoch ms of an aware datetime, an integer of epoch ms, or RFC 3339 text. Raises DecodeError."""
    if isinstance(value, str):
        try:
            value = _to_datetime(msgspec.json.encode(value))
        except (msgspec.MsgspecError, UnicodeEncodeError) as exc:
            raise DecodeError("bad-timestamp", f"{value[:80]!r} is no RFC 3339 time") from exc
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise DecodeError("bad-timestamp", f"{value} has no time zone")
        return (value - EPOCH) // _MS
    if type(value) is int:
        return value
    raise DecodeError("bad-timestamp", f"{str(value)[:80]!r} is no event time")


def times_ms_column(
    values: Sequence[Any], field: str | None = None
) -> tuple[list[int], list[tuple[int, DecodeError]]]:
    """(epoch ms of each, what could not be read by index); a bad one is 0 in the column."""
    kinds = set(map(type, values))
    if kinds == _DATETIME_ONLY:
        try:
            return [(value - EPOCH) // _MS for value in values], []
        except TypeError:  # a naive one among them
            pass
    elif kinds == _INT_ONLY:
        return list(values), []
    times: list[int] = []
    bad: list[tuple[int, DecodeError]] = []
    for index, value in enumerate(values):
        try:
            times.append(time_ms(value))
        except DecodeError as exc:
            times.append(0)
            bad.append((index, DecodeError(exc.reason, exc.message, field=field)))
    return times, bad


def datetime_of_ms(value: int) -> datetime:
    """The UTC datetime of epoch ms. Raises DecodeError outside the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(0, UTC) + value * _MS
    except OverflowError as exc:
        raise DecodeError("bad-timestamp", f"{value} ms lies outside the years 1 to 9999") from exc
