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
    transports, stores  drivers: kafka, memory; rows in memory
    the ground          windows, aggregates, codecs, event, partitioner, metrics, settings, clock, errors
"""

from streamflow.aggregates import Count, CountBy, Max, Mean, Min, Sum
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
from streamflow.faust_adapters.record import Record
from streamflow.folds import Key
from streamflow.retries import Retry
from streamflow.windows import TumblingWindow

__all__ = [
    "App",
    "Buffer",
    "ConfigurationError",
    "Count",
    "CountBy",
    "DecodeError",
    "Event",
    "Key",
    "Max",
    "Mean",
    "Min",
    "MissingEventType",
    "Record",
    "RecordTooLarge",
    "Retry",
    "StaleEvent",
    "StreamflowError",
    "Sum",
    "TumblingWindow",
    "UnknownEventType",
    "WindowError",
]
