"""Models that hold models, that are coerced, checked and told apart; codecs and schemas of one's own."""
# mypy: ignore-errors

import zlib
from datetime import datetime
from decimal import Decimal
from enum import Enum

from faust.models.fields import StringField
from faust.serializers import codecs

import streamflow as faust


class zipped(  # noqa: N801  # named as Faust names its codecs
    codecs.Codec
):
    def _dumps(self, obj):
        return zlib.compress(obj)

    def _loads(self, s):
        return zlib.decompress(s)


codecs.register("zipped_json", codecs.json() | zipped())


class Color(Enum):
    RED = "red"


class Account(faust.Record, abstract=True):
    id: str


class Personal(Account, namespace="accounts.personal"):
    name: str


class Business(Account, namespace="accounts.business", polymorphic_fields=True):
    owners: list[Personal]
    limits: dict[str, Decimal] = None


class Order(faust.Record, coerce=True, validation=True, date_parser=datetime.fromisoformat):
    id: int
    price: Decimal
    at: datetime
    color: str | None = None
    code: str = StringField(max_length=4, required=False, default="none")


class TaggedSchema(faust.Schema):
    """The value's type is told by a header."""

    def loads_value(self, app, message, *, loads=None, serializer=None):
        value = super().loads_value(app, message, loads=loads, serializer=serializer)
        return (message.headers.get("kind", b"").decode(), value)

    def on_dumps_value_prepare_headers(self, value, headers):
        headers["kind"] = type(value).__name__.encode()
        return headers


app = faust.App("models", broker="kafka://localhost:9092")
anything = app.topic("anything", key_type=str)
orders = app.topic("orders", value_type=Order)
zipped_topic = app.topic("zipped", value_type=Order, value_serializer="zipped_json")
tagged = app.topic("tagged", schema=TaggedSchema(value_serializer="json"))
seen = {"anything": [], "orders": [], "zipped": [], "tagged": []}
kept = app.Table("kept")


@app.agent(anything)
async def take_anything(stream):
    async for key, value in stream.items():
        kept[key] = value
        seen["anything"].append(value)


@app.agent(orders)
async def take_orders(stream):
    async for order in stream:
        seen["orders"].append(order)


@app.agent(zipped_topic)
async def take_zipped(stream):
    async for event in stream.events():
        seen["zipped"].append((event.value, event.message.value))


@app.agent(tagged)
async def take_tagged(stream):
    async for value in stream:
        seen["tagged"].append(value)
