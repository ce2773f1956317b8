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
from streamflow.processing.buffer import Buffer
from streamflow.processing.retries import Retry
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window

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
