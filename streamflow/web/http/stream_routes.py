"""The routes of what streams through an app: its workers, agents and topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamflow.web.http.route import TEXT, TIME, Parameter, Route, Schema, array, object_schema, ref
from streamflow.web.messages import MODES, WINDOWS

TOPIC: Final = Parameter("topic", "Name of the topic.", TEXT, "path")

COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
OFFSET: Final[Schema] = {"type": "string", "pattern": "^[0-9]+$"}
OFFSET_OR_NULL: Final[Schema] = {"type": ["string", "null"], "pattern": "^[0-9]+$"}
INSTANT_OR_NULL: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
HEADERS: Final[Schema] = {
    **array({"type": "array", "items": TEXT_OR_NULL, "minItems": 2, "maxItems": 2}),
    "description": "Name and text of each, in order.",
}
LAG: Final[Schema] = {
    "type": ["integer", "null"],
    "description": "Records still to be read; null while that is not known.",
}
PARTIAL: Final[Mapping[str, Schema]] = {
    "partial": {"type": "boolean", "description": "Some workers did not answer, or the broker did not."},
    "missing": {**array(TEXT), "description": "Workers that did not answer."},
}
_AT: Final[Mapping[str, Schema]] = {"topic": TEXT, "partition": COUNT}

ROUTES: Final = (
    Route(
        "workers",
        "/v1/workers",
        "The workers: state, partitions, standbys, lag, circuit breakers.",
        "Workers",
        problems=(400,),
        group="running",
    ),
    Route(
        "agents",
        "/v1/agents",
        "The agents, summed over all workers: rate, latency, failures, what is in hand.",
        "Agents",
        problems=(400,),
        group="running",
    ),
    Route(
        "subscriptions",
        "/v1/subscriptions",
        "The live connections to all workers, and what they listen to; those of workers included.",
        "Subscriptions",
        problems=(400,),
        group="subscriptions",
    ),
    Route(
        "topics",
        "/v1/topics",
        "The topics that the app knows: partitions, owners, ends, positions, lag.",
        "Topics",
        problems=(400, 503),
        group="topics",
    ),
    Route(
        "messages",
        "/v1/topics/{topic}/messages",
        "Records of a topic as they lie there, decoded as its types say; else as text, or base64.",
        "Messages",
        (
            TOPIC,
            Parameter(
                "partition",
                "Of this one, page by page. Without it the newest of all, or the first from `time`, by their "
                "timestamps.",
                COUNT,
            ),
            Parameter(
                "offset",
                "Begins there; `earliest` (the default with a partition), or `latest`: the newest `limit`.",
                TEXT,
            ),
            Parameter("time", "Begins with the first record that is not older.", TIME),
            Parameter("limit", "Records of a page.", {"type": "integer", "minimum": 1, "default": 100}),
        ),
        (400, 404, 409, 503),
        group="topics",
    ),
)

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Subscriptions": object_schema(
        {
            "connections": {**COUNT, "description": "Open WebSockets."},
            "subscriptions": array(
                object_schema(
                    {
                        "worker": {**TEXT, "description": "The one that serves them."},
                        "table": TEXT,
                        "of_worker": {"type": "boolean", "description": "Another worker is the subscriber."},
                        "keys": {"type": ["integer", "null"], "description": "So many keys; null for all."},
                        "by_prefix": {"type": "boolean", "description": "Keys that begin in some way."},
                        "window": {"enum": list(WINDOWS)},
                        "mode": {"enum": list(MODES)},
                        "subscribers": {**COUNT, "description": "So many with the same rows and mode."},
                    }
                )
            ),
            **PARTIAL,
        }
    ),
    "WorkerNow": object_schema(
        {
            "worker": {**TEXT, "description": "Its address."},
            "self": {"type": "boolean", "description": "It is the one that answers."},
            "state": {"enum": ["ready", "recovering", "stalled", "failed", "unreachable"]},
            "reason": TEXT_OR_NULL,
            "version": TEXT_OR_NULL,
            "started": INSTANT_OR_NULL,
            "last_commit": {**INSTANT_OR_NULL, "description": "Of its newest durable checkpoint."},
            "memory_bytes": {"type": ["integer", "null"]},
            "connections": {"type": ["integer", "null"], "description": "Open WebSockets."},
            "records_total": {"type": ["integer", "null"], "description": "Records read since it started."},
            "lag_records": LAG,
            "partitions": array(object_schema(_AT)),
            "standbys": {
                **array(object_schema({**_AT, "lag": LAG})),
                "description": "Partitions of changelogs that it keeps up to date for other workers.",
            },
            "breakers": array(
                object_schema({"name": TEXT, "state": {"enum": ["closed", "half-open", "open"]}})
            ),
        }
    ),
    "Workers": object_schema({"workers": array(ref("WorkerNow")), **PARTIAL}),
    "Agent": object_schema(
        {
            "agent": {**TEXT, "description": "Its name."},
            "topics": array(TEXT),
            "concurrency": {**COUNT, "description": "Of each worker."},
            "processed": {**COUNT, "description": "Events that are done, since the workers started."},
            "failed": {**COUNT, "description": "Attempts at events that raised."},
            "retries": {**COUNT, "description": "Second and later attempts."},
            "dropped": {**COUNT, "description": "By its buffer's policy."},
            "waiting": {**COUNT, "description": "Events that wait to be taken."},
            "rate_per_s": {
                "type": ["number", "null"],
                "description": "Events done in the last ten seconds, a second; null while not known.",
            },
            "latency_ms": {
                "description": "Of the last minute: from a batch's oldest timestamp to its checkpoint.",
                "anyOf": [
                    object_schema({"p50": {"type": "number"}, "p99": {"type": "number"}}),
                    {"type": "null"},
                ],
            },
            "in_hand": {
                **array(object_schema({**_AT, "offset": OFFSET, "seconds": {"type": "number"}})),
                "description": "Events that its code works on, oldest first, at most 20 of each worker.",
            },
            "blocked": {
                "type": "boolean",
                "description": "It holds an event for longer than agent_warn_s, or has blocked the event "
                "loop in the last minute.",
            },
            "workers": {**COUNT, "description": "How many told of it."},
        }
    ),
    "Agents": object_schema({"agents": array(ref("Agent")), **PARTIAL}),
    "Topic": object_schema(
        {
            "topic": TEXT,
            "partitions": array(
                object_schema(
                    {
                        "partition": COUNT,
                        "owner": {**TEXT_OR_NULL, "description": "Address of the worker that reads it."},
                        "start": OFFSET_OR_NULL,
                        "end": OFFSET_OR_NULL,
                        "position": {
                            **OFFSET_OR_NULL,
                            "description": "The least that the app's consumers have checkpointed.",
                        },
                        "lag": LAG,
                    }
                )
            ),
            "internal": {"type": "boolean", "description": "It holds the app's own state."},
            "agents": {**array(TEXT), "description": "Agents that read it."},
            "tables": {**array(TEXT), "description": "Tables that are made from it, or that it holds."},
        }
    ),
    "Topics": object_schema({"topics": array(ref("Topic")), **PARTIAL}),
    "Message": object_schema(
        {
            "partition": COUNT,
            "offset": OFFSET,
            "timestamp": INSTANT_OR_NULL,
            "key": {"description": "Any JSON."},
            "value": {"description": "Any JSON."},
            "headers": HEADERS,
            "error": {**TEXT, "description": "Why the topic's readers set it aside."},
            "bytes": {**COUNT, "description": "Size of a value of which only the beginning is shown."},
        },
        required=("partition", "offset", "timestamp", "key", "value", "headers"),
    ),
    "Messages": object_schema(
        {
            "messages": array(ref("Message")),
            "next": {
                "description": "Where the partition goes on; null at its end.",
                "anyOf": [object_schema({"partition": COUNT, "offset": OFFSET}), {"type": "null"}],
            },
        }
    ),
}
