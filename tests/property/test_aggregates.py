"""Every aggregate: the same in any order, over any split, and through JSON."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamflow.aggregates import OTHER, Aggregate, Count, CountBy, Max, Mean, Min, Sum

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


def seen(aggregate: Aggregate, states: dict) -> tuple:
    """All there is to see of some states."""
    return (
        {group: aggregate.result(state) for group, state in states.items()},
        {group: repr(aggregate.result(state)) for group, state in states.items()},
        {group: aggregate.load(aggregate.dump(state)) for group, state in states.items()},
    )


@st.composite
def folds(draw):
    aggregate, values = draw(kinds)
    rows = draw(st.lists(st.tuples(st.sampled_from("abc"), values), max_size=25))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    return aggregate, rows, [0, *cuts, len(rows)], draw(st.randoms(use_true_random=False))


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
            before = aggregate.copy(delta)
            merged[group] = aggregate.merge(merged.get(group, aggregate.initial()), delta)
            assert delta == before
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

    assert aggregate.result(both(both(a, b), c)) == aggregate.result(both(a, both(b, c)))
    assert both(both(a, b), c) == both(a, both(b, c))
    assert both(a, b) == both(b, a)
    assert both(a, aggregate.initial()) == a == both(aggregate.initial(), a)


@unhurried
@given(folds())
def test_states_survive_json(case):
    aggregate, rows, _, _ = case
    for state in by_one(aggregate, rows).values():
        loaded = aggregate.load(orjson.loads(orjson.dumps(aggregate.dump(state))))
        assert loaded == state
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
        assert aggregate.copy(copied) == aggregate.load(orjson.loads(before))
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
    state = 0
    for at in range(0, len(prices), 100):
        part = prices[at : at + 100]
        state = Sum("n").merge(state, Sum("n").fold_column(["g"] * len(part), part)["g"])
    assert Sum("n").result(state) == float(Fraction(0.01) * 10_000 + 3 * 10**9)
