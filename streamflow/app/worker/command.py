"""``faust -A MODULE worker`` for an app of ours. To import it is to register it, as with Faust's own."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import warnings
from pathlib import Path
from typing import Any

from faust.cli.worker import worker as faust_worker
from faust.exceptions import AlreadyConfiguredWarning
from faust.types._env import DATADIR
from mode import ServiceT, Worker
from mode.utils.logging import level_name

from streamflow.app.interface import AppT
from streamflow.settings import version


class worker(faust_worker):  # noqa: N801  # the name of the command
    """Start worker instance for given app."""

    app: AppT

    def as_service(self, loop: asyncio.AbstractEventLoop, *args: Any, **kwargs: Any) -> ServiceT:
        if self.datadir and self.datadir != DATADIR:
            # Faust reads it from a variable that it sets only when the app has been made. All that asks
            # for it asks later than now.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AlreadyConfiguredWarning)
                self.app.conf.datadir = Path(self.datadir)
        service: ServiceT = super().as_service(loop, *args, **kwargs)
        return service

    def _banner_title(self) -> str:
        return f"streamflow {version()}"

    def _banner_data(self, worker: Worker) -> list[tuple[str, str]]:
        app, conf = self.app, self.app.conf
        level = level_name(worker.loglevel or "WARN").lower()
        declared = [(kind, ", ".join(names)) for kind, names in app.declared().items() if names]
        where = f"{socket.gethostname()}, process {os.getpid()}"
        return [
            ("app", conf.id),
            ("broker", f"{app.broker_url} ({app.engine_settings.processing_guarantee})"),
            ("dashboard", dashboard(app)),
            *declared,
            ("store", str(conf.store)),
            ("datadir", str(conf.datadir.absolute())),
            ("log", f"{worker.logfile or 'stderr'} ({level})"),
            ("runs on", f"{where}, {platform.python_implementation()} {platform.python_version()}"),
        ]


def dashboard(app: AppT) -> str:
    """Where it will be; which port is free is known when the worker has bound it, and says so."""
    if not app.conf.web_enabled:
        return "none (--without-web)"
    settings = app.settings.web_settings()
    if settings.port == 0:
        return f"{settings.scheme}://{settings.host}, on a free port"
    url = f"{settings.scheme}://{settings.host}:{settings.port}"
    return url if settings.port_explicit else f"{url}, or the next free port"
