"""``pytest tests/simulation --seed N`` (or STREAMFLOW_SEED=N) replays one seed and tells its story."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="replay this seed of the simulation")


@pytest.fixture
def chosen_seed(request: pytest.FixtureRequest) -> int | None:
    """The seed to be replayed; ``None``: the usual ones."""
    chosen: int | None = request.config.getoption("--seed", default=None)
    text = os.environ.get("STREAMFLOW_SEED")
    return chosen if chosen is not None else int(text) if text else None
