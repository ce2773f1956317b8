"""Stream processing on Kafka, in Python: Faust's form, exactly once, live in the browser.

General layout
--------------
Thirteen rooms and the ground, top to bottom; a module imports only from rooms below its own, imports for
types too (docs/ARCHITECTURE.md says why):

    cli           the `streamflow` command
    app           what users write against, on Faust: App, agents, streams, tables, topics, the worker
    web           HTTP and the dashboard; http: lists and keys of all workers, live: every change of a table
    verify        counts a source topic again and compares
    query         committed rows for readers outside agents (interactive queries)
    engine        one worker: dispatch, assignment, restoration, checkpoint, rebalance, standbys
    processing    how agents take events: in order or concurrently; acks, failures, joins, retries
    aggregates    declared aggregates: functions, folds, late events, the shuffle from partial to final
    state         tables: changes, cut, changelog, restore, stores
    codecs        events and their bytes, in columns
    windows       pure window arithmetic
    transports    drivers behind one contract: kafka, redis_streams, memory
    testing       a clock that tests move and an event loop of simulated time, for users' tests

    settings, partitioner, metrics, clock, errors: the ground, which every room stands on
"""

from streamflow.aggregates import (
    ApproxDistinct,
    Collect,
    Count,
    CountBy,
    First,
    Last,
    Max,
    Mean,
    Min,
    Quantile,
    Sum,
    TopK,
    Variance,
)
from streamflow.aggregates.spec import Key
from streamflow.app.agents.agent import Agent
from streamflow.app.app import App
from streamflow.app.faust_names import (
    AppCommand,
    Channel,
    ChannelT,
    Codec,
    Command,
    EventT,
    GSSAPICredentials,
    Model,
    ModelOptions,
    Monitor,
    OAuthCredentials,
    SASLCredentials,
    Schema,
    Sensor,
    Service,
    ServiceT,
    SSLCredentials,
    Stream,
    StreamT,
    TopicT,
    current_agent,
    current_event,
    maybe_model,
    registry,
    uuid,
)
from streamflow.app.settings import Settings
from streamflow.app.tables.global_table import GlobalTable
from streamflow.app.tables.set_table import SetGlobalTable, SetTable
from streamflow.app.tables.table import Table
from streamflow.app.topics.records import Record
from streamflow.app.topics.topic import Topic
from streamflow.app.worker.process import Worker
from streamflow.codecs.event import Event
from streamflow.codecs.times import TimeField
from streamflow.errors import (
    CircuitOpen,
    ConfigurationError,
    DecodeError,
    EventTimeout,
    LimitReached,
    MissingEventType,
    RecordTooLarge,
    StaleEvent,
    StreamflowError,
    UnknownEventType,
    WindowError,
)
from streamflow.processing.buffer import Buffer
from streamflow.processing.circuit_breaker import CircuitBreaker
from streamflow.processing.limit import Limit
from streamflow.processing.retries import Retry
from streamflow.settings import version
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window

__version__ = version()

__all__ = [
    "Agent",
    "App",
    "AppCommand",
    "ApproxDistinct",
    "Buffer",
    "Channel",
    "ChannelT",
    "CircuitBreaker",
    "CircuitOpen",
    "Codec",
    "Collect",
    "Command",
    "ConfigurationError",
    "Count",
    "CountBy",
    "DecodeError",
    "Event",
    "EventT",
    "EventTimeout",
    "First",
    "GSSAPICredentials",
    "GlobalTable",
    "HoppingWindow",
    "Key",
    "Last",
    "Limit",
    "LimitReached",
    "Max",
    "Mean",
    "Min",
    "MissingEventType",
    "Model",
    "ModelOptions",
    "Monitor",
    "OAuthCredentials",
    "Quantile",
    "Record",
    "RecordTooLarge",
    "Retry",
    "SASLCredentials",
    "SSLCredentials",
    "Schema",
    "Sensor",
    "Service",
    "ServiceT",
    "SessionWindow",
    "SetGlobalTable",
    "SetTable",
    "Settings",
    "SlidingWindow",
    "StaleEvent",
    "Stream",
    "StreamT",
    "StreamflowError",
    "Sum",
    "Table",
    "TimeField",
    "TopK",
    "Topic",
    "TopicT",
    "TumblingWindow",
    "UnknownEventType",
    "Variance",
    "Window",
    "WindowError",
    "Worker",
    "current_agent",
    "current_event",
    "maybe_model",
    "registry",
    "uuid",
]
