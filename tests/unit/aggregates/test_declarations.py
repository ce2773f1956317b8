"""What is said of a declared aggregate before its first event, and of fields that no event has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest

from streamflow import App, ConfigurationError, Count, Event, Key, Record, Sum, TimeField, TumblingWindow
from streamflow.aggregates.field_watch import EVENTS_LOOKED_AT
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec
from streamflow.codecs.model_paths import lies_in_free_json
from tests.support.declared import Declared, event
from tests.support.running import make_app


class Address(msgspec.Struct):
    city: str
    tags: list[str] = []


class Seen(TypedDict):
    page: str


@dataclass
class Device:
    name: str

    @property
    def short(self) -> str:
        return self.name[:1]


class Person(msgspec.Struct):
    name: str
    home: Address | None = None
    seen: Seen | None = None
    device: Device | None = None
    rest: dict[str, Any] = {}
    by_year: dict[str, Address] = {}
    anything: Any = None
    either: Address | int = 0


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    legs: int


class Purchase(Event):
    data: Address  # type: ignore[assignment]


class Order(Record):
    n: int
    shop: str = ""

    @property
    def twice(self) -> int:
        return 2 * self.n


@pytest.mark.parametrize(
    "kind, path, is_free",
    [
        (Person, "name", False),
        (Person, "home", False),
        (Person, "home.city", False),
        (Person, "seen.page", False),
        (Person, "device.short", False),
        (Person, "rest.what.ever", True),
        (Person, "by_year.x.city", True),
        (Person, "anything.at.all", True),
        (Person, "either.city", False),
        (Event, "type", False),
        (Event, "data.shop", True),
        (Event, "shop", True),
        (Purchase, "data.city", False),
        (Order, "shop", False),
        (Order, "twice", False),
        (Cat | Dog, "lives", False),
        (dict[str, Any], "a.b", True),
        (None, "a.b", True),
        (Any, "a", True),
    ],
)
def test_a_model_tells_which_fields_there_are(kind: Any, path: str, is_free: bool) -> None:
    assert lies_in_free_json(kind, path) is is_free


@pytest.mark.parametrize(
    "kind, path, said",
    [
        (Person, "nmae", "Person has no field 'nmae'; did you mean 'name'?"),
        (Person, "home.ciyt", "Address has no field 'ciyt'; did you mean 'city'?"),
        (Person, "home.q", "Address has no field 'q'; it has city, tags"),
        (Person, "name.first", "a value of type str has no field 'first'"),
        (Person, "home.tags.x", "a value of type list has no field 'x'"),
        (Person, "seen.pages", "Seen has no field 'pages'; did you mean 'page'?"),
        (Person, "device.nam", "Device has no field 'nam'; did you mean 'name'?"),
        (Person, "by_year.x.ctiy", "Address has no field 'ctiy'; did you mean 'city'?"),
        (Person, "either.ctiy", "Address has no field"),
        (Event, "type.x", "a value of type str has no field 'x'"),
        (Purchase, "data.ciyt", "did you mean 'city'?"),
        (Order, "shpo", "Order has no field 'shpo'; did you mean 'shop'?"),
        (Cat | Dog, "livse", "Cat has no field 'livse'; did you mean 'lives'?"),
        (str, "a", "a value of type str has no field 'a'"),
    ],
)
def test_a_field_that_no_value_has_is_named_with_the_nearest(kind: Any, path: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        lies_in_free_json(kind, path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"by": "nmae"}, "aggregate 'table': by='nmae': Person has no field 'nmae'; did you mean 'name'?"),
        ({"where": "nmae == 'ann'"}, "where=\"nmae == 'ann'\": Person has no field"),
        ({"time": "nmae"}, "time='nmae': Person has no field"),
        ({"time": TimeField("nmae", unit="s")}, "time=TimeField(path='nmae', unit='s'): Person has no field"),
        ({"values": Sum("nmae")}, "values=Sum('nmae'): Person has no field"),
        ({"values": {"sum": Sum("nmae")}}, "values={'sum': Sum('nmae')}: Person has no field"),
        ({"values": {"n": Count}}, "values={'n': Count}: this is a class; write values={'n': Count()}"),
        ({"values": Count}, "values=Count: this is a class; write values=Count()"),
        ({"values": {"s": Sum}}, "this is a class; write values={'s': Sum('field')}"),
        ({"values": {"n": "data.n"}}, "values={'n': 'data.n'}: this is no aggregate such as Count()"),
        ({"values": {}}, "names no aggregate"),
        ({"by": Key}, "by=Key: this is a class; write by=Key()"),
        (
            {"window": TumblingWindow},
            "window=TumblingWindow: this is a class; write window=TumblingWindow(...)",
        ),
    ],
)
def test_what_is_wrong_is_said_where_it_is_declared(options: dict[str, Any], said: str) -> None:
    app: App = make_app()
    topic = app.topic("events", value_type=Person)
    with pytest.raises(ConfigurationError) as error:
        app.aggregate("table", topic, **{"by": Key(), "values": Count(), **options})
    assert said in str(error.value)


def spec(**options: Any) -> AggregateSpec:
    values = RowFunctions({"n": Count(), "sum": Sum("data.amonut")})
    return AggregateSpec("table", "events", "data.shop", None, values, where="data.paidd", **options)


async def test_fields_that_none_of_the_first_events_has_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = Declared(spec(), partitions=1)
    await world.start()
    try:
        for count in (EVENTS_LOOKED_AT - 1, 1, EVENTS_LOOKED_AT):
            assert not [text for text in caplog.messages if "is the name right" in text] or count > 1
            await world.write(0, *(event(shop="a", amount=1, paid=True) for _ in range(count)))
        told = [text for text in caplog.messages if "is the name right" in text]
        assert len(told) == 2
        assert "aggregate table: where='data.paidd' is missing or null in each of the first" in told[0]
        assert "values={'sum': Sum('data.amonut')}" in told[1]
    finally:
        await world.close()


async def test_fields_that_one_event_has_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    world = Declared(spec(), partitions=1)
    await world.start()
    try:
        await world.write(0, event(shop="a", paidd=False, amonut=0))
        await world.write(0, *(event() for _ in range(EVENTS_LOOKED_AT)))
        assert not [text for text in caplog.messages if "is the name right" in text]
    finally:
        await world.close()
