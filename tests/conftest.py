"""Rules for every test, wherever it lies."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Generator
from typing import Final

import pytest

IN_CI = bool(os.environ.get("CI"))

# Files that take minutes, and folders: in this order, so that neither of two processes that share the suite
# (`make test`) is left alone with a long file at the end.
LONG_FIRST: Final = (
    "simulation/test_engine.py", "faults/test_cluster.py", "faults/test_rounds.py",
    "integration", "faults", "browser", "soak", "simulation", "property", "contract",
)  # fmt: skip


def place_in_order(path: pathlib.Path) -> int:
    """Where in `LONG_FIRST` the file or its folder stands; all others come last."""
    within = path.relative_to(pathlib.Path(__file__).parent)
    names = (within.as_posix(), within.parts[0])
    return min((LONG_FIRST.index(name) for name in names if name in LONG_FIRST), default=len(LONG_FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place_in_order(item.path))


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """A laptop without a broker or a browser may skip; in CI what did not run has failed."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"must run in CI, but: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI:
        fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI:
        fail_if_skipped(report)
    return report
