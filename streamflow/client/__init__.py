"""The client for other programs: tables and topics of a running app, from any of its workers.

`Client` asks over HTTP and follows over one WebSocket; `streamflow.client.blocking` is the same without
asyncio. client.py: what users write against; http.py: questions, asked again where a worker has gone;
connection.py: the WebSocket, which comes back by itself; live.py and topics.py: what is subscribed to over
it; messages.py: rows and what workers say; frames.py: rows for pandas, polars and Arrow. Imports nothing of
the rooms above the ground.
"""

from streamflow.client.client import Client
from streamflow.client.errors import ClientError, OutcomeUnknown, Partial, Unreachable
from streamflow.client.live import LiveTable
from streamflow.client.messages import Change, Page, Place, Reason, Row, TopicRecord, Window
from streamflow.client.rows import Rows
from streamflow.client.topics import LiveTopic

__all__ = [
    "Change",
    "Client",
    "ClientError",
    "LiveTable",
    "LiveTopic",
    "OutcomeUnknown",
    "Page",
    "Partial",
    "Place",
    "Reason",
    "Row",
    "Rows",
    "TopicRecord",
    "Unreachable",
    "Window",
]
