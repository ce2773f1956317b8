"""What workers say over `/v1/ws`, declared once, for AsyncAPI and the reference; tests hold them to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from streamflow.web.http.route import TEXT, Schema, array, object_schema
from streamflow.web.http.routes import SCHEMAS
from streamflow.web.messages import Close


@dataclass(frozen=True, slots=True)
class Told:
    """A message of a worker. ``optional``: members that are not always there."""

    name: str
    text: str
    members: Mapping[str, Schema]
    optional: tuple[str, ...] = ()

    def schema(self) -> Schema:
        """JSON Schema of the whole message."""
        properties = {"t": {"const": self.name}, **self.members}
        required = tuple(name for name in properties if name not in self.optional)
        return object_schema(properties, required=required)


_ID: Final[Schema] = {"type": "string", "description": "That of the subscription."}
_CURSOR: Final[Schema] = {"type": "string", "description": "Opaque; `since` of a later subscription."}
_POSITION: Final[Schema] = {
    "type": "object",
    "description": "Source partition to the next offset to be taken, a decimal string.",
    "additionalProperties": {"type": "string", "pattern": "^[0-9]+$"},
}
_PARTITIONS: Final[Schema] = array({"type": "integer", "minimum": 0})
_NUMBER: Final[Schema] = {"type": "number"}
_FLAG: Final[Schema] = {"type": "boolean"}
_EXACT: Final[Schema] = {
    "const": False,
    "description": "The rows may be ahead of the position: of a merged table that does not come to rest.",
}
_ROW: Final[Mapping[str, Any]] = {
    **SCHEMAS["Row"]["properties"],
    "window": {"anyOf": [SCHEMAS["Window"], {"type": "null"}]},
}
_CHANGE: Final[Mapping[str, Schema]] = {"op": {"enum": ["upsert", "delete", "expire"]}, **_ROW}

TOLD: Final = (
    Told(
        "ack",
        "The answer to `init`: the connection is open. `features`: what this worker does for this client "
        "beyond tables, `topics` and `publish`; who may do neither gets an empty list.",
        {"server": TEXT, "connection": TEXT, "limits": {"type": "object"}, "features": array(TEXT)},
        ("features",),
    ),
    Told(
        "subscribed",
        "The subscription is known. `recovered`: what came after `since` follows as `changes`, or `events`; "
        "otherwise what the client had of a table is void and a `snapshot` follows, and a topic begins now.",
        {
            "id": _ID,
            "cursor": _CURSOR,
            "position": _POSITION,
            "exact": _EXACT,
            "recovered": _FLAG,
            "partitions": _PARTITIONS,
        },
        ("exact",),
    ),
    Told(
        "snapshot",
        "Rows as they are; `more`: the next message goes on.",
        {"id": _ID, "rows": array(object_schema(_ROW)), "more": _FLAG},
    ),
    Told(
        "synced",
        "What was said makes up the table of these partitions at `position`; from here on all changes come. "
        "Of a topic: all that is wanted of it up to `position` was told.",
        {"id": _ID, "cursor": _CURSOR, "position": _POSITION, "exact": _EXACT, "partitions": _PARTITIONS},
        ("exact",),
    ),
    Told(
        "changes",
        "What a checkpoint changed. After `delete` and `expire` the row is gone. `more`: the step goes on in "
        "the next message. `skipped`: so many changes were left out for newer ones of the same row.",
        {
            "id": _ID,
            "cursor": _CURSOR,
            "position": _POSITION,
            "exact": _EXACT,
            "rows": array(object_schema(_CHANGE)),
            "skipped": {"type": "integer", "minimum": 0},
            "more": _FLAG,
        },
        ("exact", "more"),
    ),
    Told(
        "events",
        "Records of a topic, each partition's in their order. `error`: its readers set it aside; `bytes`: "
        "the size of a value of which the beginning is shown.",
        {"id": _ID, "cursor": _CURSOR, "records": array(SCHEMAS["Message"])},
    ),
    Told(
        "published",
        "The event of this `publish` is durable.",
        {
            "id": {"type": "string", "description": "That of the publish."},
            "position": object_schema(
                {
                    "partition": {"type": "integer", "minimum": 0},
                    "offset": {"type": "string", "pattern": "^[0-9]+$"},
                }
            ),
        },
    ),
    Told(
        "progress",
        "The position moved and no row changed.",
        {
            "id": _ID,
            "position": _POSITION,
            "exact": _EXACT,
            "watermark": {"type": ["string", "null"], "format": "date-time"},
        },
        ("exact",),
    ),
    Told(
        "reset",
        "What was told of these partitions is void; it comes anew, as `snapshot` and `synced`. Of a topic: "
        "records of them are lost, and it goes on behind those, with this `cursor`.",
        {"id": _ID, "cursor": _CURSOR, "reason": TEXT, "partitions": _PARTITIONS},
        ("cursor",),
    ),
    Told(
        "rebalancing",
        "The rows of these partitions are old: nobody has them now. Of a topic: the broker does not answer. "
        "`synced` or `reset` ends it.",
        {"id": _ID, "partitions": _PARTITIONS},
    ),
    Told(
        "error",
        "A subscription that can't be had, or an event that can't be published; with `retry` the same may be "
        "had a little later. With the code `outcome-unknown` the event may be there or not. Without `id`: of "
        "the connection.",
        {"id": _ID, "code": TEXT, "message": TEXT, "retry": _FLAG},
        ("id",),
    ),
    Told(
        "draining",
        "The worker stops: connect again after so long, here or elsewhere.",
        {"reconnect_in_ms": _NUMBER},
    ),
    Told("pong", "The answer to `ping`.", {}),
)

CLOSES: Final[Mapping[int, str]] = {
    1001: "The worker, or the page, goes away.",
    1002: "What came is no frame of a WebSocket.",
    1007: "What came is no UTF-8, or can't be inflated.",
    1009: "A message was larger than `limits` in `ack` says.",
    1011: "Something went wrong in this worker.",
    Close.RESTART: "This worker stops: connect again, here or elsewhere.",
    Close.BAD_MESSAGE: "A message that no client may say; its text says why.",
    Close.UNAUTHORIZED: "`init` needs a valid token, or the token has run out.",
    Close.FORBIDDEN: "Pages of this origin are not allowed, or this may not be read.",
    Close.SUBPROTOCOL: "The subprotocol is missing.",
    Close.INIT_TIMEOUT: "`init` did not come.",
    Close.DUPLICATE_ID: "A subscription's id is in use.",
    Close.TOO_MANY: "Too many connections, or messages.",
    Close.SLOW: "The client is too slow for mode `all`.",
}
