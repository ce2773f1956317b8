"""Keys and values as bytes: what they mean, what is bad input and why, and that nothing crashes."""

from __future__ import annotations

import copy
import json
import pickle
import time
import tracemalloc
import types
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from streamflow.codecs import (
    KeyCodec,
    ValueCodec,
    canonical_json,
    encode_value,
    field_getter,
    group_key,
    group_key_bytes,
    group_key_column,
    group_key_text,
    group_key_value,
    json_bytes,
    times_ms_column,
)
from streamflow.codecs.event import Event
from streamflow.errors import ConfigurationError, DecodeError
from streamflow.state.changelog import RowCodec

USUAL = b'{"id":"1","type":"click","timestamp":"2026-01-01T00:00:00.123Z","data":{"user":"ann","n":7}}'
IN_MS = b'{"id":"1","type":"click","timestamp":1767225600123,"data":{"user":"ann","n":7}}'
EXTRA = USUAL[:-1] + b',"shop":{"id":[1,2.5,null]},"trace":"x"}'
TIME_MS = 1767225600123


class ClickData(msgspec.Struct):
    user: str
    n: int = 0


class Click(Event, version=3):
    data: ClickData  # type: ignore[assignment]  # narrower than a dict: that is what subclassing is for


class Order(msgspec.Struct, rename="camel"):
    order_id: int
    when: datetime | None = None


class Record:
    """What a Faust Record looks like from here."""

    def __init__(self, user: str, n: int = 0) -> None:
        self.user, self.n = user, n

    @classmethod
    def from_data(cls, data: dict) -> Record:
        return cls(**data)

    def asdict(self) -> dict:
        return {"user": self.user, "n": self.n}

    def to_representation(self) -> dict:
        return self.asdict()


def decode(value_type: Any, *values: bytes | None) -> tuple[list, list[int], dict[int, DecodeError]]:
    events, times, bad = ValueCodec(value_type).decode_column(values, [5] * len(values))
    assert len(events) == len(times) == len(values)
    assert len({index for index, _ in bad}) == len(bad)
    return events, times, dict(bad)


def reason(value_type: Any, value: bytes | None) -> tuple[str, str | None]:
    """(reason, field) of a value that must be bad, good ones around it staying good."""
    codec = ValueCodec(value_type)
    _, _, alone = codec.decode_column([value], [5])
    good = USUAL if codec.is_event else b'{"orderId":1}'
    events, _, bad = codec.decode_column([good, value, good, value], [5] * 4)
    assert [index for index, _ in bad] == [1, 3]
    assert events[1] is None
    assert events[0] == events[2] is not None
    with pytest.raises(DecodeError) as caught:
        codec.decode(value)
    assert str(caught.value) == str(alone[0][1]) == str(bad[0][1]) == str(bad[1][1])
    assert len(str(caught.value)) < 1_000
    assert caught.value.reason in DecodeError.REASONS
    return caught.value.reason, caught.value.field


def test_the_usual_event_is_read():
    [event], [time_ms], bad = decode(Event, USUAL)
    assert not bad
    assert time_ms == event.timestamp_ms == TIME_MS
    assert (event.id, event.type, event.data) == ("1", "click", {"user": "ann", "n": 7})
    assert event.timestamp == datetime(2026, 1, 1, microsecond=123_000, tzinfo=UTC)


def test_integer_timestamps_and_unknown_fields_are_read_and_written_back():
    events, times, bad = decode(Event, IN_MS, USUAL, EXTRA, IN_MS)
    assert not bad
    assert times == [TIME_MS] * 4
    assert len({event.timestamp for event in events}) == 1
    for raw, event in zip([IN_MS, USUAL, EXTRA], events, strict=False):
        assert json.loads(encode_value(event)) == json.loads(raw.replace(b".123Z", b".123000Z"))
    events[0].timestamp += timedelta(seconds=1)
    assert json.loads(encode_value(events[0]))["timestamp"] == TIME_MS + 1_000


def test_unknown_fields_survive_copies():
    raw = IN_MS[:-1] + b',"x":{"y":1}}'
    [event], _, _ = decode(Click, raw)
    for twin in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
        assert twin == event
        assert json.loads(encode_value(twin)) == json.loads(raw)
    twin.__dict__["_extra"]["x"]["y"] = 2
    assert json.loads(encode_value(event)) == json.loads(raw)


def test_a_subclass_types_its_data_and_has_a_version():
    [event, other], _, bad = decode(Click, USUAL, IN_MS)
    assert not bad
    assert event.data == other.data == ClickData("ann", 7)
    assert json.loads(encode_value(other)) == json.loads(IN_MS)
    assert (Event.schema_version, Click.schema_version) == (1, 3)
    with pytest.raises(ConfigurationError, match="version"):
        types.new_class("Odd", (Event,), {"version": 0})


