"""What the parts of an app may ask of it and of each other, as Faust has it in its ``types``.

No part imports `App`: whoever needs one takes an `AppT`. The Protocols are for parts that need each other.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol, Unpack

from faust.types import AppT as FaustAppT
from faust.types import EventT, StreamT, TopicT
from faust.types.tuples import TP
from mode import ServiceT

from streamflow.app.options import TopicOptions
from streamflow.app.settings import Settings
from streamflow.app.topics.producer import Acknowledgement
from streamflow.engine.engine import Engine
from streamflow.engine.hooks import AssignmentHooks
from streamflow.query.worker_view import WorkerView
from streamflow.settings import Settings as EngineSettings
from streamflow.state.agent_table import AgentTable
from streamflow.state.changelog import RowCodec
from streamflow.transports.base import Headers, Record
from streamflow.windows import Window

Recovered = Callable[[], Awaitable[None]]
SensorState = tuple[Any, Any]
"""A sensor, and what it gave at the beginning of what it is told the end of."""


class ProducerT(Protocol):
    """What sends the records of an app: the worker's, a client's, or that of agents that are tried."""

    def knows(self, topic: str) -> bool:
        """Are the topic's partitions known, so that `record` can place what goes there?"""

    async def learn(
        self,
        topic: str,
        partitions: int | None,
        *,
        compacted: bool = False,
        retention_s: float | None = None,
        copies: int = 0,
        config: Iterable[tuple[str, str]] = (),
        declared: bool = False,
    ) -> None:
        """Asks the broker for a topic's partitions, and creates it where it is missing.

        Raises ConfigurationError for one that is only named, where the broker would not make it.
        """

    def record(
        self,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp_ms: int | None,
    ) -> Record:
        """Places a record of a topic that is known. Raises RecordTooLarge."""

    async def send(self, record: Record, *, at_once: bool = False) -> Acknowledgement:
        """Sends with the checkpoint of the event in flight, or ``at_once``."""

    def send_soon(self, record: Record, *, at_once: bool = False) -> Acknowledgement:
        """`send` that never waits for room."""

    async def flush(self) -> None:
        """Returns when what was sent outside of events has been acknowledged, or has failed."""


class PromiseT(Protocol):
    """Of one answer, or of several."""

    reply_to: str

    def fulfill(self, correlation_id: str, value: object) -> None: ...
    def done(self) -> bool: ...
    def cancel(self) -> bool: ...


class ReplyConsumerT(Protocol):
    """Follows reply topics and fulfils promises."""

    async def add(self, correlation_id: str, promise: PromiseT) -> None: ...
    async def follow(self, topic: str) -> None: ...


class EventSensorsT(Protocol):
    """The sensors that want to know of each event that an agent takes."""

    def on_event_in(self, stream: StreamT[Any], event: EventT[Any]) -> list[SensorState]: ...
    def on_event_out(self, stream: StreamT[Any], event: EventT[Any], states: list[SensorState]) -> None: ...


class AgentTesterT(Protocol):
    """Where agents are tried without a worker."""

    @property
    def is_at_work(self) -> bool:
        """Is an agent being tried now?"""

    def begin(self) -> None: ...
    def end(self) -> None: ...
    def take(self, value: object) -> Any: ...


class TableT(Protocol):
    """A table in Faust's form, for those who run or try its app."""

    @property
    def name(self) -> str: ...
    @property
    def window(self) -> Window | None: ...
    @property
    def default(self) -> Callable[[], Any] | None: ...
    @property
    def key_type(self) -> type[object] | None: ...
    @property
    def recover_callbacks(self) -> list[Recovered]: ...

    def row_codec(self, key_type: type[object] | None) -> RowCodec: ...
    def bind(self, table: AgentTable) -> None: ...


class AppT(FaustAppT):
    """A faust.App on streamflow's engine."""

    engine_service: ServiceT
    replies: ReplyConsumerT
    bench: AgentTesterT | None
    """Where agents are tried, if any are."""
    has_pages: bool
    """Has somebody asked for the app's ``web``?"""
    readers: MutableMapping[str, object]
    """Name of a consumer -> what a task of the user's reads by it."""
    declared_topics: Sequence[TopicT]
    """As the app's code declares them, known before it starts."""
    pumps: set[asyncio.Task[None]]
    """That feed streams over memory."""

    # -- the engine -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def settings(self) -> Settings:
        """`conf`, by the type that it has."""

    @property
    @abstractmethod
    def engine_settings(self) -> EngineSettings: ...

    @property
    @abstractmethod
    def exactly_once(self) -> bool: ...

    @property
    @abstractmethod
    def broker_url(self) -> str:
        """All brokers of one cluster, as one URL."""

    @abstractmethod
    def declared(self) -> Mapping[str, list[str]]:
        """Kind -> names of what was declared."""

    @abstractmethod
    def prepare_engine(self, url: str = "", hooks: AssignmentHooks | None = None) -> Engine:
        """Makes the engine of everything declared; not started yet. ``hooks`` are told of rebalances."""

    @property
    @abstractmethod
    def running_engine(self) -> Engine | None:
        """The worker's engine, if there is one yet."""

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """The worker's engine. Raises TypeError before it has started."""

    @property
    @abstractmethod
    def worker_view(self) -> WorkerView | None:
        """What the worker shows of its engine, if there is one yet."""

    @abstractmethod
    async def connected_engine(self) -> Engine:
        """The engine of `record_producer`."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Ends the connection of `record_producer` that was made outside of a worker. Idempotent."""

    @abstractmethod
    def now_ms(self) -> int:
        """Wall time, by the worker's clock."""

    # -- topics -----------------------------------------------------------------------------------

    @abstractmethod
    async def record_producer(self) -> ProducerT:
        """The worker's, or outside of one a connection that only sends."""

    @abstractmethod
    def record_producer_now(self) -> ProducerT:
        """Raises TypeError while the app is not connected."""

    @abstractmethod
    def send_stamp_ms(self) -> int | None:
        """The timestamp of what the agent that runs sends without one; ``None``: now."""

    @abstractmethod
    def note_sent(self, record: Record, told: Acknowledgement) -> None:
        """Tells the sensors of a worker of what was sent."""

    @abstractmethod
    def topic(
        self,
        *topics: str,
        key_type: type[object] | None = None,
        value_type: type[object] | None = None,
        **options: Unpack[TopicOptions],
    ) -> Any:
        """A topic by name; keys and values may be of other types than Faust knows."""

    # -- tables and agents ------------------------------------------------------------------------

    @property
    @abstractmethod
    def own_tables(self) -> Iterable[TableT]:
        """The tables in Faust's form."""

    @property
    @abstractmethod
    def watches_tables(self) -> bool:
        """Does a sensor besides Faust's monitor want to know of single reads and writes?"""

    @abstractmethod
    def forget_local(self, table: str) -> None:
        """Deletes what this machine keeps of a table; the log still has it."""

    @abstractmethod
    def begin_bench(self) -> AgentTesterT:
        """Where agents are tried now, or a new one with empty tables. Raises TypeError in a worker."""

    @property
    @abstractmethod
    def event_sensors(self) -> EventSensorsT | None:
        """The sensors, where one of them wants to know of each event that an agent takes."""

    # -- rebalances, as Faust's users see them ------------------------------------------------------

    @abstractmethod
    def note_rebalance(self) -> None:
        """A rebalance has begun."""

    @abstractmethod
    def note_assignment(self, partitions: set[TP]) -> None:
        """These partitions are this worker's from now on."""

    @abstractmethod
    def note_recovery(self) -> None:
        """The rebalance is over."""
