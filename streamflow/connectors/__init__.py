"""What lies outside of the log: sources that are read into topics, sinks that topics are written to.

Both contracts, with what whoever implements one is obliged to, stand in `connectors.base`; the suites that
hold an implementation to them are `streamflow.testing.SourceContract` and `SinkContract`.
"""

from streamflow.connectors.base import (
    Delivery,
    Place,
    Sink,
    SinkFenced,
    SinkPartition,
    SinkRecord,
    SinkUnavailable,
    SinkWriter,
    Source,
    SourceBatch,
    SourceRecord,
)
from streamflow.connectors.files.sink import FileSink
from streamflow.connectors.files.source import FileSource
from streamflow.connectors.http_source import HttpSource
from streamflow.connectors.webhook import WebhookRefused, WebhookSink

__all__ = [
    "Delivery",
    "FileSink",
    "FileSource",
    "HttpSource",
    "Place",
    "Sink",
    "SinkFenced",
    "SinkPartition",
    "SinkRecord",
    "SinkUnavailable",
    "SinkWriter",
    "Source",
    "SourceBatch",
    "SourceRecord",
    "WebhookRefused",
    "WebhookSink",
]