def test_a_topic_of_the_other_form_changes_the_decoder_and_no_meaning():
    codec = ValueCodec(Event)
    for column in (
        [IN_MS] * 4,
        [IN_MS] * 4,
        [USUAL, IN_MS, EXTRA, b"x"],
        [EXTRA] * 4,
        [EXTRA, USUAL],
        [USUAL],
    ):
        events, times, bad = codec.decode_column(column, [0] * len(column))
        assert [index for index, _ in bad] == [i for i, raw in enumerate(column) if raw == b"x"]
        for raw, event, time_ms in zip(column, events, times, strict=True):
            if raw != b"x":
                assert time_ms == TIME_MS
                assert json.loads(encode_value(event)) == json.loads(raw.replace(b".123Z", b".123000Z"))


@pytest.mark.parametrize(
    "value, expected",
    [
        (b"no JSON", ("not-json", None)),
        (b"", ("not-json", None)),
        (USUAL + b"x", ("not-json", None)),
        (USUAL[:-1], ("not-json", None)),
        (b"[1, 2]", ("wrong-type", None)),
        (b'"text"', ("wrong-type", None)),
        (b"null", ("wrong-type", None)),
        (b"{}", ("missing-field", "id")),
        (USUAL.replace(b'"type":"click",', b""), ("missing-type", "type")),
        (USUAL.replace(b'"data":{"user":"ann","n":7}', b'"d":1'), ("missing-field", "data")),
        (USUAL.replace(b'"1"', b"1"), ("wrong-type", "id")),
        (USUAL.replace(b'"click"', b"null"), ("wrong-type", "type")),
        (USUAL.replace(b'{"user":"ann","n":7}', b"[]"), ("wrong-type", "data")),
        (USUAL.replace(b"123Z", b"123"), ("bad-timestamp", "timestamp")),
        (USUAL.replace(b"2026-01", b"2026-13"), ("bad-timestamp", "timestamp")),
        (USUAL.replace(b"2026-01", b"0000-01"), ("bad-timestamp", "timestamp")),
        (IN_MS.replace(b"1767225600123", b"NaN"), ("not-json", None)),
        (IN_MS.replace(b"1767225600123", b'"NaN"'), ("bad-timestamp", "timestamp")),
        (IN_MS.replace(b"1767225600123", b"1.5"), ("bad-timestamp", "timestamp")),
        (IN_MS.replace(b"1767225600123", b"true"), ("bad-timestamp", "timestamp")),
        (IN_MS.replace(b"1767225600123", b"1e400"), ("bad-timestamp", "timestamp")),
        (IN_MS.replace(b"1767225600123", b"9" * 30), ("bad-timestamp", "timestamp")),
        (IN_MS.replace(b"1767225600123", b"9" * 5_000), ("bad-timestamp", "timestamp")),
        (IN_MS.replace(b"1767225600123", b"253402300800000"), ("bad-timestamp", "timestamp")),
        (None, ("null-value", None)),
        (USUAL.replace(b"ann", b"\xff\xfe"), ("not-json", None)),
        (USUAL.replace(b"ann", b"\\ud800"), ("not-json", None)),
        (b"[" * 100_000, ("wrong-type", None)),
        (USUAL.replace(b'"ann"', b'{"a":' * 100_000), ("not-json", None)),
        (USUAL.replace(b'"ann"', b"[" * 100_000 + b"]" * 100_000), ("not-json", None)),
        (USUAL.replace(b"ann", b"a" * 1_048_576), ("too-large", None)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_events_say_why(value, expected):
    assert reason(Event, value) == expected


def test_the_years_1_and_9999_are_times_for_the_range_check_to_judge():
    first, last = (USUAL.replace(b"2026-01-01", day) for day in (b"0001-01-01", b"9999-12-31"))
    _, times, bad = decode(Event, first, USUAL, last)
    assert not bad
    assert times == [-62135596799877, TIME_MS, 253402214400123]


def test_fields_within_data_are_named():
    assert reason(Click, USUAL.replace(b'"ann"', b"1")) == ("wrong-type", "data.user")
    assert reason(Click, USUAL.replace(b'"user":"ann",', b"")) == ("missing-field", "data.user")
    assert reason(Click, IN_MS.replace(b":7", b':"7"')) == ("wrong-type", "data.n")
    assert reason(Order, b'{"orderId":"x"}') == ("wrong-type", "orderId")
    assert reason(Order, b'{"orderId":1,"when":"x"}') == ("wrong-type", "when")
    assert reason(Order, b'{"orderId":1,"other":"\xff"}') == ("not-json", None)


def test_duplicate_keys_are_the_last_ones():
    [event], _, _ = decode(Event, USUAL.replace(b'"click"', b'"view","type":"click"'))
    assert event.type == "click"


def test_900_kb_of_broken_json_is_quick():
    broken = b'{"id":"1","type":"x","data":{"list":[' + b'{"a":"b"},' * 90_000
    codec = ValueCodec(Event)
    started = time.process_time()
    _, _, bad = codec.decode_column([broken] * 3, [0] * 3)
    assert time.process_time() - started < 2
    assert [error.reason for _, error in bad] == ["not-json"] * 3


def test_numbers_beyond_floats_are_kept():
    raw = USUAL.replace(b"7", b"1e400")
    [event, plain], _, bad = decode(Event, raw, USUAL.replace(b"7", b"1.5"))
    assert not bad
    assert event.data["n"] == Decimal("1e400")
    assert plain.data["n"] == 1.5
    assert b'"n":1E+400' in encode_value(event)
    [value], _, _ = decode(None, b"[1e99999999999999999999]")
    assert value == ["1e99999999999999999999"]


def test_untyped_values_may_be_anything_and_null():
    assert reason(None, b"[" * 100_000) == reason(dict, b'{"a":' * 100_000) == ("not-json", None)
    events, times, bad = decode(None, b"1", b"[true]", None, b'{"a":1}', b'"x"')
    assert (events, bad) == ([1, [True], None, {"a": 1}, "x"], {})
    assert times == [5] * 5
    assert decode(dict, b'{"a":1}', None)[0] == [{"a": 1}, None]
    assert decode(dict, b"[]")[2][0].reason == "wrong-type"
    assert decode(bytes, b"\xff", None)[0] == [b"\xff", None]
    assert decode(str, "ä".encode(), b"\xff")[0] == ["ä", None]
    assert decode(int, b"7", b"x")[0] == [7, None]


def test_records_of_faust_are_made_from_their_dict():
    events, _, bad = decode(Record, b'{"user":"ann","n":2}', b"[]", b'{"x":1}', None, b"{")
    assert events[0].asdict() == {"user": "ann", "n": 2}
    assert {index: error.reason for index, error in bad.items()} == {
        1: "wrong-type",
        2: "wrong-type",
        3: "null-value",
        4: "not-json",
    }
    assert json.loads(ValueCodec(Record).encode(events[0]) or b"") == {"user": "ann", "n": 2}


def test_a_model_whose_own_code_fails_is_bad_input():
    class Picky(msgspec.Struct):
        n: int

        def __post_init__(self) -> None:
            raise KeyError("own code")

    assert decode(Picky, b'{"n":1}')[2][0].reason == "wrong-type"


def test_what_cannot_be_decoded_is_refused_when_it_is_declared():
    with pytest.raises(ConfigurationError, match="value_type"):
        ValueCodec(Event | Click)
    with pytest.raises(ConfigurationError, match="key_type"):
        KeyCodec(Event | Click)


def test_a_column_of_others_is_not_lost_by_one_that_is_too_large_or_null():
    codec = ValueCodec(Event, value_bytes_max=len(EXTRA))
    column = [USUAL, EXTRA + b" ", None, EXTRA, USUAL]
    events, times, bad = codec.decode_column(column, [0] * 5)
    assert [(index, error.reason) for index, error in bad] == [(1, "too-large"), (2, "null-value")]
    assert [event is None for event in events] == [False, True, True, False, False]
    assert times[3] == TIME_MS


def test_values_are_written_as_json():
    moment = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    event = Event(id="1", type="t", timestamp=moment, data={"big": 2**70})
    assert b'"timestamp":"2026-01-01T00:00:00+02:00"' in encode_value(event)
    assert json.loads(encode_value(event))["data"]["big"] == 2**70
    assert json.loads(encode_value({"event": event, "n": 2**70}))["n"] == 2**70
    assert encode_value(Order(1)) == b'{"orderId":1,"when":null}'
    codec = ValueCodec(None)
    assert (codec.encode(None), codec.encode(b"x"), codec.encode("x")) == (None, b"x", b'"x"')
    assert ValueCodec(str).encode("x") == b"x"
    with pytest.raises(TypeError):
        encode_value(object())


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key_type, key, raw",
    [
        (str, "ann", b"ann"),
        (str, "", b""),
        (str, "ä/ ö", "ä/ ö".encode()),
        (bytes, b"\xff", b"\xff"),
        (None, b"ann", b"ann"),
        (int, 5, b"5"),
        (int, -(2**80), b"-1208925819614629174706176"),
        (float, 1.5, b"1.5"),
        (Any, {"a": [1]}, b'{"a":[1]}'),
        (tuple[str, int], ("a", 1), b'["a",1]'),
    ],
)
def test_keys_go_there_and_back(key_type, key, raw):
    codec = KeyCodec(key_type)
    assert codec.encode(key) == raw
    assert codec.decode(raw) == key
    assert codec.encode(None) is None
    assert codec.decode(None) is None


@pytest.mark.parametrize(
    "key_type, raw",
    [(str, b"\xff"), (int, b"x"), (int, b"1.5"), (float, b"[]"), (Any, b"{"), (int, b"[" * 100_000)],
)
def test_bad_keys_say_so(key_type, raw):
    with pytest.raises(DecodeError) as caught:
        KeyCodec(key_type).decode(raw)
    assert (caught.value.reason, caught.value.field) == ("bad-key", "key")
    assert len(str(caught.value)) < 500


def test_keys_in_a_url_are_read_by_their_type():
    assert KeyCodec(str).parse_text("5") == "5"
    assert KeyCodec(int).parse_text("5") == 5
    assert KeyCodec(bytes).parse_text("ä") == "ä".encode()
    assert KeyCodec(Any).parse_text("[1]") == [1]
    assert KeyCodec(Any).parse_text("ann") == "ann"
    for key_type, text in ((int, "ann"), (str, "\ud800")):
        with pytest.raises(DecodeError):
            KeyCodec(key_type).parse_text(text)


def test_a_key_of_the_wrong_type_is_not_written():
    for key_type, key in ((str, 5), (int, "5"), (int, True), (None, 5), (Any, object())):
        with pytest.raises(TypeError):
            KeyCodec(key_type).encode(key)


# -- groups, paths, times --------------------------------------------------------------------------


def test_groups_are_told_apart_as_json():
    values = [1, 1.0, True, "1", "true", None, "null", [1], {"b": 1, "a": 2}, 2**70, Decimal("1e400")]
    keys = [group_key(value) for value in values]
    assert len(set(keys)) == len(values)
    assert group_key_column(values) == keys
    assert group_key_column(["a", "b"]) == ["a", "b"]
    assert keys[8] == b'{"a":2,"b":1}'
    for value, key in zip(values[:-1], keys, strict=False):
        assert group_key(group_key_value(key)) == key
        assert json.loads(group_key_bytes(key)) == value
    assert group_key_bytes("ä") == '"ä"'.encode()
    assert canonical_json({"b": [1, 1.5], "a": None}) == b'{"a":null,"b":[1,1.5]}'


def test_what_json_writes_as_a_text_is_that_text():
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert group_key(moment) == group_key("2026-01-01T00:00:00Z")
    assert group_key_text(moment) == "2026-01-01T00:00:00Z"
    assert [group_key_text(value) for value in (None, True, "x")] == ["null", "true", "x"]


def test_paths_read_dicts_models_records_and_unknown_fields_and_nothing_else():
    [event], _, _ = decode(Event, EXTRA)
    assert field_getter("type")(event) == "click"
    assert field_getter("data.user")(event) == "ann"
    assert field_getter("shop.id")(event) == [1, 2.5, None]
    assert (
        field_getter("data.user")(Click(id="", type="", timestamp=event.timestamp, data=ClickData("x")))
        == "x"
    )
    assert field_getter("user")(Record("ann")) == "ann"
    assert field_getter("a.b.c")({"a": {"b": {"c": 1}}}) == 1
    for path in (
        "nothing",
        "data.nothing",
        "data.user.upper",
        "data.user.x.y",
        "timestamp_ms",
        "__dict__",
        "id.x",
    ):
        assert field_getter(path)(event) is None
    for path in ("asdict", "__class__", "user.upper"):
        assert field_getter(path)(Record("ann")) is None
    assert field_getter("a")(None) is None
    assert field_getter("a")([1]) is None


def test_columns_of_times_take_every_form():
    moment = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    texts = ["2026-01-01T00:00:00+02:00", "2026-01-01T00:00:00.5Z"]
    assert times_ms_column(texts) == ([1767218400000, 1767225600500], [])
    assert times_ms_column([moment, 5, -5, "1970-01-01T00:00:00Z"]) == ([1767218400000, 5, -5, 0], [])
    times, bad = times_ms_column([5, None, True, 1.5, "x", moment.replace(tzinfo=None), 10**20, {}], "at")
    assert times == [5] + [0] * 7
    assert [index for index, _ in bad] == [1, 2, 3, 4, 5, 6, 7]
    assert {(error.reason, error.field) for _, error in bad} == {("bad-timestamp", "at")}


@pytest.mark.parametrize(
    "encode",
    [
        lambda n: json_bytes({"n": n}),
        lambda n: encode_value({"n": n}),
        lambda n: KeyCodec(int).encode(n),
        lambda n: RowCodec(None).encode_value({"n": n}),
    ],
    ids=["json", "value", "key", "row"],
)
def test_what_is_kept_of_a_record_takes_no_more_memory_than_it_needs(encode: Any) -> None:
    """The records of a checkpoint are held all at once: 4 KiB for each would be gigabytes."""
    encode(0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [encode(n) for n in range(1_000)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(kept) < 200
