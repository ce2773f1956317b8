"""Faust's modules under this package's name: ``from streamflow.types import AppT`` gives Faust's own.

Our modules come first; what a module of Faust's has, and ours of that name lacks, is listed in `LENT`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

OURS, THEIRS = "streamflow.", "faust."
LENT = {
    "streams": ("Stream", "current_event"),
    "web": ("Blueprint", "Request", "Response", "View", "Web", "gives_model", "takes_model"),
}


class FaustModules(MetaPathFinder, Loader):
    """Finds what is no module of ours.

    ``in_lent``: modules of packages that are Faust's. It is asked for those first, since their folders would
    give each module a second time, and for modules of our packages last.
    """

    def __init__(self, *, in_lent: bool) -> None:
        self._in_lent = in_lent

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(OURS):
            return None
        package = sys.modules[fullname.rpartition(".")[0]]
        if package.__name__.startswith(OURS[:-1]) is self._in_lent or find_spec(_theirs(fullname)) is None:
            return None
        return ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        # The very same module, so that its classes are the same too; importing gives what stands here.
        sys.modules[module.__name__] = importlib.import_module(_theirs(module.__name__))


def _theirs(name: str) -> str:
    return THEIRS + name.removeprefix(OURS)


def lend() -> None:
    """Makes Faust's modules importable by our name; those that it has imported are attributes at once."""
    sys.meta_path.insert(0, FaustModules(in_lent=True))
    sys.meta_path.append(FaustModules(in_lent=False))
    package = sys.modules["streamflow"]
    for name in [name.removeprefix(THEIRS) for name in sys.modules if name.startswith(THEIRS)]:
        if "." not in name and not hasattr(package, name) and find_spec(OURS + name) is not None:
            importlib.import_module(OURS + name)
    for name, lent in LENT.items():
        ours, theirs = importlib.import_module(OURS + name), importlib.import_module(THEIRS + name)
        for each in lent:
            setattr(ours, each, getattr(theirs, each))
