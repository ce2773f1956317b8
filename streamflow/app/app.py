"""`App`: a faust.App on streamflow's engine. Wiring only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, MutableMapping
from datetime import datetime
from importlib import import_module
from typing import Any, Unpack, cast
from weakref import WeakValueDictionary

import faust
from faust.sensors import Monitor
from faust.types import AgentT, ChannelT
from faust.types.models import ModelArg
from faust.types.tuples import TP
from faust.types.windows import WindowT
from mode.utils.types.trees import NodeT
from yarl import URL

from streamflow.aggregates import Aggregate, Field
from streamflow.aggregates.declaration import checked
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, By
from streamflow.app.agents.event_router import EventRouter
from streamflow.app.agents.replies import ReplyConsumer
from streamflow.app.agents.runner import running_agent, spec_of
from streamflow.app.agents.tester import AgentTester
from streamflow.app.connection import Connection
from streamflow.app.connectors import Sources, declare_sink
from streamflow.app.interface import AppT, ProducerT
from streamflow.app.options import (
    AgentOptions,
    AggregateOptions,
    FailureOptions,
    OnError,
    RouterOptions,
    SinkOptions,
    TopicOptions,
)
from streamflow.app.settings import Settings as AppSettings
from streamflow.app.settings import without_old_names
from streamflow.app.streams.stream import stream_over
from streamflow.app.tables.aggregate_table import AggregateTable
from streamflow.app.tables.table import OPTIONS_IGNORED, OPTIONS_REFUSED
from streamflow.app.tables.table import Table as OwnTable
from streamflow.app.topics.producer import Acknowledgement
from streamflow.app.topics.topic import Topic
from streamflow.app.worker.faust_stubs import ConsumerStub, ProducerStub, TransportStub
from streamflow.app.worker.pages import Pages
from streamflow.app.worker.sensors import Sensors
from streamflow.app.worker.service import BootStrategy, EngineService
from streamflow.clock import SystemClock
from streamflow.codecs import KeyCodec
from streamflow.codecs.times import TimeField
from streamflow.connectors.base import Sink, Source
from streamflow.engine.engine import Engine
from streamflow.engine.hooks import AssignmentHooks
from streamflow.errors import ConfigurationError
from streamflow.processing.buffer import Buffer
from streamflow.processing.circuit_breaker import CircuitBreaker
from streamflow.processing.event_timeouts import checked_timeout_s
from streamflow.processing.retries import Retry
from streamflow.query.worker_view import WorkerView
from streamflow.settings import Settings as EngineSettings
from streamflow.state.beginning import Start, start_of
from streamflow.state.event_context import SendTime, checked_send_time, time_of_event
from streamflow.state.stores.opening import forget
from streamflow.transports.base import Record, Transport
from streamflow.windows import Window

TASKS_END_S = 5.0


class App(faust.App, AppT):
    """A faust.App: the same decorators, on streamflow's engine.

    ``broker``: ``kafka://host:port[;...]`` or ``memory://`` (the default). Every knob of
    `streamflow.settings.Settings` may be given by name; see `streamflow.app.settings` for what wins.
    ``transport`` takes the place of the broker, for tests. Raises ConfigurationError when the
    configuration is first read.
    """

    BootStrategy = BootStrategy
    Settings = AppSettings
    engine_service: EngineService
    replies: ReplyConsumer

    def __init__(
        self,
        id: str,  # noqa: A002  # Faust's name
        *,
        transport: Transport | None = None,
        **options: object,
    ) -> None:
        self._connection = Connection(self, transport)
        self._clock = SystemClock()
        self._failure_options: dict[str, FailureOptions] = {}  # by agent
        self._own_tables: dict[str, OwnTable] = {}
        self._sources = Sources()
        self.bench: AgentTester | None = None  # see `agent.test_context`
        self._aggregates: dict[str, tuple[AggregateTable, Topic]] = {}
        self.declared_topics: list[Topic] = []
        self.has_pages = False
        self.readers: MutableMapping[str, object] = WeakValueDictionary()
        self.pumps: set[asyncio.Task[None]] = set()
        super().__init__(id, **cast("dict[str, Any]", options))
        self.engine_service = EngineService(self)
        self.replies = ReplyConsumer(self)

    def _prepare_compat_settings(self, options: MutableMapping[str, Any]) -> Mapping[str, Any]:
        active = without_old_names(options)
        return {**super()._prepare_compat_settings(options), **active}

    # -- declarations -----------------------------------------------------------------------------

    def topic(
        self,
        *topics: str,
        key_type: type[object] | None = None,
        value_type: type[object] | None = None,
        **options: Unpack[TopicOptions],
    ) -> Any:
        """A topic by name; ``value_type`` may be `Event`, a msgspec.Struct or a Record.

        ``partitions`` counts where the app creates the topic.
        """
        # Faust's own type for these has its models, bytes and str only.
        key, value = cast("ModelArg", key_type), cast("ModelArg", value_type)
        topic = super().topic(*topics, key_type=key, value_type=value, **options)
        if isinstance(topic, Topic) and len(topic.topics) == 1 and self.running_engine is None:
            self.declared_topics.append(topic)
        return topic

    def agent(
        self,
        channel: str | ChannelT[Any] | None = None,
        *,
        on_error: OnError | None = None,
        retry: Retry | None = None,
        dead_letter: bool | str = True,
        buffer: Buffer | None = None,
        start: Start | datetime | float | None = None,
        send_time: SendTime = "now",
        breaker: CircuitBreaker | None = None,
        timeout_s: float | None = None,
        **options: object,
    ) -> Callable[[Callable[[Any], Any]], Any]:
        """Declares an agent.

        ``on_error``: a coroutine function that is told each failure, with the agent and the exception.
        ``retry``: how often and for how long an event that it raises for is tried; ``dead_letter``: the topic
        for those it gives up on (``True``: ``<topic>-dead-letters``, ``False``: they stop the worker);
        ``buffer``: how many events wait for it.
        ``start``: where it begins when the app has not had it before: ``"earliest"``, ``"latest"``, or a
        time (an aware datetime, or seconds since 1970); by default where the app stands in the topic.
        ``send_time="event"``: what it sends without a timestamp is stamped with the time of its event, and
        not with now; what claims to be later than now is stamped with now.
        ``breaker``: while this `CircuitBreaker` is open the agent's partitions wait and no event fails.
        ``timeout_s``: an event that it is at work on for longer is cancelled, undone and tried again.
        """
        declare = super().agent(channel, **cast("AgentOptions", options))
        begins = None if start is None else start_of(start, "agent")
        send_time = checked_send_time(send_time, "agent")
        failing = FailureOptions(
            on_error,
            retry or Retry(),
            dead_letter,
            buffer or Buffer(),
            begins,
            send_time,
            breaker,
            checked_timeout_s(timeout_s),
        )

        def decorate(fun: Callable[[Any], Any]) -> AgentT[Any]:
            agent = declare(fun)
            self._failure_options[agent.name] = failing
            return agent

        return decorate

    actor = agent  # its old name in Faust

    async def _on_agent_error(self, agent: AgentT[Any], exc: BaseException) -> None:
        on_error = self._failure_options[agent.name].on_error
        if on_error is not None:
            await on_error(agent, exc)
        else:
            await super()._on_agent_error(agent, exc)

    def Table(
        self,
        name: str,
        *,
        default: Callable[[], Any] | None = None,
        window: Window | WindowT | None = None,
        partitions: int | None = None,
        help: str | None = None,  # noqa: A002  # Faust's name
        **options: object,
    ) -> Any:
        """Declares a table for agents; ``window`` or `Table.tumbling` and its like give it windows.

        More options: ``key_type``, ``value_type``, ``on_recover``, ``on_window_close``; see
        `streamflow.app.tables.table.Table`. Those of Faust's that change nothing here are taken and ignored.
        """
        kind: Any = self.settings.Table
        return self._declare(kind, name, window, default=default, partitions=partitions, help=help, **options)

    def GlobalTable(self, name: str, *, window: Window | WindowT | None = None, **options: object) -> Any:
        """Declares a table whose rows every worker holds. Options as for `Table`."""
        kind: Any = self.settings.GlobalTable
        return self._declare(kind, name, window, **options)

    def SetTable(self, name: str, *, window: Window | WindowT | None = None, **options: object) -> Any:
        """Declares a table of sets; ``start_manager``: they can be changed from elsewhere too."""
        kind: Any = self.settings.SetTable
        return self._declare(kind, name, window, **options)

    def SetGlobalTable(self, name: str, *, window: Window | WindowT | None = None, **options: object) -> Any:
        """Declares a table of sets whose rows every worker holds."""
        kind: Any = self.settings.SetGlobalTable
        return self._declare(kind, name, window, **options)

    def _declare(
        self, kind: Callable[..., object], name: str, window: Window | WindowT | None, **options: object
    ) -> Any:
        if name in self._own_tables or name in self._aggregates:
            raise ConfigurationError(f"two tables are named {name!r}")
        refused = sorted(options.keys() & OPTIONS_REFUSED.keys())
        if refused:
            raise ConfigurationError(f"table {name!r}: {refused[0]} {OPTIONS_REFUSED[refused[0]]}")
        taken = {option: value for option, value in options.items() if option not in OPTIONS_IGNORED}
        try:
            table = cast("OwnTable", kind(self, name=name, **taken))
        except TypeError as exc:
            raise ConfigurationError(f"table {name!r}: {exc}") from exc
        self._own_tables[name] = table
        cast("Any", self.tables).data[name] = table  # for Faust's commands
        return table.using_window(window) if window is not None else table

    def aggregate(
        self,
        name: str,
        topic: Topic,
        *,
        by: By,
        values: Aggregate | Mapping[str, Aggregate],
        window: Window | None = None,
        time: Field | TimeField | None = None,
        where: Field | None = None,
        emit_closed: str | ChannelT[Any] | None = None,
        **options: Unpack[AggregateOptions],
    ) -> AggregateTable:
        """Declares a table that the engine folds by whole columns.

        ``by``: `Key()`, a field path, a function of the event, or None (one row for each window).
        ``time``: the field of the event time (a `TimeField`, where it is not in ms) or a function of the
        event; by default the model's own field, else the record's timestamp.
        ``emit_closed``: the topic, or its name, that each closed row is written to, once.
        ``store``: ``"memory://"`` or ``"rocksdb://"``; by default the app's.
        ``start``: where it begins when the app has not had it before: ``"earliest"``, ``"latest"``, or a
        time (an aware datetime, or seconds since 1970: the first record whose timestamp is not older). What
        the app's other consumers have passed is read beside them, exactly once.
        ``send_time="event"``: closed rows are stamped with the end of their window, and not with now.
        """
        unknown = sorted(options.keys() - AggregateOptions.__annotations__.keys())
        if unknown:
            raise TypeError(f"aggregate {name!r}: there is no option {unknown[0]!r}")
        if name in self._own_tables or name in self._aggregates:
            raise ConfigurationError(f"two tables are named {name!r}")
        if emit_closed is not None and window is None:
            raise ConfigurationError(f"aggregate {name!r}: rows without a window are never closed")
        if emit_closed is not None and not isinstance(emit_closed, str):
            emit_closed = emit_closed.get_topic_name()
        source = topic.source()
        spec = AggregateSpec(
            name,
            source.name,
            by,
            window,
            RowFunctions(values),
            time,
            where,
            emit_closed,
            str(options.get("store") or ""),
            start=start_of(options.get("start", "earliest"), f"aggregate {name!r}"),
            send_time=checked_send_time(options.get("send_time", "now"), f"aggregate {name!r}"),
        )
        table = AggregateTable(checked(spec, source.value))
        self._aggregates[name] = (table, topic)
        return table

    def source(self, name: str, source: Source, *, to: Topic | str | None = None) -> Any:
        """Declares that something outside is read into a topic (by default named as it), which this returns.

        The topic's records and the place behind them are one checkpoint. The place is kept by the ``name``.
        """
        topic = to if isinstance(to, Topic) else self.topic(to or name)
        self._sources.add(name, source, topic)
        return topic

    def sink(self, topic: ChannelT[Any], sink: Sink, **options: Unpack[SinkOptions]) -> Any:
        """Declares that a topic is written to something outside; returns the agent that does so.

        ``batch=1_000`` records at most at a time, fewer ``within_s=1.0`` seconds after the first. By default
        what a wait may cure is tried for a day, and the rest is the record's fault. More options: those of
        `agent`.
        """
        return declare_sink(self, topic, sink, options)

    def event_router(self, topic: ChannelT[Any], **options: Unpack[RouterOptions]) -> EventRouter:
        """Handlers by event type over a topic. ``options`` are those of `agent`."""
        name = options.get("name") or f"router-{topic.get_topic_name()}"
        options["name"] = name
        router = EventRouter(name)

        async def route(stream: AsyncIterable[object]) -> None:
            await router.run(stream)

        self.agent(topic, **options)(route)
        return router

    def stream(
        self,
        channel: AsyncIterable[Any] | Iterable[Any],
        beacon: NodeT[Any] | None = None,
        **options: object,
    ) -> Any:
        """A stream over a topic, a channel in memory, or anything that can be iterated.

        Over a topic it is a consumer with a place of its own in the log, named by the topic, or by the
        agent that asks for it and the topic. Over a stream it is one of the same events, whose
        ``processors`` come behind that stream's. ``on_start``: a coroutine function, called before its first
        event; ``enable_acks=False``: an event is done when it is acknowledged. Raises ConfigurationError for
        options that are for Faust's own parts, and TypeError for those that there are not.
        """
        return stream_over(self, channel, options)

    def LiveCheck(self, **options: object) -> Any:
        """An app of its own that tests this one while it runs; see Faust's LiveCheck."""
        # Faust's own wraps aiohttp's client when it is imported: only for those who use it. And it is an
        # App, so that it can't be imported before this is one.
        return import_module("streamflow.app.livecheck").LiveCheck.for_app(self, **options)

    # -- the engine ---------------------------------------------------------------------------------

    @property
    def worker_view(self) -> WorkerView | None:
        return self.engine_service.watcher

    @property
    def broker_url(self) -> str:
        """All brokers of one cluster, as one URL."""
        return self._connection.broker_url

    @property
    def settings(self) -> AppSettings:
        """`conf`, by the type that it has."""
        return cast("AppSettings", self.conf)

    @property
    def engine_settings(self) -> EngineSettings:
        return self.settings.engine_settings(self.conf.id)

    def declared(self) -> dict[str, list[str]]:
        """Kind -> names of what was declared, with what is told beside them."""

        def shown(name: str, window: Window | None) -> str:
            return name if window is None else f"{name} ({window.kind})"

        return {
            "agents": [f"{name} on {agent.channel}" for name, agent in self.agents.items()],
            "tables": [shown(name, table.window) for name, table in self._own_tables.items()],
            "aggregates": [shown(name, table.spec.window) for name, (table, _) in self._aggregates.items()],
        }

    @property
    def running_engine(self) -> Engine | None:
        service = getattr(self, "engine_service", None)
        return None if service is None else service.engine

    @property
    def engine(self) -> Engine:
        """The worker's engine. Raises TypeError before it has started."""
        engine = self.running_engine
        if engine is None:
            raise TypeError(f"app {self.conf.id!r} is not running")
        return engine

    def prepare_engine(self, url: str = "", hooks: AssignmentHooks | None = None) -> Engine:
        self.bench = None
        engine = Engine(
            self.engine_settings,
            self._connection.transport(url),
            SystemClock(),
            hooks=hooks,
            partitioner_chosen=self.settings.chose_partitioner,
        )
        keys: dict[str, KeyCodec] = {}
        for agent in self.agents.values():
            channel = agent.channel
            if not isinstance(channel, Topic):
                continue  # a channel of this process: see EngineService.start_channels
            source, *more = channel.sources()
            keys[source.name] = source.key
            spec = spec_of(agent, source.name, self._failure_options[agent.name])
            engine.topology.add_agent(spec, source, *more)
        # Who writes a table is known later. Keys that are objects need their type to be read back, all others
        # say what they are, so that the type of the objects is right for every table.
        topics = sorted(keys, key=lambda topic: (not keys[topic].of_json, topic))
        key = keys[topics[0]] if keys else KeyCodec(str)
        for table in self._own_tables.values():
            table.attach(engine, key)
        for aggregate, topic in self._aggregates.values():
            engine.topology.add_aggregate(aggregate.spec, topic.source())
            aggregate.attach(engine)
        self._sources.attach(engine, self.settings)
        engine.topology.dead_letters.of_app(self.conf.origin or "MODULE")
        for topic in self.declared_topics:
            engine.topology.declare(topic.topics[0], topic.source)
        if self.conf.topic_allow_declare:
            for topic in self.declared_topics:
                retention_ms = None if topic.retention_s is None else int(topic.retention_s * 1_000)
                engine.topology.topics.want(
                    topic.topics[0],
                    topic.partitions,
                    compacted=bool(topic.compacting),
                    retention_ms=retention_ms,
                    copies=topic.replicas or 0,
                    config=topic.broker_config,
                )
        return engine

    # -- sending --------------------------------------------------------------------------------------

    def record_producer_now(self) -> ProducerT:
        if self.engine_service.producer is not None:
            return self.engine_service.producer
        if self.bench is not None and self.bench.is_at_work:
            return self.bench
        producer = self._connection.producer
        if producer is None:
            raise TypeError(f"app {self.conf.id!r} is not running")
        return producer

    async def record_producer(self) -> ProducerT:
        """The worker's, or outside of one a connection that only sends.

        Raises ConfigurationError where no other process could see what is sent.
        """
        if self.engine_service.producer is not None or (self.bench is not None and self.bench.is_at_work):
            return self.record_producer_now()
        return (await self._connection.client())[1]

    async def connected_engine(self) -> Engine:
        engine = self.running_engine
        if engine is None and self.bench is not None and self.bench.is_at_work:
            raise TypeError("what agents that are tried send goes nowhere: no answer would come")
        return engine if engine is not None else (await self._connection.client())[0]

    def send_stamp_ms(self) -> int | None:
        options = self._failure_options.get(running_agent() or "")
        return time_of_event(self.now_ms()) if options is not None and options.send_time == "event" else None

    def begin_bench(self) -> AgentTester:
        """The bench that agents are on now, or a new one with empty tables. Raises TypeError in a worker."""
        if self.running_engine is not None:
            raise TypeError("an agent can be tried only where no worker runs")
        if self.bench is None or not self.bench.is_at_work:
            self.bench = AgentTester(self.own_tables)
        return self.bench

    @property
    def own_tables(self) -> Iterable[OwnTable]:
        return self._own_tables.values()

    def note_sent(self, record: Record, told: Acknowledgement) -> None:
        if self.engine_service.sensors is not None:
            self.engine_service.sensors.on_send(record, told)

    @property
    def event_sensors(self) -> Sensors | None:
        sensors = self.engine_service.sensors
        return sensors if sensors is not None and sensors.busy else None

    @property
    def watches_tables(self) -> bool:
        return any(type(sensor) is not Monitor for sensor in self.sensors)

    def now_ms(self) -> int:
        engine = self.running_engine
        return self._clock.now_ms() if engine is None else engine.clock.now_ms()

    def forget_local(self, table: str) -> None:
        """Deletes what this machine keeps of a table; the log still has it.

        Raises StoreError while a worker has it open.
        """
        forget(self.engine_settings, table)

    @property
    def exactly_once(self) -> bool:
        return self.engine_settings.processing_guarantee == "exactly_once"

    async def maybe_start_client(self) -> None:
        """Connects as a client where no worker runs in this process: it can send and ask."""
        await self.record_producer()

    start_client = maybe_start_client

    async def disconnect(self) -> None:
        """Ends the connection of `record_producer` that was made outside of a worker. Idempotent."""
        await self.replies.close()
        await self._connection.close()

    # -- rebalances, as Faust's users see them ------------------------------------------------------

    def note_rebalance(self) -> None:
        self.rebalancing = True
        self.rebalancing_count += 1

    def note_assignment(self, partitions: set[TP]) -> None:
        self._assignment = partitions
        self.unassigned = not partitions

    def note_recovery(self) -> None:
        self.rebalancing = False

    # -- Faust's life, without its parts that the engine takes the place of -----------------------------

    async def on_first_start(self) -> None:
        """Faust makes its data directory here; the engine's state is in the log."""

    async def on_start(self) -> None:
        self.finalize()

    async def on_started(self) -> None:
        if not self.client_only and await self.wait_for_stopped(self.engine_service.live.wait()):
            return
        await self.engine_service.start_channels()
        await super().on_started()
        self.engine_service.settle()

    async def _wait_for_table_recovery_completed(self) -> bool:
        return await self.wait_for_stopped(self.engine_service.live.wait())

    async def on_stop(self) -> None:
        await self.on_before_shutdown.send()
        # Timers and tasks first: what they send must still find the engine.
        tasks = [task for task in (*self._futures, *self.pumps) if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=TASKS_END_S)
        await self._maybe_close_http_client()
        await self.disconnect()

    def worker_init(self) -> None:
        """A command has found the app: from here on `worker` is ours."""
        import_module("streamflow.app.worker.command")
        super().worker_init()

    def worker_init_post_autodiscover(self) -> None:
        self.on_worker_init.send()

    def is_leader(self) -> bool:
        """One worker of all: the owner of the first partition."""
        engine = self.running_engine
        if engine is None or engine.active is None:
            return False
        every = [at for member in engine.rebalance.members for at in member.partitions]
        return bool(every) and min(every) in engine.active.assignment.partitions

    @property
    def web_server_url(self) -> URL:
        web = self.engine_service.web
        if web is not None and web.url:
            return URL(web.url)
        scheme = self.settings.web_settings().scheme
        return URL(f"{scheme}://{self.settings._web_bind}:{self.settings._web_port}")

    def _new_web(self) -> Any:
        self.has_pages = True
        return Pages(self)

    def _new_transport(self) -> Any:
        return TransportStub(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Any:
        return self._new_transport()

    def _new_consumer(self) -> Any:
        return ConsumerStub(self)

    def _new_producer(self) -> Any:
        return ProducerStub(self)
