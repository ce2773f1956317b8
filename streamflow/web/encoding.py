"""Rows, times and positions as JSON, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, cast

import msgspec

from streamflow.clock import epoch_ms, rfc3339
from streamflow.query.rows import Row, State

# msgspec, because it alone keeps integers beyond 64 bits whole both ways.
_encoder = msgspec.json.Encoder(enc_hook=str)
_decoder = msgspec.json.Decoder()


def encode(value: object) -> bytes:
    return _encoder.encode(value)


def decode(raw: bytes | str) -> Any:
    """Raises ValueError for what is not JSON."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc


def time_text(at_ms: int | None) -> str | None:
    """RFC 3339, or ``None`` for no time and for one that no calendar has."""
    if at_ms is None:
        return None
    try:
        return rfc3339(at_ms)
    except (OverflowError, ValueError, OSError):
        return None


def parse_time(text: str) -> int:
    """Epoch milliseconds of RFC 3339 text or of an integer in ms. Raises ValueError."""
    if text.lstrip("-").isdigit() and text.isascii():
        return int(text[:20])
    # In a query string an unescaped "+02:00" arrives as " 02:00".
    return epoch_ms(datetime.fromisoformat(text.replace(" ", "+")))


def row_object(row: Row) -> dict[str, Any]:
    """``{"key", "window": {"start", "end", "state"} | None, "value", "partition"}``."""
    window = None
    if row.start_ms is not None:
        window = {"start": time_text(row.start_ms), "end": time_text(row.end_ms), "state": row.state}
    return {"key": row.key, "window": window, "value": row.value, "partition": row.partition}


def row_from(value: Mapping[str, Any]) -> Row:
    """The row that `row_object` wrote. Raises ValueError for anything else."""
    try:
        window = value["window"]
        start_ms = end_ms = state = None
        if window is not None:
            start_ms, end_ms = parse_time(window["start"]), parse_time(window["end"])
            state = cast(State, window["state"])
        return Row(value["key"], start_ms, end_ms, state, value["value"], int(value["partition"]))
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not a row: {exc!r}") from exc


def is_number(text: str) -> bool:
    """A whole number of ASCII digits, no more of them than an offset has? `str.isdigit` takes ``²`` too."""
    return text.isascii() and text.isdigit() and len(text) <= 20


def position_object(positions: Mapping[int, int]) -> dict[str, str]:
    """Offsets as decimal strings: they may pass 2^53, where JSON numbers lose digits in browsers."""
    return {str(partition): str(offset) for partition, offset in sorted(positions.items())}


def position_from(value: Mapping[str, Any]) -> dict[int, int]:
    return {int(partition): int(offset) for partition, offset in value.items()}


def lag_object(lags: Mapping[int, int | None]) -> dict[str, int | None]:
    return {str(partition): lag for partition, lag in sorted(lags.items())}


def least_positions(parts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """What all of ``parts`` have reached: where several report a source partition, the least."""
    merged: dict[int, int] = {}  # source partition -> next offset to be taken
    for part in parts:
        for partition, offset in part.items():
            merged[partition] = min(offset, merged.get(partition, offset))
    return merged


def greatest_lags(parts: Iterable[Mapping[int, int | None]]) -> dict[int, int | None]:
    """The lag of the part that is furthest behind; unknown if one is unknown."""
    merged: dict[int, int | None] = {}  # source partition -> records, None: unknown
    for part in parts:
        for partition, lag in part.items():
            before = merged.get(partition, lag)
            merged[partition] = None if lag is None or before is None else max(lag, before)
    return merged


def least_watermark(watermarks: Iterable[int | None]) -> int | None:
    known = [watermark for watermark in watermarks if watermark is not None]
    return min(known, default=None)
