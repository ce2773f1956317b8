"""What a worker starts: sensors, and one service that owns the engine and its web view."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from aiohttp.web import Application
from faust.app.base import BootStrategy as FaustBootStrategy
from mode import Service

from streamflow.app.interface import AppT
from streamflow.app.topics.producer import RecordProducer
from streamflow.app.topics.publisher import Publisher
from streamflow.app.topics.topic import Topic
from streamflow.app.worker.pages import Pages, add_pages
from streamflow.app.worker.peer_secret import with_secret
from streamflow.app.worker.process import QuietCollector
from streamflow.app.worker.rebalance_signals import RebalanceSignals
from streamflow.app.worker.sensors import Sensors
from streamflow.engine.engine import Engine
from streamflow.query.worker_view import WorkerView
from streamflow.transports.connect import scheme_of
from streamflow.web.server import WebServer


class EngineService(Service):
    """Owns the engine and the web view. An engine that fails crashes the worker with its error."""

    abstract = False

    def __init__(self, app: AppT) -> None:
        self.app = app
        self.web: WebServer | None = None
        self.engine: Engine | None = None
        self.watcher: WorkerView | None = None
        self.producer: RecordProducer | None = None
        self.sensors: Sensors | None = None
        self.live = asyncio.Event()  # since partitions are live for the first time
        self._collector = QuietCollector()
        super().__init__()

    async def on_start(self) -> None:
        app = self.app
        for name, near in app.settings.mistyped.items():
            self.log.warning("%s is no setting: do you mean %s?", name, near)
        if scheme_of(app.broker_url) == "memory" and "broker" not in app.settings.given:
            self.log.warning(
                "no broker was named: all is in memory, and forgotten when this worker ends (setting broker, "
                "STREAMFLOW_BROKER=kafka://host:9092; memory:// says that it is meant)"
            )
        # Channels of this process take what is put, whoever reads them; until then whoever puts would wait.
        app.flow_control.resume()
        # Step 1. Claim the port: its number is part of what tells this worker from others on this machine.
        url = ""
        if app.conf.web_enabled:
            settings = app.settings.web_settings()
            if scheme_of(app.broker_url) != "memory":
                settings = with_secret(settings, app.engine_settings.data_dir)
            self.web = WebServer(settings)
            url = self.web.bind()
        # Step 2. The engine of everything declared; whoever looks at it is told from the beginning.
        self.sensors = Sensors(app)
        self.engine = engine = app.prepare_engine(url, RebalanceSignals(app, self.sensors))
        self.producer = RecordProducer(
            engine, app.conf.producer_max_request_size, declares=app.conf.topic_allow_declare
        )
        self.watcher = watcher = WorkerView(engine, url, self.live.set, publisher=Publisher(app))
        # Step 3. Serve, so that probes are answered while tables come back.
        if self.web is not None:
            await self.web.start(watcher, extend=self._extend)
            self.log.info("dashboard at %s", url)
        # Step 4. All modules are there, and no event is yet: the long collection is now, not between events.
        self.settle()
        engine.watchdog.start()
        engine.note_flights()
        # Step 5. Join the group, advertising the address that was bound.
        await engine.start(url)
        watcher.open()
        if not engine.topology.sources:
            self.live.set()
        self.add_future(self._crash_with_engine())

    def _extend(self, application: Application) -> None:
        if self.app.has_pages:
            add_pages(cast("Pages", self.app.web), application)

    async def start_channels(self) -> None:
        """Agents on channels of this process: nothing is in the log, so Faust's own actors run them."""
        for agent in self.app.agents.values():
            if not isinstance(agent.channel, Topic):
                await self.add_runtime_dependency(agent)

    def settle(self) -> None:
        """Told when everything has been started: what lives now lives long."""
        if self.app.in_worker:
            self._collector.begin()

    async def on_stop(self) -> None:
        try:
            # Step 1. What was sent outside of events is on its way still.
            if self.producer is not None:
                await self.producer.close()
            # Step 2. Live clients are asked to come back later, elsewhere or here.
            if self.web is not None:
                await self.web.stop()
        except TimeoutError:
            self.log.warning("the web view did not end in time")
        finally:
            # Step 3. A last checkpoint; the partitions go to others at once.
            if self.engine is not None:
                await self.engine.stop()
            self._collector.end()

    async def _crash_with_engine(self) -> None:
        engine = self.engine
        assert engine is not None
        await engine.failed.wait()
        if engine.failure is not None and not self.should_stop:
            await self.crash(engine.failure)


class BootStrategy(FaustBootStrategy):
    """Sensors and the engine; none of Faust's consumer, producer, conductor and table manager."""

    app: AppT

    def server(self) -> Iterable[Any]:
        return self._chain(self.sensors(), [self.app.engine_service])

    def client_only(self) -> Iterable[Any]:
        return self._chain([])

    def producer_only(self) -> Iterable[Any]:
        return self._chain([])
