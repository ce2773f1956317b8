"""Retry and Buffer: what they mean and what they refuse."""

from __future__ import annotations

import math
import random

import pytest

from streamflow.errors import CircuitOpen, ConfigurationError, UnknownEventType
from streamflow.processing.buffer import Buffer
from streamflow.processing.retries import Retry, Transient


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
    assert Retry(jitter=False).wait_ms(1_000_000) == 10_000
    assert Retry(first_wait_s=0, jitter=False).wait_ms(1_000_000) == 0


@pytest.mark.parametrize("attempts", [0, -1, 1.5, True, "5"])
def test_attempts_must_be_a_positive_whole_number(attempts):
    with pytest.raises(ConfigurationError, match="attempts"):
        Retry(attempts=attempts)


@pytest.mark.parametrize("for_s", [-1, math.nan, math.inf, "60", True])
def test_for_how_long_is_a_number_of_seconds(for_s):
    with pytest.raises(ConfigurationError, match="for_s"):
        Retry(for_s=for_s)


@pytest.mark.parametrize("on", ["OSError", 3, object, (OSError, "x"), ()])
def test_errors_are_told_by_class_or_function(on):
    with pytest.raises(ConfigurationError, match=r"Retry\(on"):
        Retry(on=on)


class Gone(Exception):
    pass


@pytest.mark.parametrize(
    "retry,error,attempts,failing_ms,over",
    [
        # By default an outage is waited for, and a bug is not.
        (Retry(), ConnectionRefusedError(), 50, 59_999, False),
        (Retry(), ConnectionRefusedError(), 1, 60_000, True),
        (Retry(), TimeoutError(), 50, 59_999, False),
        (Retry(), CircuitOpen("billing", 1), 50, 59_999, False),
        (Retry(), Gone(), 50, 59_999, False),
        (Retry(), KeyError("x"), 2, 0, False),
        (Retry(), KeyError("x"), 3, 0, True),
        # Whichever ends first
        (Retry(attempts=5), ConnectionRefusedError(), 4, 1e9, False),
        (Retry(attempts=5), ConnectionRefusedError(), 5, 0, True),
        (Retry(for_s=2), KeyError("x"), 50, 1_999, False),
        (Retry(for_s=2), KeyError("x"), 1, 2_000, True),
        (Retry(attempts=5, for_s=2), KeyError("x"), 4, 1_999, False),
        (Retry(attempts=5, for_s=2), KeyError("x"), 5, 0, True),
        # Only these
        (Retry(on=KeyError), KeyError("x"), 50, 59_999, False),
        (Retry(on=KeyError), ConnectionRefusedError(), 1, 0, True),
        (Retry(3, on=(KeyError, OSError)), ConnectionRefusedError(), 2, 1e9, False),
        (Retry(3, on=lambda error: "x" in str(error)), ValueError("x"), 2, 0, False),
        (Retry(3, on=lambda error: "x" in str(error)), ValueError("y"), 1, 0, True),
        # An event without a handler has none the next time either.
        (Retry(), UnknownEventType("x"), 1, 0, True),
    ],
)
def test_when_an_event_is_given_up(retry, error, attempts, failing_ms, over):
    assert retry.is_over(error, attempts, failing_ms, Transient((Gone,))) is over


@pytest.mark.parametrize("name", ["first_wait_s", "wait_max_s"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, 1e9, None, "1", True])
def test_waits_must_be_finite_seconds(name, value):
    with pytest.raises(ConfigurationError, match=name):
        Retry(**{name: value})


@pytest.mark.parametrize("events_max", [0, -1, 1.5, True, None])
def test_a_buffer_holds_at_least_one_event(events_max):
    with pytest.raises(ConfigurationError, match="events_max"):
        Buffer(events_max=events_max)


@pytest.mark.parametrize("bytes_max", [0, -1, 1.5, True, "1"])
def test_a_limit_of_bytes_is_a_whole_number(bytes_max):
    with pytest.raises(ConfigurationError, match="bytes_max"):
        Buffer(bytes_max=bytes_max)


def test_a_buffer_knows_its_policies():
    assert Buffer().when_full == "block"
    assert Buffer(5, "drop_oldest") == Buffer(events_max=5, when_full="drop_oldest")
    with pytest.raises(ConfigurationError, match="drop_newest"):
        Buffer(when_full="explode")  # type: ignore[arg-type]  # the point of the test
