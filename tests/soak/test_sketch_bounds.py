"""Ten million values through each sketch, in columns, partitions and merges: the stated error holds."""

from __future__ import annotations

import math
import random
from collections import Counter

import orjson
import pytest

from streamflow.aggregates import Aggregate, ApproxDistinct, Quantile, TopK

VALUES = 10_000_000
PARTITIONS = 8
COLUMN = 100_000


def sketched(aggregate: Aggregate, make):
    """The state of all columns: folded into their partition's, restored from JSON now and then, merged."""
    shares = [aggregate.initial() for _ in range(PARTITIONS)]
    groups = ["g"] * COLUMN
    for at in range(VALUES // COLUMN):
        delta = aggregate.fold_column(groups, make(at))["g"]
        share = aggregate.merge(shares[at % PARTITIONS], delta)
        if at % 7 == 0:
            share = aggregate.load(orjson.loads(orjson.dumps(aggregate.dump(share))))
        shares[at % PARTITIONS] = share
    state = aggregate.copy(shares[0])
    for share in shares[1:]:
        state = aggregate.merge(state, share)
    return state


@pytest.mark.parametrize("repeats", [1, 8])
def test_approx_distinct_counts_ten_million_values_within_three_standard_errors(repeats):
    aggregate = ApproxDistinct("user")
    different = VALUES // repeats

    def column(at):
        return [f"user-{number % different}" for number in range(at * COLUMN, (at + 1) * COLUMN)]

    state = sketched(aggregate, column)
    assert abs(aggregate.result(state) - different) <= 3 * 1.04 / math.sqrt(2**12) * different
    assert len(orjson.dumps(aggregate.dump(state))) < 6_000


def test_top_k_counts_ten_million_values_of_a_long_tail_within_its_error():
    aggregate = TopK("page", 300)
    rng = random.Random(5)
    exact: Counter[str] = Counter()

    def column(at):
        values = [f"page-{int(rng.paretovariate(0.4))}" for _ in range(COLUMN)]
        exact.update(values)
        return values

    state = sketched(aggregate, column)
    shown = aggregate.result(state)
    bound = 3.5 / 1_024 * VALUES
    assert len(exact) > 100_000, "more different values than it has counters for"
    assert any(item["error"] for item in shown)
    for item in shown:
        assert item["error"] <= bound
        assert item["count"] - item["error"] <= exact[item["value"]] <= item["count"]
    frequent = {value for value, count in exact.items() if count > bound}
    assert len(frequent) > 5
    assert frequent <= {item["value"] for item in shown}
    assert len(orjson.dumps(aggregate.dump(state))) < 40_000


@pytest.mark.parametrize("seed", [1, 2])
def test_a_quantile_of_ten_million_numbers_has_the_stated_rank(seed):
    qs = (*(step / 20 for step in range(1, 20)), 0.99, 0.999)
    aggregate = Quantile("ms", qs)
    rng = random.Random(seed)
    every: list[float] = []

    def column(at):
        # The level drifts, so that partitions and columns hold different numbers.
        values = [rng.lognormvariate(at / 100, 1) for _ in range(COLUMN)]
        every.extend(values)
        return values

    state = sketched(aggregate, column)
    assert state.count == VALUES
    assert len(orjson.dumps(aggregate.dump(state))) < 25_000
    every.sort()
    for q, shown in zip(qs, aggregate.result(state).values(), strict=True):
        assert abs(_rank(every, shown) - q) <= 0.011, f"q={q}"


def _rank(every: list[float], number: float) -> float:
    from bisect import bisect_right

    return bisect_right(every, number) / len(every)
