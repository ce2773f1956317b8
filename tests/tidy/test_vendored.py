"""What is carried of others is what their authors published, and their licenses come with it."""

from __future__ import annotations

import pathlib

from tests.support import vendored
from tests.tidy import rules

FOLDERS = ("streamflow/web/static/vendor/", "tests/browser/vendor/")


def test_every_vendored_file_is_the_one_of_the_lock() -> None:
    assert list(vendored.offences(vendored.locked())) == []


def test_nothing_is_vendored_without_lock_or_license() -> None:
    packages = vendored.locked()
    paths = {entry["path"] for package in packages.values() for entry in package["files"].values()}
    committed = {name for name in rules.committed_files() if name.startswith(FOLDERS)}
    assert committed == paths
    assert all("LICENSE" in package["files"] for package in packages.values())


def test_a_changed_or_missing_file_is_found(tmp_path: pathlib.Path) -> None:
    entries = {"a.js": {"path": "a.js", "sha256": "00"}, "b.js": {"path": "b.js", "sha256": "00"}}
    (tmp_path / "a.js").write_text("changed")
    found = list(vendored.offences({"some": {"version": "1", "files": entries}}, tmp_path))
    assert len(found) == 2
    assert "a.js is not a.js of some 1" in found[0]
    assert "b.js of some is not there" in found[1]


def test_integrity_is_written_as_npm_writes_it() -> None:
    assert vendored.integrity(b"").startswith("sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP")
