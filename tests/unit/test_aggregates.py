"""What each aggregate shows, what it takes, and how its declaration reads."""

from __future__ import annotations

import math

import pytest

from streamflow.aggregates import OTHER, Count, CountBy, Max, Mean, Min, Sum
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


@pytest.mark.parametrize("kind", [Sum, Mean, Min, Max])
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


@pytest.mark.parametrize("kind", [Sum, Mean, Min, Max, CountBy])
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
