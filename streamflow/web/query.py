"""Which rows a list asks for, as the parameters of a URL say it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from multidict import MultiMapping

from streamflow.errors import DecodeError
from streamflow.query.key_order import KeyOrder, canonical, key_order
from streamflow.query.row_query import (
    LIMIT_DEFAULT,
    SORTS,
    STATES,
    WINDOW_SORTS,
    KeyPattern,
    RowQuery,
)
from streamflow.query.table_reader import TableReader
from streamflow.query.value_paths import ValuePath, ValueTest
from streamflow.web import cursors, encoding
from streamflow.web.problems import Problem
from streamflow.web.rights import KeyLimits

Parameters = MultiMapping[str]

WINDOW_LIST: Final = (
    "start", "end", "at", "state", "where", "sort", "limit", "cursor", "fields", "count", "stale",
    "min_position",
)  # fmt: skip
"""Of lists of one key's windows"""
PARAMETERS: Final = ("prefix", "key_from", "key_to", "keys", "within", "partitions", *WINDOW_LIST)
SEVERAL: Final = frozenset({"keys", "where", "within"})
"""These may be given more than once."""
KEYS_MAX: Final = 1_000
WITHIN: Final = {"key": False, "prefix": True}


@dataclass(frozen=True, slots=True)
class Asked:
    """``rows`` are wanted, behind ``cursor``, with these ``fields`` of their values (``None``: as it is).

    ``counts``: only how many there are. ``stale``: where an owner can't be asked, as a standby has them.
    """

    rows: RowQuery
    parameters: Parameters
    cursor: cursors.Cursor | None = None
    fields: tuple[ValuePath, ...] | None = None
    counts: bool = False
    stale: bool = False

    @property
    def scans(self) -> bool:
        """May it take long, because many rows have to be looked at?"""
        return self.counts or bool(self.rows.tests) or self.rows.by is not None or self.rows.keys is not None

    def streamed(self) -> Asked:
        """Every row, unless a limit was given. Raises Problem 400 where all would have to be sorted."""
        if "limit" in self.parameters:
            return self
        if self.rows.by is not None:
            raise bad_parameter("limit", f"sort={self.parameters['sort']!r} of a stream needs a limit")
        return replace(self, rows=replace(self.rows, limit=None))


def parse(reader: TableReader, parameters: Parameters, rows_max: int, limits: KeyLimits) -> Asked:
    """The query of a URL's parameters, of what these limits leave.

    Raises Problem 400, naming the parameter.
    """
    found = RowQuery(
        prefix=parameters.get("prefix"),
        partitions=_partitions(parameters, reader.partitions),
        key_from=_key_bound(reader, parameters, "key_from"),
        key_to=_key_bound(reader, parameters, "key_to"),
        keys=_keys(reader, parameters),
        within=_within(parameters),
        limits=None
        if limits.patterns is None
        else frozenset(KeyPattern(each.text, each.is_prefix) for each in limits.patterns),
    )
    return _parse(reader, parameters, rows_max, SORTS, found, ())


def parse_of_key(reader: TableReader, key: object, parameters: Parameters, rows_max: int) -> Asked:
    """The same of a list of one key's windows."""
    return _parse(reader, parameters, rows_max, WINDOW_SORTS, RowQuery(), ("of", key))


def _parse(
    reader: TableReader,
    parameters: Parameters,
    rows_max: int,
    sorts: tuple[str, ...],
    found: RowQuery,
    of: tuple[object, ...],
) -> Asked:
    start_ms, end_ms, at_ms = (_time(reader, parameters, name) for name in ("start", "end", "at"))
    sort, by = _sort(reader, parameters, sorts)
    counts = _choice(parameters, "count", ("only",), "") == "only"
    for name in ("cursor", "fields", "sort", "limit") if counts else ():
        if name in parameters:
            raise bad_parameter(name, f"count=only answers a number: there is no {name} of it")
    query = replace(
        found,
        start_ms=start_ms,
        end_ms=end_ms,
        at_ms=at_ms,
        state=_choice(parameters, "state", STATES, "all"),
        sort=sort,
        by=by,
        tests=tuple(_test(reader, text) for text in parameters.getall("where", [])),
        limit=_limit(parameters, rows_max),
    )
    query = replace(query, fingerprint=_fingerprint(reader.name, query, of))
    cursor = None
    if "cursor" in parameters:
        cursor = cursors.read(parameters["cursor"], query)
        query = replace(query, after=query.order_with(cursor.row, cursor.value))
    return Asked(
        query,
        parameters,
        cursor,
        _fields(reader, parameters),
        counts,
        _choice(parameters, "stale", ("ok",), "") == "ok",
    )


def _fingerprint(table: str, query: RowQuery, of: tuple[object, ...]) -> str:
    """Tells the cursors of different lists apart."""
    seen: list[object] = [table, query.prefix, query.start_ms, query.end_ms, query.state, query.sort, *of]
    seen += [query.at_ms, query.key_from, query.key_to, None if query.by is None else query.by.text]
    seen += [sorted(query.keys or ()), sorted(query.within or ()), [test.text for test in query.tests]]
    return hashlib.blake2b(canonical(seen), digest_size=6).hexdigest()


def bad_parameter(name: str, detail: str) -> Problem:
    return Problem(400, "bad-parameter", detail, parameter=name)


