"""What a worker starts: sensors, and one service that owns the engine and its web view."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from faust.app.base import BootStrategy as FaustBootStrategy
from faust.transport.base import Transport as FaustTransport
from mode import Service

from streamflow.watching import Watcher
from streamflow.web.server import WebServer

if TYPE_CHECKING:
    from streamflow.app import App

GC_THRESHOLDS = (50_000, 20, 50)
"""Collections are rare, not off: users' cyclic data is still found."""


class NoTransport(FaustTransport):
    """Stands where Faust expects a transport; nothing is ever sent through it."""

    driver_version = "streamflow"


class EngineService(Service):
    """Owns the engine and the web view. An engine that fails crashes the worker with its error."""

    def __init__(self, app: App, **kwargs: Any) -> None:
        self.app = app
        self.web: WebServer | None = None
        super().__init__(**kwargs)

    async def on_start(self) -> None:
        app = self.app
        engine = app.prepare_engine()
        url = ""
        if app.conf.web_enabled:
            self.web = WebServer(app.web_settings())
            url = self.web.bind()
            watcher = Watcher(engine, url)
            await self.web.start(watcher)
            self.log.info("web view at %s", url)
            await engine.start(url)
            watcher.open()
        else:
            await engine.start(url)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    async def on_stop(self) -> None:
        if self.web is not None:
            await self.web.stop()
        await self.app.engine.stop()
        gc.unfreeze()

    @Service.task
    async def _watch(self) -> None:
        engine = self.app.engine
        await self.wait(engine.failed.wait())
        if engine.failure is not None and not self.should_stop:
            await self.crash(engine.failure)


class BootStrategy(FaustBootStrategy):
    """Sensors and the engine; none of Faust's consumer, producer, conductor and table manager."""

    def server(self) -> Iterable[Any]:
        return self._chain(self.sensors(), [cast("App", self.app).engine_service])

    def client_only(self) -> Iterable[Any]:
        return self._chain([])

    def producer_only(self) -> Iterable[Any]:
        return self._chain([])
