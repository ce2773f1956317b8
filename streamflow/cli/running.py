"""Runs an app's worker in this process."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

import click
from faust.worker import Worker

from streamflow.errors import ConfigurationError
from streamflow.web.server import WebServer

if TYPE_CHECKING:
    from streamflow.app.app import App


def check_web(app: App) -> None:
    """Ends the command with exit code 2 where the web view could not be opened as it was asked for."""
    server = WebServer(app.settings.web_settings())
    logging.getLogger("streamflow.web.server").disabled = True
    try:
        server.bind()
    except ConfigurationError as exc:
        raise click.UsageError(str(exc)) from exc
    finally:
        logging.getLogger("streamflow.web.server").disabled = False
        if server.url:
            server.release()


def run_worker(app: App, loglevel: str) -> NoReturn:
    """Runs until SIGINT or SIGTERM; exits 0 then, and with 1 when the engine failed."""
    check_web(app)
    Worker(app, loglevel=loglevel).execute_from_commandline()
    raise AssertionError("the worker exits by itself")
