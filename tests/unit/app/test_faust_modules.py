"""Faust's modules by our name: every public name of every module that Faust documents."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

import faust
import pytest

import streamflow
from streamflow import WindowError
from streamflow.app.streams.event import EngineEvent
from streamflow.windows import HoppingWindow, SlidingWindow, TumblingWindow
from tests.support.running import make_app

ROOT = Path(__file__).parents[3]
# Modules that nobody can import, by Faust's name either, without a package that is no requirement of Faust's.
NEEDS = {"faust.sensors.prometheus": "prometheus_client"}
# Public names of Faust's that a class of ours has too, but for something else: Faust's stays.
OTHERWISE_CALLED = {
    "Event",  # the events of a stream, which streamflow.EventT is for; streamflow.Event is a model
    "DecodeError",  # what schemas raise, with KeyDecodeError and ValueDecodeError below it
}
# What our counterparts that `streamflow` does not offer by name stand in the place of.
PARTS = {
    "BootStrategy": "streamflow.app.worker.service",
    "LiveCheck": "streamflow.app.livecheck",
    "Router": "streamflow.app.worker.key_routing",
    "WindowSet": "streamflow.app.tables.windowed",
    "WindowWrapper": "streamflow.app.tables.windowed",
    "WindowedItemsView": "streamflow.app.tables.windowed",
    "WindowedKeysView": "streamflow.app.tables.windowed",
    "WindowedValuesView": "streamflow.app.tables.windowed",
}


def documented() -> list[str]:
    """The public modules of Faust: its reference lists each of them."""
    found = (module.name for module in walk_packages(faust.__path__, "faust."))
    return [name for name in found if not any(part.startswith("_") for part in name.split("."))]


def public_names(module: ModuleType) -> list[str]:
    """What it says itself, else what it defines."""
    defined = [
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    ]
    return list(getattr(module, "__all__", [name for name in defined if not name.startswith("_")]))


def expected(name: str, theirs: object) -> Any:
    """What is to be imported by the name of something of Faust's."""
    if isinstance(theirs, ModuleType):
        return import_module(theirs.__name__.replace("faust", "streamflow", 1))
    if theirs is getattr(faust, name, None) and name not in OTHERWISE_CALLED:
        return getattr(streamflow, name)
    return theirs


@pytest.mark.filterwarnings("ignore")  # what Faust's own modules warn of when they are imported
@pytest.mark.parametrize("theirs_name", documented())
def test_every_public_name_of_a_module_is_imported_by_our_name(theirs_name: str) -> None:
    name = theirs_name.replace("faust", "streamflow", 1)
    needed = NEEDS.get(theirs_name)
    if needed is not None and find_spec(needed) is None:
        for each in (theirs_name, name):
            with pytest.raises(NameError):
                import_module(each)
        return
    theirs, ours = import_module(theirs_name), import_module(name)
    imported: dict[str, Any] = {}
    for public in public_names(theirs):
        exec(f"from {name} import {public}", imported)  # as users write it
        found, original = imported[public], getattr(theirs, public)
        if public in PARTS:
            assert found.__module__ == PARTS[public]
        else:
            assert found is expected(public, original), public
    package, _, last = theirs_name.rpartition(".")
    assert getattr(import_module(package.replace("faust", "streamflow", 1)), last) is ours
    assert getattr(import_module(package), last) is theirs  # Faust itself stays as it is


def imported_from(module: str, *names: str) -> list[Any]:
    return [getattr(import_module(module), name) for name in names]


def test_what_is_made_here_is_of_the_classes_that_are_imported() -> None:
    [wrapper, row, items] = imported_from(
        "streamflow.tables.wrappers", "WindowWrapper", "WindowSet", "WindowedItemsView"
    )
    [keys, values] = imported_from("streamflow.tables.wrappers", "WindowedKeysView", "WindowedValuesView")
    [base, strategy] = imported_from("streamflow.app.base", "App", "BootStrategy")
    [event] = imported_from("streamflow.events", "Event")

    class Own(base):  # type: ignore[misc, valid-type]  # imported by name
        pass

    app = make_app()
    assert isinstance(app, base)
    assert issubclass(Own, streamflow.App)
    assert app.BootStrategy is strategy
    assert isinstance(app.Table("plain"), *imported_from("streamflow.tables", "Table"))
    windowed = app.Table("t", default=int).tumbling(10)
    assert isinstance(windowed, wrapper)
    assert isinstance(windowed["key"], row)
    assert [type(view) for view in (windowed.keys(), windowed.items(), windowed.values())] == [
        keys,
        items,
        values,
    ]
    assert issubclass(EngineEvent, event)
    [livecheck] = imported_from("streamflow.livecheck", "LiveCheck")
    assert type(app.LiveCheck()) is livecheck
    assert issubclass(livecheck, streamflow.App)


def test_our_modules_stay_ours_whatever_was_imported_before() -> None:
    script = """
import faust.cli.faust, faust.web.views, faust.windows
from streamflow.cli import send, worker
from streamflow.cli.worker import command, worker as fausts
from streamflow.web import View, WebServer, views
from streamflow.tables import *
from streamflow.types import settings
import streamflow
assert (worker.__name__, send.__name__) == ("streamflow.cli.worker", "streamflow.cli.send")
assert fausts is faust.cli.worker.worker and command is worker.command
assert views is faust.web.views and View is views.View
assert Table is streamflow.Table is streamflow.tables.table.Table and TableT is streamflow.types.TableT
assert settings.Settings is streamflow.Settings is not faust.types.settings.Settings
assert faust.tables.Table is not Table
try:
    from streamflow.web import Nonsense
except ImportError as exc:
    assert "streamflow.web" in str(exc)
else:
    raise AssertionError
"""
    run(script)


def test_importing_streamflow_imports_no_more_of_faust_than_it_needs() -> None:
    run(
        "import sys, streamflow\n"
        "seldom = ('cli.faust', 'cli.worker', 'contrib', 'livecheck', 'assignor', 'stores.memory')\n"
        "names = {f'{top}.{name}' for name in seldom for top in ('faust', 'streamflow')}\n"
        "assert not names & set(sys.modules)"
    )


def run(script: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert told.returncode == 0, told.stderr


def test_a_window_of_one_class_is_made_in_both_forms() -> None:
    [tumbling, hopping] = imported_from("streamflow.windows", "TumblingWindow", "HoppingWindow")
    assert (tumbling, hopping) == (streamflow.TumblingWindow, streamflow.HoppingWindow)
    assert repr(TumblingWindow(10, 60)) == (
        "TumblingWindow(size_s=10, grace_s=60, retain_s=0, offset_s=0, idle_close_s=10)"
    )
    assert repr(HoppingWindow(10, 5)) == (
        "HoppingWindow(size_s=10, step_s=5, grace_s=0, retain_s=86400, offset_s=0, idle_close_s=10)"
    )
    for wrong in ({"grace_s": 0}, {"retain_s": 86_400}):
        with pytest.raises(WindowError, match="besides"):
            TumblingWindow(10, expires=60, **wrong)
        with pytest.raises(WindowError, match="besides"):
            HoppingWindow(10, 5, expires=60, **wrong)
    with pytest.raises(WindowError, match="needs step_s"):
        HoppingWindow(10)
    with pytest.raises(TypeError):
        SlidingWindow(5, 5, 60)  # type: ignore[call-arg]  # Faust's form
