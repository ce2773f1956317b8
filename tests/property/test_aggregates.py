"""Every aggregate: the same in any order, over any split, and through JSON."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamflow.aggregates import (
    OTHER,
    Aggregate,
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

numbers = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.integers(-5, 5),
    st.floats(-1e150, 1e150),
    st.sampled_from([0.1, 0.2, 1.0, -0.0, 0.0, 1e-300, 5e-324, -1e150, 1e150, 1, -1, 2**53, 2.0**53]),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(-2, 2), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=1), inner, max_size=2)
    ),
    max_leaves=3,
)
types = st.one_of(st.sampled_from(["click", "view", OTHER, "null", "x" * 300]), json_values)

KINDS: list[tuple[Aggregate, st.SearchStrategy]] = [
    (Count(), st.none()),
    (CountBy("type"), types),
    (CountBy("type", keys_max=1), types),
    (CountBy("type", keys_max=3), types),
    (Sum("n"), numbers),
    (Sum("n"), st.integers()),
    (Sum("n"), st.floats(-1e6, 1e6)),
    (Mean("n"), numbers),
    (Min("n"), numbers),
    (Max("n"), numbers),
    (Variance("n"), numbers),
    (Variance("n", population=True), st.floats(-1e6, 1e6)),
    (First("n"), types),
    (Last("n"), st.one_of(types, st.integers(-(2**70), 2**70))),
    (Collect("n"), types),
    (Collect("n", max=2), types),
    (Collect("n", bytes_max=150), types),
    (ApproxDistinct("n"), types),
    (TopK("n", 3), types),
    (Quantile("n", (0, 0.25, 0.5, 0.9, 1)), numbers),
]
kinds = st.sampled_from(KINDS)
# The first example pays for building the strategies; on a busy machine that looks like slow input.
unhurried = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


def by_one(aggregate: Aggregate, rows: list) -> dict:
    """The plain reference: one event at a time."""
    states: dict = {}
    for group, value in rows:
        states[group] = aggregate.fold(states.get(group, aggregate.initial()), value)
    return states


def shape(aggregate: Aggregate, state) -> object:
    """What makes two states the same. Of a sketch, what it shows; what it is made of may lie in any order."""
    if isinstance(aggregate, ApproxDistinct | TopK | Quantile):
        return repr(aggregate.result(state))
    return state


def seen(aggregate: Aggregate, states: dict) -> tuple:
    """All there is to see of some states."""
    return (
        {group: aggregate.result(state) for group, state in states.items()},
        {group: repr(aggregate.result(state)) for group, state in states.items()},
        {group: shape(aggregate, aggregate.load(aggregate.dump(state))) for group, state in states.items()},
    )


def placed(aggregate: Aggregate, rows: list, rng: random.Random) -> list:
    """The rows as the aggregate takes them: each where none other is, if it asks for places."""
    if not aggregate.placed:
        return rows
    return [
        (group, (rng.randrange(3), rng.randrange(2), offset, value))
        for offset, (group, value) in enumerate(rows)
    ]


@st.composite
def folds(draw):
    aggregate, values = draw(kinds)
    rows = draw(st.lists(st.tuples(st.sampled_from("abc"), values), max_size=25))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    rng = draw(st.randoms(use_true_random=False))
    return aggregate, placed(aggregate, rows, rng), [0, *cuts, len(rows)], rng


@unhurried
@given(folds())
def test_columns_in_any_split_and_order_equal_events_one_by_one(case):
    aggregate, rows, cuts, rng = case
    expected = by_one(aggregate, rows)
    shuffled = rng.sample(rows, len(rows))
    parts = []
    for start, end in itertools.pairwise(cuts):
        part = shuffled[start:end]
        values = None if isinstance(aggregate, Count) else [value for _, value in part]
        parts.append(aggregate.fold_column([group for group, _ in part], values))
    rng.shuffle(parts)
    merged: dict = {}
    for part in parts:
        for group, delta in part.items():
            before = shape(aggregate, aggregate.copy(delta))
            merged[group] = aggregate.merge(merged.get(group, aggregate.initial()), delta)
            assert shape(aggregate, delta) == before
    assert seen(aggregate, merged) == seen(aggregate, expected)


@unhurried
@given(folds())
def test_merging_is_associative_and_commutative_and_initial_is_neutral(case):
    aggregate, rows, _, rng = case
    states = list(by_one(aggregate, [(rng.randrange(3), value) for _, value in rows]).values())
    states += [aggregate.initial()] * (3 - len(states))
    a, b, c = states[:3]

    def both(left, right):
        return aggregate.merge(aggregate.copy(left), right)

    def same(left, right):
        return shape(aggregate, left) == shape(aggregate, right)

    assert aggregate.result(both(both(a, b), c)) == aggregate.result(both(a, both(b, c)))
    assert same(both(both(a, b), c), both(a, both(b, c)))
    assert same(both(a, b), both(b, a))
    assert same(both(a, aggregate.initial()), a)
    assert same(both(aggregate.initial(), a), a)


@unhurried
@given(folds())
def test_states_survive_json(case):
    aggregate, rows, _, _ = case
    for state in by_one(aggregate, rows).values():
        loaded = aggregate.load(orjson.loads(orjson.dumps(aggregate.dump(state))))
        assert shape(aggregate, loaded) == shape(aggregate, state)
        assert aggregate.result(loaded) == aggregate.result(state)
        orjson.dumps(aggregate.result(state))


@unhurried
@given(folds())
def test_what_was_dumped_or_copied_stays_as_it_was(case):
    aggregate, rows, _, _ = case
    for group, state in by_one(aggregate, rows).items():
        copied, dumped = aggregate.copy(state), aggregate.dump(state)
        before = orjson.dumps(dumped)
        values = [value for other, value in rows if other == group]
        aggregate.fold(state, values[0])
        kept = aggregate.load(orjson.loads(before))
        assert shape(aggregate, aggregate.copy(copied)) == shape(aggregate, kept)
        assert orjson.dumps(dumped) == before


@unhurried
@given(st.lists(numbers))
def test_sums_and_means_are_exact_and_rounded_once(values):
    present = [value for value in values if value is not None]
    exact = sum(map(Fraction, present), Fraction(0))
    total = Sum("n").fold_column(["g"] * len(values), values).get("g", 0)
    mean = Mean("n").fold_column(["g"] * len(values), values).get("g", (0, 0))
    whole = all(isinstance(value, int) for value in present) and -(2**63) <= exact < 2**64
    assert Sum("n").result(total) == (int(exact) if whole else float(exact))
    assert Mean("n").result(mean) == (float(exact / len(present)) if present else None)


@unhurried
@given(st.lists(st.text(max_size=2)), st.integers(1, 4))
def test_count_by_gives_the_first_texts_their_exact_counts(texts, keys_max):
    state = CountBy("type", keys_max=keys_max).fold_column([0] * len(texts), texts).get(0, {})
    first = sorted(set(texts) - {OTHER})[:keys_max]
    expected = {text: texts.count(text) for text in first}
    other = len(texts) - sum(expected.values())
    assert state == expected | ({OTHER: other} if other else {})


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_prices_add_up_to_the_cent_in_any_order(seed):
    rng = random.Random(seed)
    prices = [0.01] * 10_000 + [1e9] * 3
    rng.shuffle(prices)
    state = Sum("n").initial()
    for at in range(0, len(prices), 100):
        part = prices[at : at + 100]
        state = Sum("n").merge(state, Sum("n").fold_column(["g"] * len(part), part)["g"])
    assert Sum("n").result(state) == float(Fraction(0.01) * 10_000 + 3 * 10**9)


@unhurried
@given(st.lists(numbers, max_size=60))
def test_a_variance_is_exact_and_rounded_once(values):
    present = [value for value in values if value is not None]
    # What is smaller than 1e-138 has a square that two floats can't hold: it shows only beside nothing else.
    present = [value for value in present if not 0 < abs(value) < 1e-138]
    state = Variance("n", population=True).fold_column(["g"] * len(present), present).get("g", (0, 0, 0))
    shown = Variance("n", population=True).result(state)
    if present:
        exact = list(map(Fraction, present))
        mean = sum(exact) / len(exact)
        assert shown == float(sum((value - mean) ** 2 for value in exact) / len(exact))
    else:
        assert shown is None


@unhurried
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=250), st.floats(0, 1))
def test_a_quantile_of_few_numbers_is_exact(values, q):
    state = Quantile("n", q).fold_column(["g"] * len(values), values)["g"]
    shown = Quantile("n", q).result(state)
    assert shown in values
    assert sum(value <= shown for value in values) >= q * len(values)
    less = [value for value in values if value < shown]
    assert len(less) < q * len(values) or not less


@unhurried
@given(st.data())
def test_first_last_and_collect_follow_the_time_of_events_and_not_their_order(data):
    times = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=30))
    rows = [(time, data.draw(st.integers(0, 2)), offset, f"v{offset}") for offset, time in enumerate(times)]
    in_order = [row[3] for row in sorted(rows)]
    shuffled = data.draw(st.permutations(rows))
    kinds: list[tuple[Aggregate, Any]] = [
        (First("n"), in_order[0]),
        (Last("n"), in_order[-1]),
        (Collect("n", max=5), in_order[:5]),
    ]
    for kind, expected in kinds:
        cut = data.draw(st.integers(0, len(rows)))
        state = kind.initial()
        for part in (shuffled[:cut], shuffled[cut:]):
            state = kind.merge(state, kind.fold_column([0] * len(part), part).get(0, kind.initial()))
        assert kind.result(state) == expected
