"""The app that ``-A`` names."""

from __future__ import annotations

from typing import Any

import click
from faust.cli.base import find_app

from streamflow.app.app import App

app_option = click.option(
    "-A", "--app", "module", required=True, metavar="MODULE", help="The app's module, or module:name."
)


def load(module: str) -> App:
    """Imports an app, the working directory included. Raises ClickException where there is none."""
    try:
        app: Any = find_app(module)
    except (ImportError, AttributeError) as exc:
        raise click.BadParameter(f"{module}: {exc}", param_hint="-A") from exc
    if not isinstance(app, App):
        raise click.BadParameter(f"{module} is no streamflow.App", param_hint="-A")
    return app


def override(app: App, **settings: object) -> None:
    """Settings by the command line, which wins over the environment and the code; None: not given."""
    for name, value in settings.items():
        if value is not None:
            setattr(app.conf, name, value)
