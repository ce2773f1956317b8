"""Retry and Buffer: what they mean and what they refuse."""

from __future__ import annotations

import math
import random

import pytest

from streamflow.errors import ConfigurationError
from streamflow.processing.buffer import Buffer
from streamflow.processing.retries import Retry


def test_waits_double_up_to_the_longest():
    retry = Retry(attempts=6, first_wait_s=0.1, wait_max_s=0.5, jitter=False)
    waits = [retry.wait_ms(attempt) for attempt in range(1, 6)]
    assert waits == pytest.approx([100, 200, 400, 500, 500])


def test_jitter_takes_up_to_half_off_and_is_the_same_for_the_same_seed():
    retry = Retry(attempts=200, first_wait_s=1, wait_max_s=1)
    one, other = random.Random(7), random.Random(7)
    waits = [retry.wait_ms(attempt, one) for attempt in range(1, 200)]
    assert waits == [retry.wait_ms(attempt, other) for attempt in range(1, 200)]
    assert min(waits) >= 500
    assert max(waits) <= 1_000
    assert max(waits) - min(waits) > 400


def test_a_late_attempt_overflows_nothing():
    assert Retry(jitter=False).wait_ms(1_000_000) == 30_000
    assert Retry(first_wait_s=0, jitter=False).wait_ms(1_000_000) == 0


@pytest.mark.parametrize("attempts", [0, -1, 1.5, True, None, "5"])
def test_attempts_must_be_a_positive_whole_number(attempts):
    with pytest.raises(ConfigurationError, match="attempts"):
        Retry(attempts=attempts)


@pytest.mark.parametrize("name", ["first_wait_s", "wait_max_s"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, 1e9, None, "1", True])
def test_waits_must_be_finite_seconds(name, value):
    with pytest.raises(ConfigurationError, match=name):
        Retry(**{name: value})


@pytest.mark.parametrize("events_max", [0, -1, 1.5, True, None])
def test_a_buffer_holds_at_least_one_event(events_max):
    with pytest.raises(ConfigurationError, match="events_max"):
        Buffer(events_max=events_max)


def test_a_buffer_knows_its_policies():
    assert Buffer().when_full == "block"
    assert Buffer(5, "drop_oldest") == Buffer(events_max=5, when_full="drop_oldest")
    with pytest.raises(ConfigurationError, match="drop_newest"):
        Buffer(when_full="explode")  # type: ignore[arg-type]  # the point of the test
