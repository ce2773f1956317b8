"""In CI a skipped test is a failed test; on a laptop it is skipped."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

CONFTEST = pathlib.Path(__file__).resolve().parents[1] / "conftest.py"

SKIPPING = """
import pytest

def test_that_finds_no_broker():
    pytest.skip("no broker")

@pytest.mark.xfail(reason="known", strict=True)
def test_that_is_known_to_fail():
    assert False
"""

SKIPPED_WHOLE = """
import pytest
pytest.skip("no browser", allow_module_level=True)
"""


def run_pytest(folder: pathlib.Path, source: str, *, ci: bool) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_it.py").write_text(source, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    if ci:
        environment["CI"] = "true"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "."]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("source, reason", [(SKIPPING, "no broker"), (SKIPPED_WHOLE, "no browser")])
def test_what_is_skipped_fails_in_ci(tmp_path: pathlib.Path, source: str, reason: str) -> None:
    done = run_pytest(tmp_path, source, ci=True)
    assert done.returncode not in {0, 5}, done.stdout
    assert f"must run in CI, but: Skipped: {reason}" in done.stdout


def test_what_is_skipped_on_a_laptop_stays_skipped(tmp_path: pathlib.Path) -> None:
    done = run_pytest(tmp_path, SKIPPING, ci=False)
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout
