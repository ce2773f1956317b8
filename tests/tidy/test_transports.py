"""The tables that show the drivers' parts side by side name every module, and only modules that are there."""

from __future__ import annotations

import pathlib
import re

import pytest

import streamflow.transports
from tests.tidy import rules

DRIVERS = ("kafka", "redis_streams", "memory")
FOLDER = rules.ROOT / "streamflow" / "transports"
PAGE = rules.ROOT / "docs" / "explanation" / "transports.md"
COMMON = {"base", "connect"}

Table = list[dict[str, str | None]]
"""Rows: driver -> the module that its cell begins with"""


def table_of(text: str) -> Table:
    """Of the first table whose head is ``part`` and the drivers."""
    lines = [line.strip() for line in text.splitlines()]
    begin = lines.index(f"| part | {' | '.join(DRIVERS)} |") + 2
    rows: Table = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        _, *cells = line.strip("|").split(" | ")
        assert len(cells) == len(DRIVERS), line
        named = [re.match(r"\s*`([\w.]+)`", cell) for cell in cells]
        rows.append({driver: found and found[1] for driver, found in zip(DRIVERS, named, strict=True)})
    return rows


def modules_of(folder: pathlib.Path) -> list[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*.py") if path.stem != "__init__")
    return sorted(".".join(path.with_suffix("").parts) for path in paths)


DOCSTRING = streamflow.transports.__doc__ or ""
TABLES = pytest.mark.parametrize(
    "text", [DOCSTRING, PAGE.read_text(encoding="utf-8")], ids=["docstring", "page"]
)


@TABLES
@pytest.mark.parametrize("driver", DRIVERS)
def test_each_module_of_a_driver_is_in_the_table_once_and_no_other_is(text: str, driver: str) -> None:
    named = [module for row in table_of(text) if (module := row[driver]) is not None]
    assert sorted(named) == modules_of(FOLDER / driver)


def test_both_tables_have_the_same_rows() -> None:
    assert table_of(DOCSTRING) == table_of(PAGE.read_text(encoding="utf-8"))


@TABLES
def test_what_drivers_share_is_named_below_the_table(text: str) -> None:
    shared = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"} - COMMON
    assert shared <= set(re.findall(r"`(\w+)`", text.replace("``", "`")))
