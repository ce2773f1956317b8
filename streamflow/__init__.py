"""Stream processing on Kafka, in Python: Faust's form, exactly once, live in the browser.

General layout: `app` is what people import; `faust_adapters` puts our parts in Faust's places; `engine`
runs declarations over `transports`, `stores` and a `clock`; `web` shows the tables. A module imports only
from the floors below its own: see docs/ARCHITECTURE.md.
"""

from faust import Record

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
