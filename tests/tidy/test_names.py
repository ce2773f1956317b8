"""The name under which the package is installed: everything asks for the same one."""

from __future__ import annotations

import re
import tomllib

from click.testing import CliRunner

import streamflow
from streamflow.cli import main
from streamflow.settings import DISTRIBUTION
from tests.tidy import rules

STRANGER = re.compile(r"pip install [\"']?streamflow|streamflow\[")


def test_the_distribution_is_found_by_the_name_that_it_is_built_under() -> None:
    project = tomllib.loads((rules.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == DISTRIBUTION
    assert streamflow.__version__ == project["version"]
    assert CliRunner().invoke(main, ["--version"]).output == f"streamflow, version {project['version']}\n"


def test_nobody_is_told_to_install_the_other_project_of_that_name() -> None:
    documents = (rules.ROOT / "docs").rglob("*.md")
    texts = [rules.ROOT / "README.md", *rules.source_files("streamflow"), *documents]
    found = [
        f"{path.relative_to(rules.ROOT)}: {line.strip()}"
        for path in texts
        for line in path.read_text(encoding="utf-8").splitlines()
        if STRANGER.search(line) and "another project" not in line
    ]
    assert found == []
