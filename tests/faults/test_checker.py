"""The checker finds each way in which a log can be wrong; a checker that can't fail proves nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from tests.faults import checker
from tests.faults.checker import Seen
from tests.faults.workload import PARTITIONS, event

KEY = "k5"


def right() -> tuple[Seen, Seen]:
    """(what is expected, what was seen), the same."""
    wanted = checker.expected(map(event, range(6_000)), dict.fromkeys(range(PARTITIONS), 1_500))
    seen = copy.deepcopy(wanted)
    seen.closed = list(seen.windows.items())
    return wanted, seen


def drop(seen: Seen) -> None:
    del seen.outputs[KEY][10]


def duplicate(seen: Seen) -> None:
    seen.outputs[KEY].insert(10, seen.outputs[KEY][10])


def swap(seen: Seen) -> None:
    rows = seen.outputs[KEY]
    rows[10], rows[11] = rows[11], rows[10]


def phantom(seen: Seen) -> None:
    seen.outputs["nobody"] = [(0, 1)]


def count_plus_one(seen: Seen) -> None:
    at = next(iter(seen.windows))
    count, amount = seen.windows[at]
    seen.windows[at] = (count + 1, amount)


def aborted_visible(seen: Seen) -> None:
    """A checkpoint that was given up and made again, both of them to be read."""
    rows = seen.outputs[KEY]
    seen.outputs[KEY] = rows[:20] + rows[10:20] + rows[20:]


def sum_plus_one(seen: Seen) -> None:
    seen.sums[KEY] += 1


def closed_twice(seen: Seen) -> None:
    seen.closed.append(seen.closed[3])


def closed_never(seen: Seen) -> None:
    del seen.closed[3]


def offset_behind(seen: Seen) -> None:
    seen.offsets[2] -= 1


WRONG = (
    drop,
    duplicate,
    swap,
    phantom,
    count_plus_one,
    aborted_visible,
    sum_plus_one,
    closed_twice,
    closed_never,
    offset_behind,
)


def test_a_right_log_passes() -> None:
    assert checker.exactly_once(*right(), closed=True) == []
    assert checker.at_least_once(*right()) == []


@pytest.mark.parametrize("spoil", WRONG)
def test_a_wrong_log_fails(spoil: Callable[[Seen], None]) -> None:
    wanted, seen = right()
    spoil(seen)
    assert len(checker.exactly_once(wanted, seen, closed=True)) == 1


@pytest.mark.parametrize("spoil", [drop, swap, phantom, offset_behind])
def test_at_least_once_forgives_neither_loss_nor_disorder_nor_inventions(
    spoil: Callable[[Seen], None],
) -> None:
    wanted, seen = right()
    spoil(seen)
    assert checker.at_least_once(wanted, seen)


@pytest.mark.parametrize("spoil", [duplicate, aborted_visible, count_plus_one, sum_plus_one])
def test_at_least_once_forgives_what_came_twice(spoil: Callable[[Seen], None]) -> None:
    wanted, seen = right()
    spoil(seen)
    assert checker.at_least_once(wanted, seen) == []


def test_a_sum_that_is_too_low_is_a_loss() -> None:
    wanted, seen = right()
    seen.sums[KEY] -= 1
    assert checker.at_least_once(wanted, seen)
