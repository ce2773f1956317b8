"""What each aggregate shows, what it takes, and how its declaration reads."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from streamflow.aggregates import (
    OTHER,
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
from streamflow.errors import ConfigurationError, DecodeError

GROUPS = ["a", "b", "a", "a"]


def results(aggregate, values):
    return {g: aggregate.result(s) for g, s in aggregate.fold_column(GROUPS, values).items()}


def test_each_shows_what_its_name_says():
    assert results(Count(), None) == {"a": 3, "b": 1}
    assert results(CountBy("type"), ["x", "y", "z", "x"]) == {"a": {"x": 2, "z": 1}, "b": {"y": 1}}
    assert results(Sum("n"), [1, 2, 3, 4]) == {"a": 8, "b": 2}
    assert results(Min("n"), [5, 2, 3, 4.5]) == {"a": 3, "b": 2}
    assert results(Max("n"), [5, 2, 3, 4.5]) == {"a": 5, "b": 2}
    assert results(Mean("n"), [1, 2, 3, 5]) == {"a": 3.0, "b": 2.0}


def test_a_sum_of_ints_is_an_int_and_of_floats_a_float():
    assert repr(results(Sum("n"), [1, 2.0, 3, 4])) == "{'a': 8, 'b': 2.0}"
    assert results(Sum("n"), [0.1, 0.1, 0.1, 0.1])["a"] == math.fsum([0.1] * 3)


def test_a_sum_beyond_64_bits_is_kept_exactly_and_shown_as_a_float():
    state = Sum("n").fold_column(["g"] * 3, [2**64, 1, 2**64])["g"]
    assert state == 2**65 + 1
    assert Sum("n").dump(state) == str(2**65 + 1)
    assert Sum("n").load(str(2**65 + 1)) == state
    assert repr(Sum("n").result(state)) == repr(2.0**65)


def test_null_is_passed_over_but_a_row_is_there():
    values = [1, None, None, 2]
    assert results(Sum("n"), values) == {"a": 3, "b": 0}
    assert results(Mean("n"), values) == {"a": 1.5, "b": None}
    assert results(Min("n"), values) == {"a": 1, "b": None}
    assert results(Max("n"), values) == {"a": 2, "b": None}


def test_count_by_names_values_that_are_no_texts_by_their_json():
    values = [1, None, 1.0, True]
    assert results(CountBy("type"), values) == {"a": {"1": 1, "1.0": 1, "true": 1}, "b": {"null": 1}}
    nested = CountBy("type").fold_column([0, 0], [{"b": 1, "a": [2]}, {"a": [2], "b": 1}])
    assert nested == {0: {'{"a":[2],"b":1}': 2}}


def test_count_by_keeps_the_texts_that_come_first_and_counts_the_rest_together():
    aggregate = CountBy("type", keys_max=2)
    state = aggregate.initial()
    for text in ["d", "c", "d", "b", "a", "c", "x" * 257, "d"]:
        state = aggregate.fold(state, text)
    assert aggregate.result(state) == {"a": 1, "b": 1, OTHER: 6}


def test_a_thousand_texts_are_the_default():
    aggregate = CountBy("type")
    state = aggregate.fold_column([0] * 1_001, [f"{n:04}" for n in range(1_001)])[0]
    assert len(state) == 1_001
    assert state[OTHER] == 1
    assert "1000" not in state


@pytest.mark.parametrize("kind", [Sum, Mean, Min, Max, Variance, Quantile])
@pytest.mark.parametrize("value", ["1", True, [1], {"n": 1}, math.nan, math.inf, -math.inf, 1e200, 10**400])
def test_what_is_no_usable_number_is_bad_input_with_its_field(kind, value):
    aggregate = kind("data.amount")
    with pytest.raises(DecodeError) as caught:
        aggregate.check(value)
    assert caught.value.reason == "wrong-type"
    assert caught.value.field == "data.amount"
    assert len(caught.value.message) < 200
    for column in ([1, value, None, 2.5], [value], [2.5, value, 1.5, value], [1, 2, value]):
        bad = aggregate.check_column(column)
        assert [index for index, _ in bad] == [i for i, v in enumerate(column) if v is value]


@pytest.mark.parametrize(
    "kind", [Sum, Mean, Min, Max, Variance, Quantile, CountBy, ApproxDistinct, TopK, First]
)
def test_good_columns_pass(kind):
    for column in ([], [1], [None], [1, 2.5, None], [-0.0, 1e150, -(10**149)], [None, None]):
        assert kind("n").check_column(column) == []


def test_count_by_takes_every_json_value_and_nothing_else():
    assert CountBy("f").check_column(["a", 1, None, {"x": [1]}, object(), "\ud800", "b"])[0][0] == 4
    assert CountBy("f").check_column(["a", 1, None, 2.5, True]) == []
    assert Count().check_column([object(), None]) == []


def test_equal_numbers_of_both_kinds_show_as_the_int():
    for kind in (Min, Max):
        aggregate = kind("n")
        for values in ([1, 1.0], [1.0, 1]):
            state = aggregate.fold_column([0, 0], values)[0]
            assert repr(state) == "1"


def amount_of(event):
    return event["amount"]


def test_descriptions_tell_declarations_apart():
    described = [
        Count().describe(),
        CountBy("type").describe(),
        CountBy("type", keys_max=5).describe(),
        Sum("n").describe(),
        Sum("m").describe(),
        Sum(amount_of).describe(),
        Mean("n").describe(),
        Min("n").describe(),
        Max("n").describe(),
    ]
    assert all(described.count(one) == 1 for one in described)
    assert CountBy("type").describe() == {"aggregate": "count_by", "field": "type", "keys_max": 1_000}
    assert Sum(amount_of).describe() == {"aggregate": "sum", "field": "amount_of"}
    assert Count().describe() == {"aggregate": "count"}
    assert repr(Sum("n")) == "Sum(field='n')"


def test_a_function_is_named_where_its_value_is_bad():
    with pytest.raises(DecodeError) as caught:
        Sum(amount_of).check("1")
    assert caught.value.field == "amount_of"


@pytest.mark.parametrize("keys_max", [0, -1, 1.5, True, "10", None])
def test_keys_max_must_be_a_positive_whole_number(keys_max):
    with pytest.raises(ConfigurationError, match="keys_max"):
        CountBy("type", keys_max=keys_max)


@pytest.mark.parametrize("field", ["", ".", "a..b", None, 3])
def test_a_field_is_a_path_or_a_function(field):
    with pytest.raises(ConfigurationError):
        Sum(field)


def test_a_variance_is_that_of_a_sample_unless_the_population_is_meant():
    assert results(Variance("n"), [2, 7, 4, 6]) == {"a": 4.0, "b": None}
    assert results(Variance("n", population=True), [2, 7, 4, 6]) == {"a": 8 / 3, "b": 0.0}
    # Far from zero the squares are huge and their difference small: nothing of it is lost.
    far = [1e9 + 4, 0, 1e9 + 7, 1e9 + 13]
    assert results(Variance("n"), far)["a"] == 21.0


def test_first_last_and_collect_go_by_event_time_then_place():
    at = [(20, 0, 5, "late"), (10, 0, 1, "b"), (10, 1, 9, "early"), (10, 1, 8, "earlier")]
    assert results(First("n"), at) == {"a": "earlier", "b": "b"}
    assert results(Last("n"), at) == {"a": "late", "b": "b"}
    assert results(Collect("n"), at) == {"a": ["earlier", "early", "late"], "b": ["b"]}
    assert results(Collect("n", max=2), at) == {"a": ["earlier", "early"], "b": ["b"]}


def test_collect_without_a_field_takes_whole_events():
    events = [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}]
    whole: Any = Collect().field
    assert [whole(event) for event in events] == events
    at = [(number, 0, number, event) for number, event in enumerate(events)]
    assert results(Collect(max=2), at)["a"] == [{"n": 1}, {"n": 3}]


def test_what_collect_leaves_out_stays_out_whoever_merges():
    """The value in the middle does not fit; what lies behind it must not slip in before it is met."""
    kind = Collect("n", bytes_max=200)
    small, large, other = (1, 0, 1, "a"), (2, 0, 2, "b" * 300), (3, 1, 3, "c")
    left = kind.fold_column([0, 0], [small, large])[0]
    right = kind.fold_column([0], [other])[0]
    for state in (kind.merge(kind.copy(left), right), kind.merge(kind.copy(right), left)):
        assert kind.result(state) == ["a"]
        assert kind.load(kind.dump(state)) == state


def test_integers_beyond_64_bits_survive_in_first_and_are_shown_as_floats():
    kind = First("n")
    state = kind.fold_column([0], [(1, 0, 0, {"n": [2**70]})])[0]
    dumped = orjson.loads(orjson.dumps(kind.dump(state)))
    assert kind.load(dumped) == state == (1, 0, 0, {"n": [2**70]})
    assert kind.result(state) == {"n": [2.0**70]}
    assert [index for index, _ in kind.check_column([1, math.nan, object(), "x"])] == [1, 2]


def test_sketches_tell_values_apart_by_their_json():
    values = [1, 1.0, True, "1"]
    state = ApproxDistinct("n").fold_column([0] * 5, [*values, None])[0]
    assert ApproxDistinct("n").result(state) == 4
    top = TopK("n").fold_column([0] * 6, ["1", "1", 1, 1.0, True, None])[0]
    assert TopK("n").result(top) == [
        {"value": "1", "count": 2, "error": 0},
        {"value": 1, "count": 1, "error": 0},
        {"value": 1.0, "count": 1, "error": 0},
        {"value": True, "count": 1, "error": 0},
    ]
    assert [type(item["value"]) for item in TopK("n").result(top)] == [str, int, float, bool]


def test_an_empty_text_is_a_value_of_its_own():
    assert ApproxDistinct("n").result(ApproxDistinct("n").fold_column([0, 0], ["", "x"])[0]) == 2


def test_a_sketch_that_was_merged_shows_what_one_that_was_not_shows():
    kind = ApproxDistinct("n")
    values = [f"user-{n}" for n in range(50_000)]
    whole = kind.fold_column([0] * len(values), values)[0]
    parts = [kind.fold_column([0] * 5_000, values[at : at + 5_000])[0] for at in range(0, 50_000, 5_000)]
    merged = kind.initial()
    for part in reversed(parts):
        merged = kind.merge(merged, part)
    assert kind.result(merged) == kind.result(whole) == kind.result(kind.load(kind.dump(whole)))


def test_a_top_k_forgets_no_error_when_many_rare_values_push_out_everything():
    top = TopK("f")
    often = ["x"] * 100
    rare = ["x", *(f"user-{n}" for n in range(768))]  # one more than there is room for, each once
    state = top.fold_column(["g"] * len(often), often)["g"]
    pushed_out = top.fold_column(["g"] * len(rare), rare)["g"]
    restored = top.load(orjson.loads(orjson.dumps(top.dump(pushed_out))))
    for delta in (pushed_out, top.copy(pushed_out), restored):
        (shown,) = top.result(top.merge(top.copy(state), delta))
        assert shown["value"] == "x"
        assert shown["count"] - shown["error"] <= 101 <= shown["count"]


@pytest.mark.parametrize("kind", [TopK("f", k=3, counters=64), Quantile("f", q=(0.1, 0.5, 0.99))])
@pytest.mark.parametrize("count", [5, 5_000])
def test_sketches_agree_with_those_of_the_same_events_only(kind, count):
    values = [int(97 * (n / count) ** 3) for n in range(count)]

    def merged(values, sizes):
        state, at = kind.initial(), 0
        while at < len(values):
            size = sizes[at % len(sizes)]
            part = values[at : at + size]
            state = kind.merge(state, kind.fold_column(["g"] * len(part), part)["g"])
            at += size
        return kind.load(orjson.loads(orjson.dumps(kind.dump(state))))

    state = merged(values, [1, 7, 300])
    assert kind.agrees(state, merged(values[::-1], [11, 2]))
    assert not kind.agrees(state, merged(values[1:], [11]))
    assert not kind.agrees(state, merged([n + 50 for n in values], [11]))
    assert not kind.agrees(merged([n + 50 for n in values], [11]), state)


def test_a_quantile_shows_a_number_that_was_there_the_same_on_every_read():
    kind = Quantile("n", [0.5, 0.99])
    values = [(n * 7_919) % 100_003 for n in range(100_000)]
    state = kind.initial()
    for at in range(0, 100_000, 1_000):
        state = kind.merge(state, kind.fold_column([0] * 1_000, values[at : at + 1_000])[0])
    shown = kind.result(state)
    assert set(shown) == {"0.5", "0.99"}
    assert set(shown.values()) <= set(values)
    again = kind.load(orjson.loads(orjson.dumps(kind.dump(state))))
    other = kind.fold_column([0] * 5_000, values[:5_000])[0]
    both = [kind.result(kind.merge(kind.copy(one), other)) for one in (state, again, state)]
    assert both[0] == both[1] == both[2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Collect("n", max=0),
        lambda: Collect("n", max=True),
        lambda: Collect("n", bytes_max=10_000_000),
        lambda: ApproxDistinct("n", precision=30),
        lambda: TopK("n", 0),
        lambda: TopK("n", 900, counters=1_024),
        lambda: TopK("n", counters=1_000),
        lambda: Quantile("n", 1.5),
        lambda: Quantile("n", []),
        lambda: Quantile("n", math.nan),
        lambda: Quantile("n", [True]),
        lambda: Quantile("n", "0.5"),  # type: ignore[arg-type]  # on purpose
    ],
)
def test_a_declaration_that_cannot_work_is_refused(make):
    with pytest.raises(ConfigurationError):
        make()


def test_every_kind_describes_what_changes_its_states():
    described = [
        Variance("n").describe(),
        Variance("n", population=True).describe(),
        First("n").describe(),
        Last("n").describe(),
        Collect("n").describe(),
        Collect("n", max=5).describe(),
        Collect().describe(),
        ApproxDistinct("n").describe(),
        ApproxDistinct("n", precision=14).describe(),
        TopK("n").describe(),
        TopK("n", 3).describe(),
        Quantile("n").describe(),
        Quantile("n", [0.5, 0.9]).describe(),
    ]
    assert all(described.count(one) == 1 for one in described)
    assert orjson.loads(orjson.dumps(described)) == described
