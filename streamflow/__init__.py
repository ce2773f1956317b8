"""Stream processing on Kafka, in Python: Faust's form, exactly once, live in the browser.

General layout
--------------
Floors, top to bottom; a module imports only from those below its own (docs/ARCHITECTURE.md says why):

    cli, testing        the `streamflow` command; a manual clock and a simulated event loop for tests
    app                 App: wiring only
    faust_adapters      our parts in Faust's places: the only code besides these that knows Faust
    web                 HTTP, WebSocket and the dashboard, over watching and readers: what may be shown
    engine              runs what was declared: forming, dispatch, checkpoint, recovery, tail
    assignment          what is ours; shuffle, folds, streams, tables, hand: state and its changes
    transports, stores  drivers: kafka, redis_streams, memory; rows in memory
    the ground          windows, aggregates, codecs, event, partitioner, metrics, settings, clock, errors
"""

from importlib.metadata import version as _version

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
from streamflow.app import App
from streamflow.buffer import Buffer
from streamflow.errors import (
    ConfigurationError,
    DecodeError,
    MissingEventType,
    RecordTooLarge,
    StaleEvent,
    StreamflowError,
    UnknownEventType,
    WindowError,
)
from streamflow.event import Event
from streamflow.faust_adapters.asking import Agent
from streamflow.faust_adapters.everywhere import GlobalTable
from streamflow.faust_adapters.names import (
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
from streamflow.faust_adapters.record import Record
from streamflow.faust_adapters.sets import SetGlobalTable, SetTable
from streamflow.faust_adapters.settings import Settings
from streamflow.faust_adapters.table import Table
from streamflow.faust_adapters.topic import Topic
from streamflow.faust_adapters.windows import HoppingWindow, TumblingWindow
from streamflow.faust_adapters.worker import Worker
from streamflow.folds import Key
from streamflow.retries import Retry
from streamflow.windows import SessionWindow, SlidingWindow, Window

__version__ = _version("streamflow")

__all__ = [
    "Agent",
    "App",
    "AppCommand",
    "ApproxDistinct",
    "Buffer",
    "Channel",
    "ChannelT",
    "Codec",
    "Collect",
    "Command",
    "ConfigurationError",
    "Count",
    "CountBy",
    "DecodeError",
    "Event",
    "EventT",
    "First",
    "GSSAPICredentials",
    "GlobalTable",
    "HoppingWindow",
    "Key",
    "Last",
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
