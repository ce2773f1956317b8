"""Schema evolution: what was written by an older version of an event's class becomes what the class is now.

The version of a value travels in the header `HEADER`. An older value is read as a dict, goes through the
class's own steps (`Event.upgrade`) from version to version, and is decoded then like any other, so that
unknown fields, checks and errors are the same. A newer one is read by field: what the class does not know is
kept, and only a required field that is missing makes it bad input. Confluent's clients have the same idea in
their migration rules; here the steps are functions beside the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from streamflow.codecs.event import Event
from streamflow.codecs.projections import ProjectionCodec
from streamflow.codecs.reasons import number
from streamflow.codecs.values import Column, ValueCodec
from streamflow.errors import DecodeError
from streamflow.transports.base import Batch, Headers

HEADER: Final = "schema-version"
DIGITS_MAX: Final = 9
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=number).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


def with_version(headers: Headers, value: object) -> Headers:
    """The headers of a value that is sent: an Event says the version of its class, unless that is the first.

    What they said before is another event's: of one that was passed on, say.
    """
    version = type(value).schema_version if isinstance(value, Event) else 1
    return headers if version == 1 else (*_without(headers), version_header(version))


def version_header(version: int) -> tuple[str, bytes]:
    return HEADER, b"%d" % version


def _without(headers: Headers) -> Headers:
    return tuple(pair for pair in headers if pair[0] != HEADER)


class VersionedCodec(ValueCodec):
    """The values of an Event class of a later version than 1, whatever version they were written by."""

    value_type: type[Event]

    def decode_batch(self, batch: Batch) -> Column:
        kind = self.value_type
        if not kind.upgrades:
            return super().decode_batch(batch)
        values: list[bytes | None] = list(batch.values)
        bad: dict[int, DecodeError] = {}
        for index, value in enumerate(values):
            if value is None:
                continue
            try:
                values[index] = self.upgraded(value, () if batch.headers is None else batch.headers[index])
            except DecodeError as exc:
                values[index], bad[index] = b"", exc
        events, times, wrong = self.decode_column(values, batch.timestamps_ms)
        return events, times, [(index, bad.get(index, error)) for index, error in wrong]

    def upgraded(self, value: bytes, headers: Headers) -> bytes:
        """The value as the class is now has it. Raises DecodeError."""
        kind = self.value_type
        found = [text for name, text in headers if name == HEADER]
        data: dict[str, Any] | None = None
        if found:
            version = _version(found[-1])
        elif callable(kind.unversioned):
            data = _object(value)
            version = _told(kind, data)
        else:
            version = kind.unversioned
        if version >= kind.schema_version:
            return value
        self.check(value)
        data = _object(value) if data is None else data
        for before in range(version, kind.schema_version):
            step = kind.upgrades.get(before)
            if step is None:
                continue  # nothing to do but what defaults do
            try:
                data = step(data)
            except Exception as exc:  # a user's code may raise anything
                why = f"{type(exc).__name__}: {exc}"
                raise DecodeError(
                    "upgrade-failed", f"{kind.__name__}: the step from version {before} failed: {why}"
                ) from exc
            if not isinstance(data, dict):
                raise DecodeError(
                    "upgrade-failed",
                    f"{kind.__name__}: the step from version {before} gave {type(data).__name__}, not a dict",
                )
        try:
            return _encode(data)
        except (TypeError, ValueError) as exc:
            raise DecodeError(
                "upgrade-failed", f"{kind.__name__}: what the steps gave is no JSON: {exc}"
            ) from exc

    def project(self, paths: Sequence[str]) -> ProjectionCodec | None:
        """Steps take whole values."""
        return None if self.value_type.upgrades else super().project(paths)


def _version(text: bytes | None) -> int:
    shown = (text or b"").decode("latin-1")
    if not shown.isascii() or not shown.isdigit() or len(shown) > DIGITS_MAX or int(shown) < 1:
        message = f"the header {HEADER} is {shown[:20]!r}, not a whole number from 1 up"
        raise DecodeError("bad-version", message, field=f"headers.{HEADER}")
    return int(shown)


def _told(kind: type[Event], data: dict[str, Any]) -> int:
    """The version that the class's own function reads from a value without the header."""
    assert callable(kind.unversioned)
    try:
        version = kind.unversioned(data)
    except Exception as exc:
        raise DecodeError("bad-version", f"{kind.__name__}.unversioned: {type(exc).__name__}: {exc}") from exc
    if type(version) is not int or version < 1:
        raise DecodeError("bad-version", f"{kind.__name__}.unversioned gave {version!r}, no version")
    return version


def _object(value: bytes) -> dict[str, Any]:
    try:
        return _decode(value)
    except msgspec.ValidationError as exc:
        raise DecodeError("wrong-type", str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as exc:
        raise DecodeError("not-json", str(exc)) from exc
