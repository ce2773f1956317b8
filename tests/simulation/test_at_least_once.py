"""Drivers without transactions: crashes in the middle of a checkpoint, whose records stay, lose nothing."""

from __future__ import annotations

import os

import pytest

from tests.simulation.test_engine import RULE_SEEDS_MAX, in_parts, run, told

SEEDS = 200 if os.environ.get("CI") else 100


@pytest.mark.timeout(900)
def test_a_torn_checkpoint_loses_nothing(chosen_seed: int | None) -> None:
    seeds = range(SEEDS) if chosen_seed is None else range(chosen_seed, chosen_seed + 1)
    said = in_parts(seeds, "--plain")
    failures = [line for line in said if "seed" in line]
    assert not failures, told(failures)


def test_without_the_barriers_it_does() -> None:
    said = run(0, RULE_SEEDS_MAX - 1, "--plain", "--without", "barriers", "--until-failure")
    assert said[-1]["failed"] == 1, f"without barriers {RULE_SEEDS_MAX} seeds kept every invariant"