def _time(reader: TableReader, parameters: Parameters, name: str) -> int | None:
    if name not in parameters:
        return None
    if reader.window is None:
        raise bad_parameter(name, f"table {reader.name!r} has no windows, so no {name}")
    return parse_instant(name, parameters[name])


def parse_instant(name: str, text: str) -> int:
    try:
        return encoding.parse_time(text)
    except (ValueError, OverflowError):
        detail = f"{name}={text!r} is no time: write RFC 3339 with a zone, or epoch milliseconds"
        raise bad_parameter(name, detail) from None


def _choice(parameters: Parameters, name: str, choices: tuple[str, ...], default: str) -> str:
    if name not in parameters:
        return default
    chosen = parameters[name]
    if chosen not in choices:
        raise bad_parameter(name, f"{name}={chosen!r} is not one of {', '.join(choices)}")
    return chosen


def _limit(parameters: Parameters, rows_max: int) -> int:
    text = parameters.get("limit", str(min(LIMIT_DEFAULT, rows_max)))
    if not (encoding.is_number(text) and 1 <= int(text) <= rows_max):
        raise bad_parameter("limit", f"limit={text!r} is not a number from 1 to {rows_max}")
    return int(text)


def _partitions(parameters: Parameters, count: int) -> frozenset[int] | None:
    if "partitions" not in parameters:
        return None
    parts = parameters["partitions"].split(",")
    if not all(encoding.is_number(part) and int(part) < count for part in parts):
        detail = f"partitions are numbers below {count}, separated by commas"
        raise bad_parameter("partitions", detail)
    return frozenset(map(int, parts))


# -- keys ------------------------------------------------------------------------------------------


def _key(reader: TableReader, name: str, text: str) -> Any:
    if not reader.keyed:
        raise bad_parameter(name, f"the rows of table {reader.name!r} have no key: find them by their window")
    try:
        return reader.parse_key(text)
    except DecodeError as exc:
        raise bad_parameter(
            name, f"{name}={text!r} is no key of table {reader.name!r}: {exc.message}"
        ) from None


def _key_bound(reader: TableReader, parameters: Parameters, name: str) -> KeyOrder | None:
    return key_order(_key(reader, name, parameters[name])) if name in parameters else None


def _keys(reader: TableReader, parameters: Parameters) -> dict[bytes, Any] | None:
    if "keys" not in parameters:
        return None
    texts = parameters.getall("keys")
    if len(texts) > KEYS_MAX:
        raise bad_parameter("keys", f"{len(texts)} keys are more than {KEYS_MAX}")
    keys = [_key(reader, "keys", text) for text in texts]
    return {canonical(key): key for key in keys}


def _within(parameters: Parameters) -> frozenset[KeyPattern] | None:
    if "within" not in parameters:
        return None
    patterns: list[KeyPattern] = []
    for text in parameters.getall("within"):
        kind, _, rest = text.partition(":")
        if kind not in WITHIN:
            detail = f"within={text!r} is neither key:<text of a key> nor prefix:<what it begins with>"
            raise bad_parameter("within", detail)
        patterns.append(KeyPattern(rest, WITHIN[kind]))
    return frozenset(patterns)


# -- values ----------------------------------------------------------------------------------------


def _sort(
    reader: TableReader, parameters: Parameters, sorts: tuple[str, ...]
) -> tuple[str, ValuePath | None]:
    """How rows are sorted, and by what of their values, if by that."""
    text = parameters.get("sort", "window")
    if text in sorts:
        return text, None
    allowed = f"{', '.join(sorts)}, value, or the name of a counter (with - before it: the other way round)"
    if text.lstrip("-") in ("key", "window"):
        raise bad_parameter("sort", f"sort={text!r} is not one of {allowed}")
    path = _path(reader, "sort", text, text.removeprefix("-"), allowed)
    if not path.rest and reader.value_names:
        names = ", ".join(reader.value_names)
        raise bad_parameter("sort", f"sort={text!r}: rows of table {reader.name!r} have several: {names}")
    return "-value" if text.startswith("-") else "value", path


def _path(reader: TableReader, name: str, text: str, path: str, allowed: str) -> ValuePath:
    try:
        found = ValuePath.of(path)
    except ValueError as exc:
        raise bad_parameter(name, f"{name}={text!r} is not one of {allowed}: {exc}") from None
    _check_path(reader, name, text, found)
    return found


def _check_path(reader: TableReader, name: str, text: str, path: ValuePath) -> None:
    """Where it is declared what values there are, a name that is none of them is a slip."""
    names = reader.value_names
    if (
        names
        and path.rest
        and not any(path.rest == each or path.rest.startswith(f"{each}.") for each in names)
    ):
        detail = (
            f"{name}={text!r}: table {reader.name!r} has no value {path.rest!r}; it has {', '.join(names)}"
        )
        raise bad_parameter(name, detail)


def _test(reader: TableReader, text: str) -> ValueTest:
    try:
        test = ValueTest.of(text)
    except ValueError as exc:
        allowed = "`total >= 10`, `status in ['a', 'b']`, `value != null` and the like"
        raise bad_parameter("where", f"{exc} ({allowed})") from None
    _check_path(reader, "where", text, test.path)
    return test


def _fields(reader: TableReader, parameters: Parameters) -> tuple[ValuePath, ...] | None:
    if "fields" not in parameters:
        return None
    text = parameters["fields"]
    allowed = "the names of members of the value, separated by commas"
    paths = [_path(reader, "fields", text, each.strip(), allowed) for each in text.split(",")]
    return tuple(dict.fromkeys(paths))


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
