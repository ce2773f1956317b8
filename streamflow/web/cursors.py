"""Where the next page of a list begins: opaque to clients, the same on every worker.

A cursor also says at which position the pages before it were read, so that a page that shows the table as it
was later can say so.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streamflow.query.key_order import KeyOrder
from streamflow.query.row_query import RowQuery
from streamflow.query.rows import Row
from streamflow.query.value_paths import is_value_order
from streamflow.web import encoding
from streamflow.web.problems import Problem

_VERSION: Final = 3


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of the page before, without its value, and what that stood for in a list by value.

    ``position``: source partition -> next offset, as of the pages before; ``None``: not of one.
    """

    row: Row
    value: KeyOrder | None
    position: Mapping[int, int] | None


def after(row: Row, query: RowQuery, position: Mapping[int, int] | None) -> str:
    """Where the page behind ``row`` begins."""
    value = query.value_order(row)
    told = None if position is None else encoding.position_object(position)
    parts = [
        _VERSION, query.fingerprint, row.key, row.start_ms, row.end_ms, row.partition, value, told,
    ]  # fmt: skip
    return base64.urlsafe_b64encode(encoding.encode(parts)).rstrip(b"=").decode()


def read(text: str, query: RowQuery) -> Cursor:
    """Raises Problem 400 for what no list gave, or another one."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        version, seen, key, start_ms, end_ms, partition, value, told = encoding.decode(raw)
        position = None if told is None else encoding.position_from(told)
    except (ValueError, TypeError, AttributeError, binascii.Error):
        raise _no_cursor() from None
    well_formed = (
        version == _VERSION
        and all(bound is None or type(bound) is int for bound in (start_ms, end_ms))
        and type(partition) is int
        and partition >= 0
        and (value is None or is_value_order(value))
    )
    if not well_formed:
        raise _no_cursor()
    if seen != query.fingerprint or (value is None) != (query.by is None):
        detail = "the cursor belongs to another list: keep everything but limit and fields as it was"
        raise Problem(400, "bad-cursor", detail)
    order = None if value is None else (value[0], value[1], value[2])
    return Cursor(Row(key, start_ms, end_ms, None, None, partition), order, position)


def _no_cursor() -> Problem:
    return Problem(400, "bad-cursor", "this is not a cursor that a list gave")
