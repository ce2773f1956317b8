"""Records are made as Faust itself makes them, whatever their fields are and whatever the data holds."""

from __future__ import annotations

import inspect
from datetime import datetime
from decimal import Decimal
from typing import Any

import faust
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.app.topics.records import record_maker


class Inner(faust.Record, namespace="tests.inner"):
    user: str
    amount: float = 0.5


class Flat(faust.Record):
    id: str
    n: int
    at: str = "never"
    tags: list[str] = []  # noqa: RUF012  # as users write it


class Nested(faust.Record, serializer="json"):
    id: str
    inner: Inner
    more: list[Inner]
    maybe: Inner | None = None


class Dated(faust.Record, coerce=True):
    id: str
    at: datetime


class Coerced(faust.Record, coerce=True):
    id: str
    n: int
    amount: float = 1.0
    inner: Inner | None = None


class Trimmed(faust.Record, coerce=True):
    id: str = faust.models.fields.StringField(trim_whitespace=True)


class Loose(faust.Record):
    at: datetime
    price: Decimal


class Checked(faust.Record, validation=True):
    n: int


class Renamed(faust.Record):
    n: int = faust.models.fields.IntegerField(field="n", input_name="number", required=True)


class Own(faust.Record):
    n: int

    def __post_init__(self) -> None:
        self.twice = self.n * 2


KINDS: list[Any] = [Inner, Flat, Nested, Dated, Coerced, Trimmed, Loose, Checked, Renamed, Own]
PLAIN = {Inner, Flat, Nested, Dated, Trimmed, Loose}

inner = st.fixed_dictionaries({"user": st.text(max_size=3)}, optional={"amount": st.floats(0, 9) | st.none()})
values = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=3) | st.just(" a ") | st.none() | st.integers(),
        "n": st.integers() | st.text(max_size=2) | st.none(),
        "number": st.integers(),
        "at": st.just("2025-01-01T00:00:00Z") | st.text(max_size=3) | st.none(),
        "tags": st.lists(st.text(max_size=2), max_size=2) | st.none(),
        "user": st.text(max_size=3),
        "amount": st.floats(0, 9) | st.none(),
        "price": st.just("1.50") | st.none(),
        "inner": inner | st.none(),
        "more": st.lists(inner, max_size=2),
        "maybe": inner | st.none(),
        "extra": st.integers(),
        "__faust": st.just({"ns": "nobody.knows"}) | st.just({"ns": "tests.inner"}),
    },
)


def seen(make: Any, data: dict[str, Any]) -> Any:
    """What a user can see of the record, or what is raised."""
    try:
        record = make(data)
    except Exception as exc:  # noqa: BLE001  # whatever Faust raises
        return type(exc), str(exc)
    fields = {}
    declared = {name for kind in type(record).__mro__ for name in inspect.get_annotations(kind)}
    names = {name for name in declared if not name.startswith("_")} | vars(record).keys()
    for name in sorted(names - {"__evaluated_fields__"}):
        try:
            fields[name] = getattr(record, name)
        except Exception as exc:  # noqa: BLE001  # a lazy field's own
            fields[name] = type(exc), str(exc)
    return type(record), fields


@pytest.mark.parametrize("kind", KINDS)
@given(data=values)
def test_a_record_is_the_one_that_from_data_makes(kind: Any, data: dict[str, Any]) -> None:
    def reference(given: dict[str, Any]) -> Any:
        return kind.from_data(given, preferred_type=kind)

    assert seen(record_maker(kind), dict(data)) == seen(reference, dict(data))


def test_only_classes_without_code_of_their_own_take_the_short_way() -> None:
    short = {kind for kind in KINDS if record_maker(kind).__name__ == "make"}
    assert short == PLAIN
