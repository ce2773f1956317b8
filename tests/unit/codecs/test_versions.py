"""Events of older and newer versions than the class: header, steps, what is kept, what is refused."""

from __future__ import annotations

import json
import types
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.codecs.event import Event
from streamflow.codecs.values import ValueCodec, encode_value
from streamflow.codecs.versions import HEADER, VersionedCodec, with_version
from streamflow.errors import ConfigurationError
from streamflow.transports.base import Batch, Headers
from tests.support.running import event as any_event

AT = "2025-10-09T08:53:20Z"


class Order(Event, version=3):
    """1: `user` and an amount in cents. 2: `customer`. 3: an amount with its currency."""

    customer: str
    amount: dict[str, Any]
    note: str = "none"


@Order.upgrade(from_version=1)
def named_customer(data: dict[str, Any]) -> dict[str, Any]:
    data["customer"] = data.pop("user")
    return data


@Order.upgrade(from_version=2)
def with_currency(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "amount": {"cents": data["amount"], "currency": "EUR"}}


def value(**fields: Any) -> bytes:
    return json.dumps({"id": "1", "type": "order", "timestamp": AT, "data": {}, **fields}).encode()


def decode(
    kind: type[Event], *records: tuple[bytes | None, str | bytes | None]
) -> tuple[list[Any], dict[int, Any]]:
    headers: list[Headers] = [
        () if version is None else ((HEADER, version.encode() if isinstance(version, str) else version),)
        for _, version in records
    ]
    count = len(records)
    batch = Batch(
        "orders",
        0,
        list(range(count)),
        [None] * count,
        [raw for raw, _ in records],
        [0] * count,
        headers,
        next_offset=count,
        end_offset=count,
    )
    events, times, bad = VersionedCodec(kind).decode_batch(batch)
    assert len(times) == count
    return events, dict(bad)


def test_each_version_becomes_what_the_class_is_now_and_unknown_fields_stay() -> None:
    events, bad = decode(
        Order,
        (value(user="ann", amount=7, shop="x"), "1"),
        (value(customer="bob", amount=8), "2"),
        (value(customer="eve", amount={"cents": 9, "currency": "USD"}, note="new"), "3"),
        (value(user="zoe", amount=10), None),  # without the header it is of the first
        (value(customer="max", amount={"cents": 1}, later=True), "4"),  # newer: by field
    )
    assert not bad
    assert [(event.customer, event.amount["cents"], event.note) for event in events] == [
        ("ann", 7, "none"), ("bob", 8, "none"), ("eve", 9, "new"), ("zoe", 10, "none"), ("max", 1, "none"),
    ]  # fmt: skip
    assert json.loads(encode_value(events[0]))["shop"] == "x"
    assert json.loads(encode_value(events[4]))["later"] is True


def test_what_can_not_be_raised_is_bad_input_that_says_which_step_and_field() -> None:
    _, bad = decode(
        Order,
        (value(amount=7), "1"),
        (value(customer=5, amount=7), "2"),
        (value(customer="ann"), "4"),
        (value(), "x"),
        (value(), b"\xff"),
        (value(), "0"),
        (b"[1]", "1"),
        (b"{", "1"),
        (None, "1"),
        (value(customer="ann", amount={}), "3"),
    )
    told = {index: (error.reason, str(error)) for index, error in bad.items()}
    assert told.keys() == set(range(9))
    assert told[0][0] == "upgrade-failed"
    assert "Order: the step from version 1 failed: KeyError: 'user'" in told[0][1]
    assert told[1][0] == "wrong-type"
    assert "customer" in told[1][1]
    assert told[2][0] == "missing-field"
    assert [told[index][0] for index in (3, 4, 5)] == ["bad-version"] * 3
    assert HEADER in told[3][1]
    assert [told[index][0] for index in (6, 7, 8)] == ["wrong-type", "not-json", "null-value"]


def test_where_there_is_no_step_defaults_do_and_fields_can_be_read_alone() -> None:
    kind: Any = types.new_class("Noted", (Event,), {"version": 2}, lambda body: body.update(
        __annotations__={"note": str}, note="none", __module__=__name__
    ))  # fmt: skip
    events, bad = decode(kind, (value(), "1"), (value(note="x"), "2"))
    assert not bad
    assert [event.note for event in events] == ["none", "x"]
    assert VersionedCodec(kind).project(["note"]) is not None
    assert VersionedCodec(Order).project(["customer"]) is None  # steps take whole values


def test_the_class_says_the_version_of_values_without_the_header() -> None:
    def told(data: dict[str, Any]) -> int:
        return 2 if "customer" in data else 1

    class Told(Event, version=2, unversioned=told):
        customer: str

    class Current(Event, version=2, unversioned=2):
        customer: str

    for kind in (Told, Current):
        kind.upgrade(from_version=1)(named_customer)
    events, bad = decode(Told, (value(user="ann"), None), (value(customer="bob"), None))
    assert (not bad, [event.customer for event in events]) == (True, ["ann", "bob"])
    events, bad = decode(Current, (value(user="ann"), None), (value(customer="bob"), None))
    assert (list(bad), events[1].customer) == ([0], "bob")


def test_what_is_sent_says_its_version_and_not_that_of_another() -> None:
    order = Order(id="1", type="order", timestamp=any_event().timestamp, data={}, customer="a", amount={})
    assert with_version((("trace", b"x"), (HEADER, b"1")), order) == (("trace", b"x"), (HEADER, b"3"))
    assert with_version((("trace", b"x"),), any_event()) == (("trace", b"x"),)
    assert with_version(((HEADER, b"7"),), b"bytes") == ((HEADER, b"7"),)


@pytest.mark.parametrize("from_version", [0, 3, "1", True, 1])
def test_a_step_that_can_not_be_is_refused(from_version: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Order\.upgrade"):
        Order.upgrade(from_version=from_version)(named_customer)


@pytest.mark.parametrize("unversioned", [0, 3, "1", True])
def test_the_version_of_what_says_none_is_one_of_the_class(unversioned: Any) -> None:
    with pytest.raises(ConfigurationError, match="unversioned"):
        types.new_class("Odd", (Event,), {"version": 2, "unversioned": unversioned})


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(["customer", "user", "amount", "note", "x"]), st.one_of(
                st.none(), st.integers(), st.text(), st.dictionaries(st.text(), st.integers(), max_size=2)
            )),
            st.sampled_from(["3", "4"]),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_values_of_the_class_s_own_version_are_read_as_by_the_plain_codec(
    records: list[tuple[dict[str, Any], str]],
) -> None:
    raw = [value(**fields) for fields, _ in records]
    events, bad = decode(Order, *zip(raw, [version for _, version in records], strict=True))
    expected, _, wrong = ValueCodec(Order).decode_column(raw, [0] * len(raw))
    assert events == expected
    assert {index: str(error) for index, error in bad.items()} == {index: str(e) for index, e in wrong}


def test_the_json_schema_takes_what_the_codec_takes() -> None:
    schema = Order.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    good = json.loads(value(customer="ann", amount={}, unknown=1))
    check.validate(good)
    check.validate({**good, "timestamp": 1_760_000_000_000})
    assert not check.is_valid({**good, "customer": 5})
    assert not check.is_valid({name: field for name, field in good.items() if name != "amount"})
