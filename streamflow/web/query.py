"""Which rows a list asks for, their order, and where its next page begins."""

from __future__ import annotations

import base64
import binascii
import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from streamflow.query.rows import Row, TableReader
from streamflow.web import encoding
from streamflow.web.problems import Problem
from streamflow.web.served import WindowIndex

LIMIT_DEFAULT: Final = 100
SORTS: Final = ("window", "-window", "key", "-key")
STATES: Final = ("open", "closed", "all")
PARAMETERS: Final = (
    "prefix", "start", "end", "state", "sort", "limit", "cursor", "partitions", "min_position",
)  # fmt: skip
_CURSOR_VERSION: Final = 2

Order = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class RowQuery:
    """What one list asks for. ``after`` is the order of the last row of the page before.

    ``start_ms`` and ``end_ms`` bound the windows' starts: at or after, and before. ``partitions``
    ``None``: all of the table.
    """

    prefix: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    state: str = "all"
    sort: str = "window"
    limit: int | None = LIMIT_DEFAULT  # None: all of them
    after: Order | None = None
    partitions: frozenset[int] | None = None
    fingerprint: str = ""

    @property
    def descending(self) -> bool:
        return self.sort.startswith("-")

    def order(self, row: Row) -> Order:
        """Total over all rows of a table: no two have the same."""
        key = key_order(row.key)
        if self.sort.endswith("window"):
            return (row.start_ms or 0, *key, row.partition, row.end_ms or 0)
        return (*key, row.start_ms or 0, row.partition, row.end_ms or 0)

    def wants(self, row: Row) -> bool:
        if not state_matches(self.state, row):
            return False
        if row.start_ms is not None and not self.wants_window(row.start_ms):
            return False
        if self.prefix is not None and not key_text(row.key).startswith(self.prefix):
            return False
        if self.after is None:
            return True
        order = self.order(row)
        return order < self.after if self.descending else order > self.after

    def wants_window(self, start_ms: int) -> bool:
        if self.start_ms is not None and start_ms < self.start_ms:
            return False
        return self.end_ms is None or start_ms < self.end_ms

    def best(self, rows: Iterable[Row], count: int | None) -> list[Row]:
        """The first ``count`` of ``rows`` in this query's order; ``None``: all of them."""
        if count is None:
            return sorted(rows, key=self.order, reverse=self.descending)
        pick: Callable[..., list[Row]] = heapq.nlargest if self.descending else heapq.nsmallest
        return pick(count, rows, key=self.order)


def state_matches(state: str, row: Row) -> bool:
    """``open`` takes rows without a window too: they never close. ``closed`` takes revised ones."""
    if state == "all":
        return True
    is_open = row.state is None or row.state == "open"
    return is_open == (state == "open")


def key_text(key: object) -> str:
    return key if isinstance(key, str) else encoding.canonical(key).decode()


def key_order(key: object) -> tuple[int, Any, str]:
    """Keys of one type in their own order, types in a fixed one; 1 and 1.0 differ."""
    if key is None:
        return (0, 0, "")
    if isinstance(key, bool):
        return (1, int(key), "")
    if isinstance(key, int | float):
        return (2, key, repr(key))
    if isinstance(key, str):
        return (3, key, "")
    return (4, key_text(key), "")


def parse(reader: TableReader, parameters: Mapping[str, str], rows_max: int) -> RowQuery:
    """The query of a URL's parameters. Raises Problem 400, naming the parameter."""
    start_ms, end_ms = (_time(parameters, name) for name in ("start", "end"))
    if reader.window is None and not (start_ms is None and end_ms is None):
        raise bad_parameter("start", f"table {reader.name!r} has no windows, so no start and no end")
    query = RowQuery(
        prefix=parameters.get("prefix"),
        start_ms=start_ms,
        end_ms=end_ms,
        state=_choice(parameters, "state", STATES, "all"),
        sort=_choice(parameters, "sort", SORTS, "window"),
        limit=_limit(parameters, rows_max),
        partitions=_partitions(parameters, reader.partitions),
    )
    seen = (reader.name, query.prefix, start_ms, end_ms, query.state, query.sort)
    fingerprint = hashlib.blake2b(encoding.canonical(seen), digest_size=6).hexdigest()
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


def partition_rows(reader: TableReader, partition: int, query: RowQuery) -> list[Row]:
    """The first ``limit + 1`` rows of one owned partition (one more tells whether there is a next page).

    In one synchronous step, so that they are of one checkpoint.
    """
    count = None if query.limit is None else query.limit + 1
    if isinstance(reader, WindowIndex) and reader.window is not None:
        if query.sort.endswith("window") and count is not None:
            return _first_windows(reader, partition, query, count)
        rows: Iterable[Row] = _window_rows(reader, partition, query)
    else:
        rows = reader.rows(partition)
    return query.best((row for row in rows if query.wants(row)), count)


def _first_windows(reader: WindowIndex, partition: int, query: RowQuery, count: int) -> list[Row]:
    """Reads windows in order and stops when there are enough rows, however many windows are kept."""
    found: list[Row] = []
    starts = reader.window_starts(partition)
    if query.descending:
        starts = starts[::-1]
    for start_ms in starts:
        if len(found) >= count:
            break
        if query.wants_window(start_ms) and not _passed(query, start_ms):
            rows = (row for row in reader.window_rows(partition, start_ms) if query.wants(row))
            found.extend(query.best(rows, count - len(found)))
    return found


def _passed(query: RowQuery, start_ms: int) -> bool:
    """Whether the pages before held this whole window."""
    if query.after is None:
        return False
    last: int = query.after[0]
    return start_ms > last if query.descending else start_ms < last


def _window_rows(reader: WindowIndex, partition: int, query: RowQuery) -> Iterator[Row]:
    for start_ms in reader.window_starts(partition):
        if query.wants_window(start_ms):
            yield from reader.window_rows(partition, start_ms)
