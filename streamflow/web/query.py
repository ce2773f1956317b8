"""Which rows a list asks for, their order, and where its next page begins."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Final

from streamflow.query.key_order import canonical
from streamflow.query.row_query import LIMIT_DEFAULT, SORTS, STATES, WINDOW_SORTS, RowQuery
from streamflow.query.rows import Row
from streamflow.query.table_reader import TableReader
from streamflow.web import encoding
from streamflow.web.problems import Problem

PARAMETERS: Final = (
    "prefix", "start", "end", "state", "sort", "limit", "cursor", "partitions", "min_position",
)  # fmt: skip
KEY_LIST: Final = ("start", "end", "state", "sort", "limit", "cursor")
KEY_PARAMETERS: Final = (*KEY_LIST, "min_position")
_CURSOR_VERSION: Final = 2


def parse(reader: TableReader, parameters: Mapping[str, str], rows_max: int) -> RowQuery:
    """The query of a URL's parameters. Raises Problem 400, naming the parameter."""
    return _parse(reader, parameters, rows_max, SORTS, ())


def parse_of_key(reader: TableReader, key: object, parameters: Mapping[str, str], rows_max: int) -> RowQuery:
    """The same of a list of one key's windows."""
    return _parse(reader, parameters, rows_max, WINDOW_SORTS, ("of", key))


def _parse(
    reader: TableReader,
    parameters: Mapping[str, str],
    rows_max: int,
    sorts: tuple[str, ...],
    of: tuple[object, ...],
) -> RowQuery:
    start_ms, end_ms = (_time(parameters, name) for name in ("start", "end"))
    if reader.window is None and not (start_ms is None and end_ms is None):
        raise bad_parameter("start", f"table {reader.name!r} has no windows, so no start and no end")
    query = RowQuery(
        prefix=parameters.get("prefix"),
        start_ms=start_ms,
        end_ms=end_ms,
        state=_choice(parameters, "state", STATES, "all"),
        sort=_choice(parameters, "sort", sorts, "window"),
        limit=_limit(parameters, rows_max),
        partitions=_partitions(parameters, reader.partitions),
    )
    seen = (reader.name, query.prefix, start_ms, end_ms, query.state, query.sort, *of)
    fingerprint = hashlib.blake2b(canonical(seen), digest_size=6).hexdigest()
    after = None
    if "cursor" in parameters:
        after = query.order(read_cursor(parameters["cursor"], fingerprint))
    return RowQuery(
        query.prefix,
        start_ms,
        end_ms,
        query.state,
        query.sort,
        query.limit,
        after,
        query.partitions,
        fingerprint,
    )


def bad_parameter(name: str, detail: str) -> Problem:
    return Problem(400, "bad-parameter", detail, parameter=name)


def _time(parameters: Mapping[str, str], name: str) -> int | None:
    if name not in parameters:
        return None
    return parse_instant(name, parameters[name])


def parse_instant(name: str, text: str) -> int:
    try:
        return encoding.parse_time(text)
    except (ValueError, OverflowError):
        detail = f"{name}={text!r} is no time: write RFC 3339 with a zone, or epoch milliseconds"
        raise bad_parameter(name, detail) from None


def _choice(parameters: Mapping[str, str], name: str, choices: tuple[str, ...], default: str) -> str:
    chosen = parameters.get(name, default)
    if chosen not in choices:
        raise bad_parameter(name, f"{name}={chosen!r} is not one of {', '.join(choices)}")
    return chosen


def _limit(parameters: Mapping[str, str], rows_max: int) -> int:
    text = parameters.get("limit", str(min(LIMIT_DEFAULT, rows_max)))
    if not (encoding.is_number(text) and 1 <= int(text) <= rows_max):
        raise bad_parameter("limit", f"limit={text!r} is not a number from 1 to {rows_max}")
    return int(text)


def _partitions(parameters: Mapping[str, str], count: int) -> frozenset[int] | None:
    if "partitions" not in parameters:
        return None
    parts = parameters["partitions"].split(",")
    if not all(encoding.is_number(part) and int(part) < count for part in parts):
        detail = f"partitions are numbers below {count}, separated by commas"
        raise bad_parameter("partitions", detail)
    return frozenset(map(int, parts))


def parse_min_position(parameters: Mapping[str, str]) -> dict[int, int]:
    """``0:41,2:7`` as source partition -> offset that must have been reached; empty without one."""
    text = parameters.get("min_position")
    if not text:
        return {}
    wanted: dict[int, int] = {}
    for pair in text.split(","):
        partition, _, offset = pair.partition(":")
        if not all(map(encoding.is_number, (partition, offset))):
            detail = f"min_position={text!r} is not partition:offset pairs, separated by commas"
            raise bad_parameter("min_position", detail)
        wanted[int(partition)] = int(offset)
    return wanted


def cursor_after(row: Row, fingerprint: str) -> str:
    """Where the page behind ``row`` begins: opaque to clients, the same on every worker."""
    parts = [_CURSOR_VERSION, fingerprint, row.key, row.start_ms, row.end_ms, row.partition]
    return base64.urlsafe_b64encode(encoding.encode(parts)).rstrip(b"=").decode()


def read_cursor(text: str, fingerprint: str) -> Row:
    """The last row of the page before, without its value. Raises Problem 400."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        version, seen, key, start_ms, end_ms, partition = encoding.decode(raw)
    except (ValueError, TypeError, binascii.Error):
        raise Problem(400, "bad-cursor", "this is not a cursor that a list gave") from None
    well_formed = (
        version == _CURSOR_VERSION
        and all(bound is None or type(bound) is int for bound in (start_ms, end_ms))
        and type(partition) is int
        and partition >= 0
    )
    if not well_formed:
        raise Problem(400, "bad-cursor", "this is not a cursor that a list gave")
    if seen != fingerprint:
        detail = "the cursor belongs to another list: keep table, prefix, start, end, state and sort"
        raise Problem(400, "bad-cursor", detail)
    return Row(key, start_ms, end_ms, None, None, partition)
