"""The app that ``-A`` names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from faust.cli.base import find_app

from streamflow.app.app import App

app_option = click.option(
    "-A", "--app", "module", required=True, metavar="MODULE", help="The app's module, or module:name."
)


def load(module: str) -> App:
    """Imports an app, the working directory included. Raises ClickException where there is none."""
    name, _, attribute = module.partition(":")
    try:
        app: Any = find_app(module)
    except (ImportError, AttributeError) as exc:
        raise click.BadParameter(_why(name, attribute or "app", exc), param_hint="-A") from exc
    if not isinstance(app, App):
        raise click.BadParameter(f"{module} is no streamflow.App but {type(app).__name__}", param_hint="-A")
    return app


def _why(module: str, attribute: str, exc: ImportError | AttributeError) -> str:
    """What is wrong with ``MODULE:ATTRIBUTE``, and what would do."""
    loaded = sys.modules.get(module)
    if loaded is not None and not hasattr(loaded, attribute):
        apps = [f"{module}:{name}" for name, value in vars(loaded).items() if isinstance(value, App)]
        return f"module {module} has no {attribute!r}; its apps are: {', '.join(apps) or 'none'}"
    if loaded is not None and not isinstance(getattr(loaded, attribute), App):
        return f"{module}:{attribute} is no streamflow.App but {type(getattr(loaded, attribute)).__name__}"
    missing = exc.name if isinstance(exc, ModuleNotFoundError) else None
    if missing is None:
        return f"{module} can't be imported: {exc}"
    if not f"{module}.".startswith(f"{missing}."):
        return f"{module} imports {missing}, which is not installed here"
    where = f"in {Path.cwd()} or on the path (PYTHONPATH)"
    return f"there is no module {missing} {where}; -A takes MODULE or MODULE:NAME, without .py"


def override(app: App, **settings: object) -> None:
    """Settings by the command line, which wins over the environment and the code; None: not given."""
    for name, value in settings.items():
        if value is not None:
            setattr(app.conf, name, value)
