"""``streamflow worker -A MODULE``."""

from __future__ import annotations

import importlib
import os
import sys

import click

from streamflow.settings import PREFIX


@click.command()
@click.option("-A", "--app", "module", required=True, metavar="MODULE", help="Module that has the app.")
@click.option("-p", "--port", type=click.IntRange(0, 65_535), help="Port of the web view.")
@click.option("-l", "--loglevel", default="info", show_default=True)
def worker(module: str, port: int | None, loglevel: str) -> None:
    """Runs a worker of an app until it is stopped."""
    from streamflow.app import App
    from streamflow.cli.running import run_worker

    if port is not None:
        os.environ[PREFIX + "WEB_PORT"] = str(port)
    sys.path.insert(0, "")
    found = getattr(importlib.import_module(module), "app", None)
    if not isinstance(found, App):
        raise click.UsageError(f"module {module!r} has no streamflow.App named app")
    run_worker(found, loglevel)
