"""Projections accept what whole models accept, decoders agree, and columns equal values one by one."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamflow.clock import EPOCH
from streamflow.codecs import (
    ValueCodec,
    encode_value,
    field_getter,
    group_key,
    group_key_bytes,
    group_key_value,
    time_ms,
    times_ms_column,
)
from streamflow.codecs.event import Event
from streamflow.errors import DecodeError

unhurried = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


class ClickData(msgspec.Struct):
    user: str
    n: int | None = None


class Click(Event):
    data: ClickData  # type: ignore[assignment]  # narrower than a dict: that is what subclassing is for


class Optional(Event):
    tags: dict[str, Any] = msgspec.field(default_factory=dict)
    shop: str = "none"


class Order(msgspec.Struct, rename="camel"):
    order_id: int
    data: dict[str, Any]
    when: datetime | None = None


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    data: dict


PATHS = [
    "type",
    "data.user",
    "data.n",
    "data.user.a",
    "timestamp",
    "shop",
    "shop.a",
    "tags.a",
    "order_id",
    "x",
]
MODELS: list[Any] = [Event, Click, Optional, Order, Strict, dict]

ODD_NUMBERS = "0 -0 1 1.0 1e5 1e400 -1e400 1e-400 1e99999999999999999999 01 1. +1 NaN"
numbers = st.sampled_from([*ODD_NUMBERS.split(), "9" * 30, "9" * 4301, "9" * 400 + ".0"])
texts = st.one_of(
    st.text(max_size=3).map(json.dumps).map(str.encode),
    st.text(max_size=3).map(lambda text: json.dumps(text, ensure_ascii=False).encode(errors="surrogatepass")),
    st.sampled_from([b'"\xff"', b'"\xc3"', b'"\\ud800"', b'"\\x"', b'"a\nb"', b'"', b'"\\u00e4"']),
)
scalars = st.one_of(
    numbers.map(str.encode), texts, st.sampled_from([b"null", b"true", b"false", b"tru", b"", b"[", b"{}"])
)
times = st.sampled_from(
    b'"2026-01-01T00:00:00Z" "2026-01-01T00:00:00.123+02:00" "2026-01-01T00:00:00" 1767225600123 -1 1.5 "x" '
    b'null 9999999999999999 "0001-01-01T00:00:00Z" 253402300800000'.split()
)
names = st.sampled_from(
    b'"id" "type" "timestamp" "data" "user" "n" "a" "shop" "tags" "orderId" "x" "\xff" "\\u0061" 1'.split()
)


def objects(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    members = st.lists(st.builds(lambda name, value: name + b":" + value, names, values), max_size=4)
    return members.map(lambda parts: b"{" + b",".join(parts) + b"}")


json_bytes = st.recursive(
    scalars,
    lambda inner: st.one_of(
        objects(inner), st.lists(inner, max_size=3).map(lambda parts: b"[" + b",".join(parts) + b"]")
    ),
    max_leaves=6,
)
data_bytes = st.one_of(
    st.just(b'{"user":"ann","n":1}'), objects(json_bytes), json_bytes, st.just(b'{"user":"\xc3\xa4"}')
)


@st.composite
def values(draw: st.DrawFn) -> bytes | None:
    """Mostly events with one or two things odd about them."""
    fields = {
        b'"id"': b'"1"',
        b'"type"': b'"click"',
        b'"timestamp"': draw(times),
        b'"data"': draw(data_bytes),
    }
    fields[b'"orderId"'] = b"1"
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)):
        fields[name] = draw(json_bytes)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)):
        fields.pop(name, None)
    members = [name + b":" + value for name, value in fields.items()]
    members += draw(
        st.lists(st.builds(lambda name, value: name + b":" + value, names, json_bytes), max_size=2)
    )
    whole = b"{" + b",".join(draw(st.permutations(members))) + b"}"
    return draw(st.sampled_from([whole, whole, whole, whole, whole + b"]", None, whole[:-1], b" " + whole]))


columns = st.lists(values(), max_size=6)


def comparable(value: Any) -> Any:
    """NaN-proof and type-proof: 1, 1.0 and True differ."""
    return repr(value)


def outcome(codec: ValueCodec, value: bytes | None) -> tuple[Any, DecodeError | None]:
    try:
        return codec.decode(value), None
    except DecodeError as exc:
        return None, exc


@unhurried
@given(st.sampled_from(MODELS), columns, st.lists(st.sampled_from(PATHS), unique=True))
@example(Event, [b'{"id":"1","type":"t","timestamp":0,"data":{"n":' + b"9" * 4301 + b"}}"], ["type"])
@example(Event, [b'{"id":"1","type":"t","timestamp":0,"data":{"user":"\xff"}}'], ["type"])
@example(Event, [b'{"id":"1","type":"t","timestamp":0,"data":{"n":1e400,"user":1e400}}'], ["data.user"])
def test_a_projection_accepts_and_reads_what_the_whole_model_does(model, column, paths):
    codec = ValueCodec(model)
    projection = codec.project(paths)
    assert projection is not None
    stamps = list(range(len(column)))
    events, times_ms, bad = codec.decode_column(column, stamps)
    read, read_times_ms, read_bad = projection.decode_columns(column, stamps)
    assert {index: str(error) for index, error in read_bad} == {index: str(error) for index, error in bad}
    assert set(read) == set(paths)
    refused = {index for index, _ in bad}
    for path, values_read in read.items():
        getter = field_getter(path)
        assert len(values_read) == len(column)
        for index, event in enumerate(events):
            if index not in refused:
                assert comparable(values_read[index]) == comparable(getter(event)), (path, column[index])
    assert len(read_times_ms) == len(times_ms) == len(column)
    assert [t for i, t in enumerate(read_times_ms) if i not in refused] == [
        t for i, t in enumerate(times_ms) if i not in refused
    ]


@unhurried
@given(st.sampled_from([*MODELS, None, str, bytes, int]), st.lists(columns, min_size=1, max_size=3))
def test_a_column_is_its_values_one_by_one_whatever_came_before(model, batches):
    codec = ValueCodec(model)
    for column in batches:
        events, times_ms, bad = codec.decode_column(column, [0] * len(column))
        errors = dict(bad)
        for index, value in enumerate(column):
            fresh = ValueCodec(model)
            expected, error = outcome(fresh, value)
            assert str(errors.get(index)) == str(error)
            if error is not None:
                assert error.reason in DecodeError.REASONS
                continue
            assert comparable(events[index]) == comparable(expected)
            if fresh.time_field is not None:
                assert times_ms[index] == time_ms(getattr(expected, fresh.time_field))
            if isinstance(expected, Event):
                assert encode_value(events[index]) == encode_value(expected)


@unhurried
@given(columns)
def test_events_are_written_back_as_they_came(column):
    events, _, bad = ValueCodec(Event).decode_column(column, [0] * len(column))
    refused = {index for index, _ in bad}
    for index, value in enumerate(column):
        if index in refused or value is None:
            continue
        written = encode_value(events[index])
        came, went = (json.loads(raw, parse_float=str) for raw in (value, written))
        assert set(came) == set(went)
        assert type(came["timestamp"]) is type(went["timestamp"])
        assert ValueCodec(Event).decode(written) == events[index]


zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.one_of(
    st.datetimes(timezones=st.just(UTC)),
    st.datetimes(timezones=zones),
    st.integers(-(10**10), 10**10).map(lambda seconds: EPOCH + timedelta(seconds=seconds)),
    st.integers(0, 2 * 10**12).map(lambda ms: EPOCH + timedelta(milliseconds=ms)),
    st.sampled_from([EPOCH, EPOCH - timedelta(microseconds=1), datetime(2106, 2, 7, 6, 28, 16, tzinfo=UTC)]),
    st.sampled_from([datetime(2514, 5, 30, 1, 53, 4, 5, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)]),
)


@unhurried
@given(st.lists(moments, max_size=200))
def test_a_column_of_datetimes_is_read_exactly_and_rounded_down(column):
    expected = [math.floor((moment - EPOCH) / timedelta(microseconds=1) / 1) // 1_000 for moment in column]
    exact = [(moment - EPOCH) // timedelta(milliseconds=1) for moment in column]
    assert times_ms_column(column) == (exact, [])
    assert all(abs(a - b) <= 1 for a, b in zip(expected, exact, strict=True))


@unhurried
@given(st.integers(1, 200), st.sampled_from([1, 1_000, 60_000]), st.integers(0, 2**33 * 1_000))
def test_a_column_of_one_resolution_is_read_exactly(count, resolution_ms, start_ms):
    times_ms = [start_ms // resolution_ms * resolution_ms + n * resolution_ms for n in range(count)]
    assert times_ms_column([EPOCH + timedelta(milliseconds=t) for t in times_ms]) == (times_ms, [])
    assert times_ms_column(times_ms) == (times_ms, [])


@unhurried
@given(
    st.lists(
        st.one_of(moments, st.integers(), st.none(), st.text(max_size=3), st.binary(max_size=9)), max_size=80
    )
)
def test_a_column_of_anything_is_its_values_one_by_one(column):
    times_ms, bad = times_ms_column(column, "at")
    refused = dict(bad)
    for index, value in enumerate(column):
        if index in refused:
            with pytest.raises(DecodeError):
                time_ms(value)
        else:
            assert times_ms[index] == time_ms(value)


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=5,
)


@unhurried
@given(json_values, json_values)
def test_groups_are_equal_iff_their_json_is(one, other):
    same = comparable(json.dumps(one, sort_keys=True)) == comparable(json.dumps(other, sort_keys=True))
    assert (group_key(one) == group_key(other)) == same
    assert (group_key_bytes(group_key(one)) == group_key_bytes(group_key(other))) == same
    assert group_key(group_key_value(group_key(one))) == group_key(one)
    assert json.loads(group_key_bytes(group_key(one))) == one
