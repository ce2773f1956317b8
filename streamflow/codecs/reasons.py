"""What a decoder's failure means: a reason, a sentence, the field."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from streamflow.errors import DecodeError

Bad = tuple[int, DecodeError]
"""(index in the column, why it can't be read)"""

_PATH = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_CHARACTERS_MAX = 300
_DEEP = DecodeError("not-json", "the value is nested too deeply")


def decode_error(exc: BaseException, *, event: bool = False, time_field: str | None = None) -> DecodeError:
    """The bad input that ``exc`` tells of. Whatever a model's own code raises is of a wrong type.

    ``event``: a missing ``type`` is a reason of its own. ``time_field``: whatever is wrong with it is a
    bad timestamp.
    """
    if isinstance(exc, DecodeError):
        return exc
    if isinstance(exc, RecursionError):
        return DecodeError(_DEEP.reason, _DEEP.message)
    if isinstance(exc, UnicodeDecodeError):
        return DecodeError("not-json", "the value is not UTF-8")
    if not isinstance(exc, msgspec.ValidationError):
        if isinstance(exc, msgspec.DecodeError):
            return DecodeError("not-json", str(exc)[:_CHARACTERS_MAX])
        return DecodeError("wrong-type", f"{type(exc).__name__}: {exc}"[:_CHARACTERS_MAX])
    text = str(exc)
    found = _PATH.search(text)
    path = found.group(1) if found else ""
    message = _PATH.sub("", text)[:_CHARACTERS_MAX]
    missing = _MISSING.search(text)
    if missing:
        field = f"{path}.{missing.group(1)}" if path else missing.group(1)
        reason = "missing-type" if event and field == "type" else "missing-field"
        return DecodeError(reason, message, field=field)
    reason = "bad-timestamp" if time_field and path == time_field else "wrong-type"
    return DecodeError(reason, message, field=path[:_CHARACTERS_MAX] or None)


def check_utf8(raw: bytes) -> None:
    """Raises DecodeError."""
    try:
        str(raw, "utf-8")
    except UnicodeDecodeError as exc:
        raise decode_error(exc) from exc


def are_utf8(values: Sequence[bytes]) -> bool:
    """Is each of them UTF-8? Cheaper than asking one by one."""
    if all(map(bytes.isascii, values)):
        return True
    try:
        str(b"\n".join(values), "utf-8")  # no character spans a line end
    except UnicodeDecodeError:
        return False
    return True


def number(text: str) -> Any:
    """A float of untyped JSON; beyond the range of floats a Decimal, or else the text.

    To refuse such a number would take looking at every number of what a projection skips over.
    """
    value = float(text)
    if math.isfinite(value):
        return value
    try:
        return Decimal(text)
    except InvalidOperation:
        return text
