"""The routes of the HTTP API, declared once: the server registers them and OpenAPI describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamflow.query.row_query import LIMIT_DEFAULT, SORTS, STATES, WINDOW_SORTS
from streamflow.web.http import stream_routes
from streamflow.web.http.route import TEXT, TIME, Parameter, Route, Schema
from streamflow.web.http.route import object_schema as _object
from streamflow.web.messages import MODES, WINDOWS

TABLE: Final = Parameter("table", "Name of the table.", TEXT, "path")
KEY: Final = Parameter(
    "key",
    "The key, percent-encoded once, read by the table's key type; ignored with `key_b64`. Raw bytes that "
    "are no UTF-8 are `base64:` and the bytes, here as in rows.",
    TEXT,
    "path",
)
KEY_B64: Final = Parameter("key_b64", "The key as the topic's bytes, in base64 (either alphabet).", TEXT)
MIN_POSITION: Final = Parameter(
    "min_position",
    "Waits until what stands before these source offsets is shown: `partition:offset`, comma-separated. "
    "503 if that takes too long.",
    TEXT,
)
TEXTS: Final[Schema] = {"type": "array", "items": TEXT}
AT: Final = Parameter("at", "Only windows that hold this time.", TIME)
FIELDS: Final = Parameter(
    "fields", "Only these members of the value, comma-separated; `data.total` is a member's member.", TEXT
)
STALE: Final = Parameter(
    "stale",
    "Where the owner of rows can't be asked, as a standby has them. `stale` of the answer says for which "
    "partitions, at what position and lag, and how long ago it was up to date.",
    {"enum": ["ok"]},
)
LIST: Final = (
    Parameter("prefix", "Only keys whose text begins so.", TEXT),
    Parameter("key_from", "Only keys at or behind this one, in the order of keys.", TEXT),
    Parameter("key_to", "Only keys before this one.", TEXT),
    Parameter("keys", "Only these keys; may be repeated.", TEXTS),
    Parameter(
        "within",
        "Only keys of which one holds: `key:` and a text, or `prefix:` and what it begins with.",
        TEXTS,
    ),
    Parameter("start", "Only windows that start at or after this.", TIME),
    Parameter("end", "Only windows that start before this.", TIME),
    AT,
    Parameter(
        "where",
        "Only values of which this holds: `total >= 10`, `status in ['a', 'b']`, `paid`; `value` is the "
        "value itself. All of them, if repeated.",
        TEXTS,
    ),
    Parameter(
        "state", "Only windows in this state; `closed` takes revised ones too.", {"enum": list(STATES)}
    ),
    Parameter(
        "sort",
        f"One of {', '.join(SORTS)}: by window, then key; or by key, then window. Or by a value: `value`, or "
        "the name of a member; what lacks it comes last. `-` reverses the order.",
        TEXT,
    ),
    Parameter(
        "limit",
        "Rows of a page; all of them are streamed in other formats than JSON, if it is not given.",
        {"type": "integer", "minimum": 1, "default": LIMIT_DEFAULT},
    ),
    Parameter("cursor", "`next` of the page before; everything else as it was.", TEXT),
    FIELDS,
    Parameter("count", "How many rows there are, in place of them.", {"enum": ["only"]}),
    STALE,
    Parameter("partitions", "Only these partitions of the table, comma-separated.", TEXT),
    MIN_POSITION,
)

KEY_LIST: Final = tuple(
    Parameter("sort", f"One of {', '.join(WINDOW_SORTS)}, or by a value as in other lists.", TEXT)
    if each.name == "sort"
    else each
    for each in LIST
    if each.name not in ("prefix", "partitions", "key_from", "key_to", "keys", "within")
)

ROUTES: Final = (
    Route("tables", "/v1/tables", "All tables.", "Tables", problems=(400, 503)),
    Route("table", "/v1/tables/{table}", "One table.", "Table", (TABLE,), (400, 404, 503)),
    Route(
        "rows",
        "/v1/tables/{table}/rows",
        "Rows of all partitions, page by page; all of them as NDJSON, CSV or Arrow.",
        "Rows",
        (TABLE, *LIST),
        (400, 404, 406, 503),
    ),
    Route(
        "key",
        "/v1/tables/{table}/keys/{key}",
        "The row of a key: of its newest window, or of the one that holds `at`.",
        "KeyRow",
        (TABLE, KEY, KEY_B64, AT, FIELDS, STALE, MIN_POSITION),
        (400, 404, 409, 503),
    ),
    Route(
        "key_windows",
        "/v1/tables/{table}/keys/{key}/windows",
        "The windows of a key, page by page.",
        "Rows",
        (TABLE, KEY, KEY_B64, *KEY_LIST),
        (400, 404, 406, 409, 503),
    ),
    Route(
        "key_location",
        "/v1/tables/{table}/keys/{key}/location",
        "Which partition and worker a key belongs to, and where else the worker asked holds rows of it.",
        "Location",
        (TABLE, KEY, KEY_B64),
        (400, 404, 503),
    ),
    Route(
        "changes",
        "/v1/tables/{table}/changes",
        "The rows and their changes as they come: the messages of /v1/ws as server-sent events.",
        "text/event-stream",
        (
            TABLE,
            Parameter("key", "Only this key.", TEXT),
            Parameter("prefix", "Only keys whose text begins so.", TEXT),
            Parameter("window", "Only windows that are open, or that have closed.", {"enum": list(WINDOWS)}),
            Parameter("snapshot", "First the rows as they are.", {"type": "boolean", "default": True}),
            Parameter("since", "Cursor to resume from; the header `Last-Event-ID` goes before.", TEXT),
            Parameter("mode", "All changes, or the latest for a slow client.", {"enum": list(MODES)}),
            Parameter("max_hz", "At most so many messages a second.", {"type": "number"}),
        ),
        (400, 404, 503),
        group="changes",
    ),
    Route(
        "late",
        "/v1/tables/{table}/late",
        "Events that came too late for their windows, in the order of their places on the log.",
        "Late",
        (
            TABLE,
            Parameter("limit", "Events of a page.", {"type": "integer", "minimum": 1, "default": 100}),
            Parameter("cursor", "`next` of the page before.", TEXT),
        ),
        (400, 404),
        group="late",
    ),
    Route(
        "late_apply",
        "/v1/tables/{table}/late",
        "Folds them into their closed windows, each exactly once; what changes is told anew as revised.",
        "LateApplied",
        (TABLE,),
        (400, 404, 409, 503),
        method="post",
        group="late",
    ),
    Route(
        "status",
        "/v1/status",
        "The workers: partitions, lag, checkpoints. /v1/workers says more, and takes its place.",
        "Status",
        problems=(400,),
        is_deprecated=True,
    ),
    *stream_routes.ROUTES,
    Route(
        "history",
        "/v1/history",
        "An hour of figures of all workers together: events, lag, failures, memory, connections.",
        "History",
        (
            Parameter("metric", "Only these of the figures, comma-separated.", TEXT),
            Parameter(
                "minutes",
                "So far back.",
                {"type": "integer", "minimum": 1, "maximum": 60, "default": 60},
            ),
        ),
        (400,),
        group="history",
    ),
    Route("openapi_json", "/v1/openapi.json", "This description.", "application/json"),
    Route(
        "asyncapi_json", "/v1/asyncapi.json", "The description of the WebSocket, /v1/ws.", "application/json"
    ),
    Route("healthz", "/healthz", "Whether this worker works; 503 if not.", "Health", is_open=True),
    Route(
        "readyz",
        "/readyz",
        "Whether its tables are rebuilt and commits come.",
        "Health",
        problems=(503,),
        is_open=True,
    ),
    Route("metrics", "/metrics", "Prometheus text format 0.0.4, or OpenMetrics 1.0.", "text/plain"),
)

_POSITION: Final[Schema] = {
    "type": "object",
    "description": "Source partition to the next offset to be taken, a decimal string.",
    "additionalProperties": {"type": "string", "pattern": "^[0-9]+$"},
}
_LAG: Final[Schema] = {
    "type": "object",
    "description": "Source partition to the records still to be read; null while unknown.",
    "additionalProperties": {"type": ["integer", "null"]},
}
_COMPLETENESS: Final[Mapping[str, Schema]] = {
    "partial": {"type": "boolean", "description": "Some partitions are missing."},
    "missing_partitions": {"type": "array", "items": {"type": "integer"}},
    "position": _POSITION,
    "lag": _LAG,
}
_STALE: Final[Mapping[str, Schema]] = {
    "stale": {
        "type": "object",
        "description": "With `stale=ok`: the partitions that a standby answered for.",
        "additionalProperties": {
            "type": "object",
            "properties": {
                "worker": TEXT,
                "age_s": {"type": "number", "description": "So long ago it was known to be up to date."},
                "position": _POSITION,
                "lag": _LAG,
            },
        },
    }
}
_PINNED: Final[Mapping[str, Schema]] = {
    "pinned": {
        "type": "boolean",
        "description": "All pages so far show the table at one position. False: it has moved on since, so "
        "that rows may be lacking or come twice.",
    }
}
_ROW: Final[Mapping[str, Schema]] = {
    "key": {"description": "Any JSON; null where a row is found by its window alone."},
    "window": {"anyOf": [{"$ref": "#/components/schemas/Window"}, {"type": "null"}]},
    "value": {"description": "Any JSON."},
    "partition": {"type": "integer", "minimum": 0},
}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_INSTANT: Final[Schema] = {"type": "string", "format": "date-time"}
_INSTANT_OR_NULL: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}


SCHEMAS: Final[Mapping[str, Schema]] = {
    "Window": _object({"start": _INSTANT, "end": _INSTANT, "state": {"enum": ["open", "closed", "revised"]}}),
    "Row": _object(_ROW),
    "KeyRow": _object({**_ROW, **_COMPLETENESS, **_STALE}, required=(*_ROW, *_COMPLETENESS)),
    "RowPage": _object(
        {
            "rows": {"type": "array", "items": {"$ref": "#/components/schemas/Row"}},
            "next": {"type": ["string", "null"], "description": "Cursor of the next page."},
            **_COMPLETENESS,
            **_PINNED,
            **_STALE,
        },
        required=("rows", "next", *_COMPLETENESS, *_PINNED),
    ),
    "RowCount": _object(
        {"count": _COUNT, **_COMPLETENESS, **_PINNED, **_STALE},
        required=("count", *_COMPLETENESS, *_PINNED),
    ),
    "Rows": {
        "anyOf": [{"$ref": "#/components/schemas/RowPage"}, {"$ref": "#/components/schemas/RowCount"}],
        "description": "A page; with `count=only` their number.",
    },
    "Table": _object(
        {
            "name": TEXT,
            "kind": {"enum": ["agent", "aggregate"]},
            "keyed": {"type": "boolean"},
            "window": {
                "anyOf": [
                    _object(
                        {
                            "kind": {"enum": ["tumbling", "hopping", "sliding", "session"]},
                            "size_ms": {"type": "integer", "description": "Of a session of one event."},
                            "step_ms": {"type": "integer", "description": "Of hopping windows."},
                            "gap_ms": {"type": "integer", "description": "Of sessions."},
                            "grace_ms": {"type": "integer"},
                            "retain_ms": {"type": "integer"},
                        },
                        required=("kind", "size_ms", "grace_ms", "retain_ms"),
                    ),
                    {"type": "null"},
                ]
            },
            "source_topic": TEXT,
            "partitions": {"type": "integer", "minimum": 1},
            "description": {"type": "object"},
            "rows": {
                "type": ["integer", "null"],
                "minimum": 0,
                "description": "null where the caller may read some of the keys only.",
            },
            "watermark": _INSTANT_OR_NULL,
            "counters": {"type": "object", "additionalProperties": {"type": "integer"}},
            **_COMPLETENESS,
        }
    ),
    "LateEvent": _object(
        {
            "key": {"description": "Any JSON; null where a row is found by its window alone."},
            "windows": {"type": "array", "items": _object({"start": _INSTANT, "end": _INSTANT})},
            "time": _INSTANT,
            "behind_ms": {"type": "integer", "description": "How long ago its last window had closed."},
            "topic": TEXT,
            "partition": {"type": "integer", "minimum": 0},
            "offset": {"type": "string", "pattern": "^[0-9]+$"},
            "applies": {"type": "boolean", "description": "It can be folded into its windows after all."},
        }
    ),
    "Late": _object(
        {
            "late": {"type": "array", "items": {"$ref": "#/components/schemas/LateEvent"}},
            "next": {"type": ["string", "null"], "description": "Cursor of the next page."},
            "totals": {
                "type": "object",
                "description": "Source partition to how many came, were lost for later ones, were applied.",
                "additionalProperties": _object(
                    {"came": _COUNT, "lost": _COUNT, "applied": _COUNT},
                ),
            },
            "partial": {"type": "boolean"},
            "missing_partitions": {"type": "array", "items": {"type": "integer"}},
        }
    ),
    "LateApplied": _object(
        {
            "applied": _COUNT,
            "expired": {**_COUNT, "description": "Stay with the late events, for their windows are gone."},
            "unsupported": {**_COUNT, "description": "Of sliding windows and sessions."},
            "partitions": {"type": "array", "items": {"type": "integer"}},
            "partial": {"type": "boolean"},
            "missing_partitions": {"type": "array", "items": {"type": "integer"}},
        }
    ),
    "Tables": _object(
        {
            "tables": {"type": "array", "items": {"$ref": "#/components/schemas/Table"}},
            "partial": {"type": "boolean"},
        }
    ),
    "Location": _object(
        {
            "key": {"description": "Any JSON."},
            "partition": {"type": "integer", "minimum": 0},
            "owner": {"type": ["string", "null"], "description": "Address of the worker; null while moving."},
            "scattered": {"type": "array", "items": {"type": "integer"}},
        }
    ),
    "Worker": _object(
        {
            "url": TEXT,
            "reachable": {"type": "boolean"},
            "partitions": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "integer"}},
            },
            "ready": {"type": "boolean"},
            "health": {"type": "object"},
            "stats": {"type": "object"},
            "checkpoint": {"type": "object"},
            "memory_bytes": {"type": ["integer", "null"]},
        },
        required=("url", "reachable", "partitions"),
    ),
    "Status": _object(
        {
            "app_id": TEXT,
            "url": TEXT,
            "now": _INSTANT,
            "workers": {"type": "array", "items": {"$ref": "#/components/schemas/Worker"}},
            "partial": {"type": "boolean"},
        }
    ),
    **stream_routes.SCHEMAS,
    "History": _object(
        {
            "step_s": {"type": "integer", "minimum": 1, "description": "Seconds between two values."},
            "end": {**_INSTANT, "description": "When the last value was measured."},
            "series": {
                "type": "array",
                "items": _object(
                    {
                        "name": TEXT,
                        "labels": {"type": "object", "additionalProperties": TEXT},
                        "values": {
                            "type": "array",
                            "items": {"type": ["number", "null"]},
                            "description": "Oldest first; null where a worker that counts has not told.",
                        },
                    }
                ),
            },
            "partial": {"type": "boolean", "description": "A worker has not answered."},
            "missing_workers": {"type": "array", "items": TEXT},
        }
    ),
    "Health": _object({"status": TEXT}),
    "Problem": _object(
        {
            "type": {"type": "string", "format": "uri"},
            "title": TEXT,
            "status": {"type": "integer"},
            "code": {"type": "string", "description": "The last word of `type`."},
            "detail": TEXT,
            "instance": TEXT,
        }
    ),
}
