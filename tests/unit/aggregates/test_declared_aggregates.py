"""Declared aggregates in a running engine: every kind, `where`, keys of any JSON, restarts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streamflow.aggregates import (
    ApproxDistinct,
    Collect,
    Count,
    CountBy,
    First,
    Last,
    Max,
    Mean,
    Min,
    Quantile,
    Sum,
    TopK,
    Variance,
)
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.aggregates.where import condition
from streamflow.errors import ConfigurationError
from streamflow.state.changelog import RowCodec
from streamflow.windows import TumblingWindow
from tests.support.declared import T0_MS, Declared, event

WINDOW = TumblingWindow(size_s=10, idle_close_s=None)


def spec(values: Any, by: Any = "data.shop", **options: Any) -> AggregateSpec:
    return AggregateSpec(
        "table", "events", by, options.pop("window", WINDOW), RowFunctions(values), **options
    )


async def started(*specs: AggregateSpec, **options: Any) -> Declared:
    world = Declared(*specs, **options)
    await world.start()
    return world


EVERY = {
    "n": Count(),
    "types": CountBy("type", keys_max=1),
    "spent": Sum("data.amount"),
    "least": Min("data.amount"),
    "most": Max("data.amount"),
    "mean": Mean("data.amount"),
    "spread": Variance(lambda each: each.data.get("amount")),
    "first": First("data.amount"),
    "last": Last("data.amount"),
    "amounts": Collect("data.amount", max=3),
    "users": ApproxDistinct("data.user"),
    "top": TopK("data.user", 1),
    "median": Quantile("data.amount"),
}


async def test_every_aggregate_at_once_over_partitions_and_a_restart() -> None:
    world = await started(spec(EVERY))
    try:
        await world.write(
            0,
            event(5, "b", shop="x", amount=4, user="ann"),
            event(1, "a", shop="x", amount=2, user=1),
            event(7, "a", shop="x", amount=None, user=None),
        )
        await world.restart()
        await world.write(
            1, event(3, "a", shop="x", amount=9, user="ann"), event(8, "b", shop="x", amount=1, user="1")
        )
        expected = {
            "n": 5,
            "types": {"a": 3, "…other": 2},
            "spent": 16,
            "least": 1,
            "most": 9,
            "mean": 4.0,
            "spread": 38 / 3,
            "first": 2,
            "last": 1,
            "amounts": [2, 9, 4],
            "users": 3,
            "top": [{"value": "ann", "count": 2, "error": 0}],
            "median": 2,
        }
        await world.until(lambda: world.rows("table") == {("x", T0_MS): expected})
        await world.restart()
        assert world.rows("table") == {("x", T0_MS): expected}
    finally:
        await world.close()


async def test_group_keys_and_values_beyond_64_bits_survive_the_logs() -> None:
    huge = 2**70
    world = await started(
        spec({"n": Count(), "max": Max("amount"), "first": First("amount")}, by="shop", time="at"),
        value=dict[str, Any],
    )
    try:
        for shop in (huge, huge + 1, [1, huge], 1, 1.0, True, "1", None):
            value = {"at": T0_MS, "shop": shop, "amount": huge}
            await world.write(0, msgspec.json.encode(value))
        shown = {"n": 1, "max": 2.0**70, "first": 2.0**70}

        def rows() -> dict[str, Any]:
            reader = world.reader("table")
            return {repr(r.key): r.value for p in reader.owned for r in reader.rows(p)}

        keys = [repr(key) for key in (huge, huge + 1, [1, huge], 1, 1.0, True, "1", None)]
        await world.until(lambda: len(rows()) == 8)
        assert rows() == dict.fromkeys(keys, shown)
        await world.restart()
        assert rows() == dict.fromkeys(keys, shown)
        active = world.engine.active
        assert active is not None
        kept = {key for aggregate in active.aggregate_partitions for _, key, _ in aggregate.part.store.scan()}
        assert str(huge + 1).encode() in kept
    finally:
        await world.close()


def test_a_row_codec_writes_ints_of_any_size_and_decimals() -> None:
    from decimal import Decimal

    codec = RowCodec(None)
    assert codec.decode_key(codec.encode_keys(0, [2**70])[0]) == (0, 2**70)
    assert codec.decode_value(codec.encode_value({"a": [-(2**70)]})) == {"a": [-(2**70)]}
    assert codec.decode_value(codec.encode_value(Decimal("1.50"))) == "1.50"
    assert codec.decode_value(codec.encode_value({3, 1})) == [1, 3]
    with pytest.raises(TypeError, match="object"):
        codec.encode_value(object())


@pytest.mark.parametrize(
    "where, counted",
    [
        ("data.paid", 1),
        ("type == 'click'", 2),
        ("type != 'click'", 1),
        ("data.amount >= 10", 1),
        ("type in ['look', 'buy']", 1),
        (lambda each: each.data["amount"] < 10, 2),
    ],
)
async def test_where_is_a_field_test_or_a_function(where: Any, counted: int) -> None:
    world = await started(spec(Count(), by=Key(), where=where), partitions=1)
    try:
        await world.write(
            0, event(1, amount=1, paid=True), event(2, amount=2, paid=0), event(3, "buy", amount=10)
        )
        assert world.rows("table") == {("k", T0_MS): counted}
        counters = world.reader("table").status().counters
        assert counters == {"in": 3, "counted": counted, "filtered": 3 - counted}
    finally:
        await world.close()


async def test_a_field_test_decodes_only_its_field() -> None:
    world = await started(spec(Count(), by=Key(), where="data.amount > 1"))
    try:
        (decoder,) = world.engine.topology.decoders.values()
        assert decoder.projection is not None
    finally:
        await world.close()


@pytest.mark.parametrize(
    "text, wanted, unwanted",
    [
        ("a.b", [1, "x", [0], True], [None, 0, "", False, []]),
        ("a == 1", [1, 1.0], [True, "1", None, 2]),
        ("a == true", [True], [1, "true", None]),
        ("a == null", [None], [0, "", False]),
        ("a != null", [0, ""], [None]),
        ("a == 'it is == so'", ["it is == so"], ["x"]),
        ('a == {"y": [1], "x": 2}', [{"x": 2, "y": [1]}], [{"x": 2}]),
        ("a in [1, 'x', null]", [1, 1.0, "x", None], [True, "y", [1]]),
        ("a not in [1]", [2, True], [1]),
        ("a<=2.5", [2.5, -1, 0], [3, "2", None, True, float("nan")]),
        ("a > 'm'", ["n", "ma"], ["a", 5, None]),
    ],
)
def test_what_a_field_test_wants(text: str, wanted: list[Any], unwanted: list[Any]) -> None:
    made = condition(text)
    assert made.column([*wanted, *unwanted]) == [True] * len(wanted) + [False] * len(unwanted)
    for value in wanted:
        assert made.column([value]) == [True], value


@pytest.mark.parametrize(
    "text", ["", "a b", "a == ", "a == x", "== 1", "a..b == 1", "a in 3", "a < null", "a < true"]
)
def test_a_field_test_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="where="):
        condition(text)
