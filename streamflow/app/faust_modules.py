"""Faust's modules under this package's name: ``from streamflow.tables import Table`` works as Faust's does.

A module of Faust's is found in one of three ways. Most are the very same module. Those of `MENDED` have
names in whose place ours stand: they are modules of their own that give Faust's names except those of
`COUNTERPARTS`. Where we have a module of the same name it stays ours, and is lent what it lacks (`ROOMS`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from pkgutil import resolve_name
from types import ModuleType

OURS, THEIRS = "streamflow.", "faust."
COUNTERPARTS = {
    "faust.agents.agent:Agent": "streamflow.app.agents.agent:Agent",
    "faust.app.base:App": "streamflow.app.app:App",
    "faust.app.base:BootStrategy": "streamflow.app.worker.service:BootStrategy",
    "faust.app.router:Router": "streamflow.app.worker.key_routing:Router",
    "faust.livecheck.app:LiveCheck": "streamflow.app.livecheck:LiveCheck",
    "faust.tables.globaltable:GlobalTable": "streamflow.app.tables.global_table:GlobalTable",
    "faust.tables.sets:SetGlobalTable": "streamflow.app.tables.set_table:SetGlobalTable",
    "faust.tables.sets:SetTable": "streamflow.app.tables.set_table:SetTable",
    "faust.tables.table:Table": "streamflow.app.tables.table:Table",
    "faust.tables.wrappers:WindowSet": "streamflow.app.tables.windowed:WindowedRow",
    "faust.tables.wrappers:WindowWrapper": "streamflow.app.tables.windowed:WindowedTable",
    "faust.tables.wrappers:WindowedItemsView": "streamflow.app.tables.windowed:ItemsView",
    "faust.tables.wrappers:WindowedKeysView": "streamflow.app.tables.windowed:KeysView",
    "faust.tables.wrappers:WindowedValuesView": "streamflow.app.tables.windowed:ValuesView",
    "faust.topics:Topic": "streamflow.app.topics.topic:Topic",
    "faust.types.settings.settings:Settings": "streamflow.app.settings:Settings",
    "faust.worker:Worker": "streamflow.app.worker.process:Worker",
}
"""Faust's class, where it is defined -> ours, which is imported when somebody asks for it."""

MENDED = frozenset(
    {
        "agents",
        "agents.agent",
        "app.base",
        "app.router",
        "livecheck",
        "livecheck.app",
        "tables",
        "tables.globaltable",
        "tables.sets",
        "tables.table",
        "tables.wrappers",
        "topics",
        "types",  # for its `settings`: a module is an attribute of its package
        "types.settings",
        "types.settings.settings",
        "worker",
    }
)
ROOMS = frozenset({"app", "web"})  # imported with this package; `cli` says itself what it is lent
COMMANDS = frozenset({"cli.reset", "cli.send", "cli.tables", "cli.worker"})


class RoomLoader(SourceFileLoader):
    """Loads a module of ours that is to be lent what Faust's of that name has."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _lend_names(module)


class FaustModules(MetaPathFinder, Loader):
    """Finds what is no module of ours.

    ``in_lent``: modules of packages that are Faust's. It is asked for those first, since their folders would
    give each module a second time, and for modules of our packages, and of mended ones, last.
    """

    def __init__(self, *, in_lent: bool) -> None:
        self._in_lent = in_lent

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(OURS):
            return None
        name = fullname.removeprefix(OURS)
        if self._in_lent and name in COMMANDS:
            return _spec_of_room(fullname, path)
        package = sys.modules[fullname.rpartition(".")[0]]
        if package.__name__.startswith(OURS[:-1]) is self._in_lent:
            return None
        found = find_spec(_theirs(fullname))
        if found is None:
            return None
        return ModuleSpec(fullname, self, is_package=found.submodule_search_locations is not None)

    def exec_module(self, module: ModuleType) -> None:
        theirs = importlib.import_module(_theirs(module.__name__))
        if module.__name__.removeprefix(OURS) not in MENDED:
            # The very same module, so that its classes are the same too; importing gives what stands here.
            sys.modules[module.__name__] = theirs
            return
        module.__doc__ = theirs.__doc__
        public = [name for name in vars(theirs) if not name.startswith("_")]
        _set(module, __all__=getattr(theirs, "__all__", public), __dir__=lambda: dir(theirs))
        _lend_names(module)


def _spec_of_room(fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
    found = PathFinder.find_spec(fullname, path)
    if found is None or found.origin is None:
        return None
    return spec_from_file_location(fullname, found.origin, loader=RoomLoader(fullname, found.origin))


def _theirs(name: str) -> str:
    return THEIRS + name.removeprefix(OURS)


def _set(module: ModuleType, **attributes: object) -> None:
    vars(module).update(attributes)


def _lend_names(module: ModuleType) -> None:
    """What ``module`` lacks, it gets from Faust's module of that name when somebody asks for it."""
    _set(module, __getattr__=_lender(module.__name__))


def _lender(ours: str) -> Callable[[str], object]:
    def lent(name: str) -> object:
        if not name.startswith("__"):
            theirs = importlib.import_module(_theirs(ours))
            if name in vars(theirs):
                return _ours(vars(theirs)[name])
        raise AttributeError(f"module {ours!r} has no attribute {name!r}")

    return lent


def _ours(value: object) -> object:
    """Our counterpart of something of Faust's, or itself: of a module that by our name."""
    if isinstance(value, ModuleType) and value.__name__.startswith(THEIRS):
        return importlib.import_module(OURS + value.__name__.removeprefix(THEIRS))
    if isinstance(value, type):
        counterpart = COUNTERPARTS.get(f"{value.__module__}:{value.__qualname__}")
        if counterpart is not None:
            return resolve_name(counterpart)
    return value


def lend() -> None:
    """Makes Faust's modules importable by our name; those that it has imported are attributes at once."""
    sys.meta_path.insert(0, FaustModules(in_lent=True))
    sys.meta_path.append(FaustModules(in_lent=False))
    for room in ROOMS:
        _lend_names(importlib.import_module(OURS + room))
    package = sys.modules["streamflow"]
    for name in [name.removeprefix(THEIRS) for name in sys.modules if name.startswith(THEIRS)]:
        if "." not in name and not hasattr(package, name):
            importlib.import_module(OURS + name)
