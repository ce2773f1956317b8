"""Columns of a changelog mean what its records mean one by one, and broken ones are refused the same."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.codecs import group_key, group_key_value
from streamflow.state.changelog import ChangelogError, RowCodec
from streamflow.state.stores.base import DELETED
from streamflow.windows import SessionWindow, TumblingWindow

WINDOW = TumblingWindow(10)
CODECS = {
    "plain": RowCodec(None),
    "windowed": RowCodec(WINDOW),
    "sessions": RowCodec(SessionWindow(10)),
    "grouped": RowCodec(WINDOW, key_out=group_key_value, key_in=group_key, value_in=lambda v: ["loaded", v]),
}
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["a,[1,2]", '],["', ",[1.0,2.0]", "[", "]]", "\n", '"'])
)
keys = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
starts = st.sampled_from([0, 10_000, 1_700_000_000_000, -20_000])


def written(name: str, start: int, key: Any, spaced: bool) -> bytes:
    """As we write it, or as stock Faust does, with spaces."""
    if not spaced:
        kept = group_key(key) if name == "grouped" else key
        return CODECS[name].encode_keys(start, [kept])[0]
    if name == "plain":
        return json.dumps(key).encode()
    return json.dumps([key, [start / 1_000, (start + 9_900) / 1_000]]).encode()


def shown(rows: Any) -> Any:
    """Equal only if the types are too: 1, 1.0 and True are equal in Python."""
    return repr({start: list(inner.items()) for start, inner in rows.items()})


@given(
    st.sampled_from(sorted(CODECS)),
    st.lists(st.tuples(starts, keys, st.none() | st.tuples(values), st.sampled_from([False] * 9 + [True]))),
)
def test_columns_mean_what_the_records_mean(
    name: str, records: list[tuple[int, Any, tuple[Any] | None, bool]]
) -> None:
    raw_keys = [written(name, start, key, spaced) for start, key, _, spaced in records]
    raw_values = [None if value is None else orjson.dumps(value[0]) for _, _, value, _ in records]
    fast = CODECS[name].decode_columns(raw_keys, raw_values)
    assert shown(fast) == shown(CODECS[name].decode_rows(raw_keys, raw_values))


@given(
    st.sampled_from(sorted(CODECS)),
    st.lists(st.text('ab,[]{}:"12. \n', max_size=12).map(str.encode) | st.none(), min_size=1, max_size=4),
    st.lists(st.text('ab,[]{}:"12. \n', max_size=12).map(str.encode) | st.none(), min_size=4, max_size=4),
)
def test_what_is_no_record_of_ours_is_refused_the_same_way(
    name: str, raw_keys: list[bytes | None], raw_values: list[bytes | None]
) -> None:
    raw_values = raw_values[: len(raw_keys)]
    codec = CODECS[name]
    try:
        expected: Any = shown(codec.decode_rows(raw_keys, raw_values))
    except ChangelogError as exc:
        expected = (exc.index, str(exc))
    try:
        found: Any = shown(codec.decode_columns(raw_keys, raw_values))
    except ChangelogError as exc:
        found = (exc.index, str(exc))
    assert found == expected


def test_two_broken_records_never_look_like_good_ones() -> None:
    with pytest.raises(ChangelogError) as caught:
        RowCodec(None).decode_columns([b'"a"', b'"b"', b'"c"'], [b"[1", b"2]", b"3,4"])
    assert caught.value.index == 0
    assert "[1" in str(caught.value)


one_kind = (
    st.lists(st.text(max_size=8) | st.sampled_from(["\n", "a\nb", '"', "\ud800", "\u2028"]), max_size=5)
    | st.lists(st.integers(-(2**70), 2**70), max_size=5)
    | st.lists(values | st.just(DELETED), max_size=5)
)


@given(st.sampled_from(["plain", "windowed", "sessions"]), starts, one_kind)
def test_what_is_written_together_is_written_alone_too(name: str, start: int, column: list[Any]) -> None:
    codec = CODECS[name]

    def alone(write: Any, value: Any) -> Any:
        try:
            return write(value)
        except (TypeError, ValueError) as exc:
            return type(exc)

    together = alone(codec.encode_values, column)
    one_by_one = [None if v is DELETED else alone(codec.encode_value, v) for v in column]
    refused = next((each for each in one_by_one if isinstance(each, type)), None)
    assert together == (one_by_one if refused is None else refused)

    row_keys = [v for v in column if v is not DELETED]
    together = alone(lambda all_keys: codec.encode_keys(start, all_keys), row_keys)
    one_by_one = [alone(lambda key: codec.encode_keys(start, [key, None])[0], key) for key in row_keys]
    refused = next((each for each in one_by_one if isinstance(each, type)), None)
    assert together == (one_by_one if refused is None else refused)


@given(
    st.sampled_from(["windowed", "sessions", "counted"]),
    st.dictionaries(
        st.integers(0, 40).map(lambda n: n * 10_000),
        st.dictionaries(
            st.text(max_size=3) | st.integers(0, 9), st.integers() | st.text(max_size=3), min_size=1
        ),
        max_size=20,
    ),
    st.booleans(),
)
def test_rows_of_many_windows_are_written_as_window_by_window(
    name: str, rows: dict[int, dict[Any, Any]], gone: bool
) -> None:
    counted = RowCodec(WINDOW, key_out=lambda key: [key], value_out=lambda value: value)
    codec = {**CODECS, "counted": counted}[name]
    if gone and rows:
        of = next(iter(rows.values()))
        of[next(iter(of))] = DELETED
    want_keys = [key for start, of in rows.items() for key in codec.encode_keys(start, list(of))]
    want = [
        None if value is DELETED else codec.encode_value(value)
        for of in rows.values()
        for value in of.values()
    ]
    assert codec.encode_rows(rows) == (want_keys, want)
