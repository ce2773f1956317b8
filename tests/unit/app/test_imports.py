"""The package is loaded when somebody asks for more than its client, whatever is asked for first."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


def test_the_command_runs_as_a_module() -> None:
    assert python("-m", "streamflow.cli", "--version").startswith("streamflow")


def test_a_module_that_is_no_package_runs_too() -> None:
    python("-m", "streamflow.settings")


@pytest.mark.parametrize(
    "name",
    [
        "streamflow.app.app",
        "streamflow.engine.engine",
        "streamflow.cli",
        "streamflow.types",
        "streamflow.app",
    ],
)
def test_a_module_that_is_asked_for_first_is_made_once_and_knows_where_it_is_from(name: str) -> None:
    said = python(
        "-c",
        f"import sys, importlib; module = importlib.import_module({name!r}); import streamflow;"
        f" assert module is sys.modules[{name!r}] is importlib.import_module({name!r});"
        " assert module.__spec__.loader is module.__loader__;"
        " print(streamflow.App is sys.modules['streamflow.app.app'].App, module.__spec__.name)",
    )
    assert said.split()[0] == "True"


def test_a_room_that_is_asked_for_first_is_lent_what_fausts_has() -> None:
    python(
        "-c",
        "import streamflow.app; from streamflow.app import App; import streamflow;"
        " assert App is streamflow.App is streamflow.app.App",
    )


def test_looking_for_a_module_does_not_make_it_anew() -> None:
    said = python(
        "-c",
        "import importlib.util, sys; spec = importlib.util.find_spec('streamflow.app.app');"
        " import streamflow; from streamflow.app.app import App;"
        " print(spec.name, spec.origin.endswith('app.py'), App is streamflow.App)",
    )
    assert said.split() == ["streamflow.app.app", "True", "True"]
