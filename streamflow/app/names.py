"""Every public name of `streamflow`, from where it lives: the package hands them out when asked for one."""

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
