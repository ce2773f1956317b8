"""One line for each broker and change of state, whatever fails how often."""

from __future__ import annotations

import logging

import pytest

from streamflow.testing import ManualClock
from streamflow.transports.kafka.broker_states import BrokerStates


async def test_a_broker_that_is_away_has_a_line_then_one_every_30_s_and_one_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    states = BrokerStates(clock)
    with caplog.at_level(logging.INFO, "streamflow"):
        for _ in range(750):
            states.failed(3, "connection refused")
            states.answered(1)
            await clock.advance(100)
        states.answered(3)
        states.answered(3)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "Broker 3 does not answer, and is tried again: connection refused",
        "Broker 3 has not answered for 30 s, still trying (301 times): connection refused",
        "Broker 3 has not answered for 60 s, still trying (601 times): connection refused",
        "Broker 3 answers again after 75.0 s",
    ]


async def test_one_that_comes_and_goes_has_two_lines_in_30_s(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    states = BrokerStates(clock)
    with caplog.at_level(logging.INFO, "streamflow"):
        for _ in range(290):
            states.failed(3, "no answer")
            states.answered(3)
            await clock.advance(100)
    assert len(caplog.records) == 2


def test_what_is_only_slow_is_asked_last_and_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    states = BrokerStates(ManualClock())
    with caplog.at_level(logging.INFO, "streamflow"):
        states.slow(3)
        assert states.is_silent(3)
        assert not states.is_silent(1)
        states.answered(3)
    assert not states.is_silent(3)
    assert not caplog.records


def test_a_cluster_that_is_gone_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    states = BrokerStates(ManualClock())
    with caplog.at_level(logging.INFO, "streamflow"):
        for _ in range(50):
            states.nobody()
        states.somebody(anew=True)
        for _ in range(50):
            states.somebody(anew=False)
    assert len(caplog.records) == 2


async def test_a_broker_that_refuses_is_tried_once_a_second_at_most_until_it_answers() -> None:
    clock = ManualClock()
    states = BrokerStates(clock)
    assert states.wait_ms(3) == 0
    waits: list[float] = []
    for _ in range(8):
        states.refused(3, "connection refused")
        waits.append(states.wait_ms(3))
        await clock.advance(int(waits[-1]))
        assert states.wait_ms(3) == 0
    assert waits == [50, 100, 200, 400, 800, 1_000, 1_000, 1_000]
    states.refused(3, "connection refused")
    states.answered(3)
    assert states.wait_ms(3) == 0
