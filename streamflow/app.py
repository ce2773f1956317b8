"""`App`: a faust.App on streamflow's engine. Wiring only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import faust

from streamflow.aggregates import Aggregate
from streamflow.buffer import Buffer
from streamflow.clock import SystemClock
from streamflow.codecs import KeyCodec
from streamflow.dead_letter import dead_letter_topic
from streamflow.engine import Engine
from streamflow.errors import ConfigurationError
from streamflow.faust_adapters.agents import runner
from streamflow.faust_adapters.aggregate import AggregateTable
from streamflow.faust_adapters.boot import BootStrategy, EngineService, NoTransport
from streamflow.faust_adapters.router import EventRouter
from streamflow.faust_adapters.table import Table
from streamflow.faust_adapters.topic import Topic
from streamflow.folds import By, Field, FoldSpec, Values
from streamflow.retries import Retry
from streamflow.settings import Settings, environment_value, from_environment
from streamflow.streams import AgentSpec
from streamflow.transports.base import Transport
from streamflow.transports.connecting import connect
from streamflow.web.settings import DEFAULT_PORT, WebSettings
from streamflow.windows import TumblingWindow

BROKER_DEFAULT = "memory://"
_KNOBS = frozenset(knob.name for knob in fields(Settings)) - {"id"}
_SHARED_WITH_FAUST = frozenset({"processing_guarantee", "topic_partitions"})


class App(faust.App):
    """A faust.App: the same decorators, on streamflow's engine.

    ``broker``: kafka://host:port[;...] or memory:// (the default). Every knob of
    `streamflow.settings.Settings` may be given by name. ``transport`` and ``web`` are for tests.
    Raises ConfigurationError.
    """

    BootStrategy = BootStrategy

    def __init__(
        self,
        id: str,  # noqa: A002 - Faust's name
        *,
        broker: str | None = None,
        transport: Transport | None = None,
        **options: Any,
    ) -> None:
        app_id = environment_value("id") or id
        knobs = {name: options[name] for name in _KNOBS & options.keys()}
        knobs.update({name: value for name, value in from_environment().items() if name != "id"})
        options = {name: value for name, value in options.items() if name not in _KNOBS}
        options.update({name: knobs[name] for name in _SHARED_WITH_FAUST & knobs.keys()})
        self.engine_settings = Settings(id=app_id, **knobs)
        self.broker_url = (
            environment_value("broker") or os.environ.get("FAUST_BROKER_URL") or broker or BROKER_DEFAULT
        )
        self._given_transport = transport
        self._web_tokens = tuple(
            filter(None, (environment_value("web_token") or options.pop("web_token", "")).split(","))
        )
        self._web_allow_insecure = _flag(
            environment_value("web_allow_insecure"), options.pop("web_allow_insecure", False)
        )
        port = environment_value("web_port")
        self._port_asked = port is not None or "web_port" in options
        options["web_port"] = int(port) if port is not None else options.get("web_port", DEFAULT_PORT)
        options["web_bind"] = environment_value("web_bind") or options.get("web_bind", "127.0.0.1")
        self._port_at_start = options["web_port"]
        self._agent_options: dict[str, dict[str, Any]] = {}
        self._own_tables: dict[str, Table] = {}
        self._aggregates: dict[str, tuple[AggregateTable, Any]] = {}
        self._closed_topics: list[Any] = []
        self._engine: Engine | None = None
        options.setdefault("Topic", Topic)
        super().__init__(app_id, broker=self.broker_url, **options)
        self.engine_service = EngineService(self)

    # -- declarations -----------------------------------------------------------------------------

    def agent(
        self,
        channel: Any = None,
        *,
        retry: Retry | None = None,
        dead_letter: bool | str = True,
        buffer: Buffer | None = None,
        **options: Any,
    ) -> Callable[[Any], Any]:
        """Declares an agent; ``retry``, ``dead_letter``, ``buffer``: what becomes of events it can't take."""
        declare = super().agent(channel, **options)

        def decorate(fun: Any) -> Any:
            agent = declare(fun)
            self._agent_options[agent.name] = {
                "retry": retry or Retry(),
                "dead_letter": dead_letter,
                "buffer": buffer or Buffer(),
            }
            return agent

        return decorate

    def topic(self, *topics: str, key_type: Any = None, value_type: Any = None, **options: Any) -> Any:
        """A topic by name; ``value_type`` may be `Event`, a msgspec.Struct or a Record."""
        return super().topic(*topics, key_type=key_type, value_type=value_type, **options)

    def Table(  # type: ignore[override]
        self, name: str, *, default: Callable[[], Any] | None = None, partitions: int | None = None, **_: Any
    ) -> Table:
        """Declares a table for agents; `Table.tumbling` gives it windows."""
        if name in self._own_tables:
            raise ConfigurationError(f"two tables are named {name!r}")
        table = Table(name, default, partitions, None)
        self._own_tables[name] = table
        return table

    def aggregate(
        self,
        name: str,
        topic: Any,
        *,
        by: By,
        values: Aggregate | Mapping[str, Aggregate],
        window: TumblingWindow | None = None,
        time: str | None = None,
        where: Field | None = None,
        emit_closed: Any = None,
    ) -> AggregateTable:
        """Declares a table that the engine folds by whole columns. See ``docs/reference``."""
        if emit_closed is not None and not isinstance(emit_closed, str):
            self._closed_topics.append(emit_closed)
            emit_closed = emit_closed.get_topic_name()
        source = topic.source()
        if time is not None and time == source.value.time_field:
            time = None
        spec = FoldSpec(name, source.name, by, window, Values(values), time, where, emit_closed)
        table = AggregateTable(spec)
        self._aggregates[name] = (table, source)
        return table

    def event_router(self, topic: Any, **options: Any) -> EventRouter:
        """Handlers by event type over a topic. ``options`` are those of `agent`."""
        name = options.pop("name", f"router-{topic.get_topic_name()}")
        router = EventRouter(name)

        async def route(stream: Any) -> None:
            await router.run(stream)

        self.agent(topic, name=name, **options)(route)
        return router

    # -- running ------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The running engine. Raises TypeError before the worker has started."""
        if self._engine is None:
            raise TypeError(f"app {self.conf.id!r} is not running")
        return self._engine

    def prepare_engine(self) -> Engine:
        """Makes the engine of everything declared; it is not started yet."""
        clock = SystemClock()
        transport = self._given_transport or connect(
            self.broker_url, self.engine_settings, clock, self.conf.web_port
        )
        engine = self._engine = Engine(self.engine_settings, transport, clock)
        keys: list[KeyCodec] = []
        for agent in self.agents.values():
            source = agent.channel.source()
            keys.append(source.key)
            options = self._agent_options[agent.name]
            letters = options["dead_letter"]
            target = dead_letter_topic(source.name) if letters is True else (letters or None)
            spec = AgentSpec(
                agent.name, source.name, runner(agent), options["retry"], target, options["buffer"]
            )
            engine.add_agent(spec, source)
        for table in self._own_tables.values():
            table.attach(engine, keys[0] if keys else KeyCodec(str))
        for topic in self._closed_topics:
            engine.topics.want(topic.get_topic_name(), topic.partitions)
        for aggregate, source in self._aggregates.values():
            aggregate.attach(engine)
            engine.add_fold(aggregate.spec, source)
        return engine

    def web_settings(self) -> WebSettings:
        port = int(self.conf.web_port)
        return WebSettings(
            host=self.conf.web_bind,
            port=port,
            port_explicit=self._port_asked or port != self._port_at_start,
            tokens=self._web_tokens,
            allow_insecure=self._web_allow_insecure,
        )

    async def on_first_start(self) -> None:
        """Nothing is kept in Faust's data directory, so none is made."""

    async def on_start(self) -> None:
        self.finalize()

    async def _wait_for_table_recovery_completed(self) -> bool:
        return False

    async def on_stop(self) -> None:
        await self.on_before_shutdown.send()
        await self._maybe_close_http_client()

    def _new_transport(self) -> Any:
        return NoTransport(self.conf.broker_consumer, self)

    _new_producer_transport = _new_transport


def _flag(text: str | None, default: bool) -> bool:
    return default if text is None else text.lower() in ("1", "true", "yes", "on")
