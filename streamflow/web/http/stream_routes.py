"""The routes of what streams through an app: its workers, agents and topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamflow.web.http.route import TEXT, TIME, Parameter, Route, Schema, array, object_schema, ref
from streamflow.web.messages import MODES, WINDOWS

TOPIC: Final = Parameter("topic", "Name of the topic.", TEXT, "path")
ID: Final = Parameter("id", "Where the letter lies: topic:partition:offset.", TEXT, "path")

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
    Route(
        "events",
        "/v1/topics/{topic}/events",
        "The records of a topic as they are committed: the messages of /v1/ws as server-sent events.",
        "text/event-stream",
        (
            TOPIC,
            Parameter("where", "Only values of which this holds, as in lists of rows.", TEXT),
            Parameter("since", "Cursor to resume from; the header `Last-Event-ID` goes before.", TEXT),
        ),
        (400, 404, 409, 503),
        group="changes",
    ),
    Route(
        "publish",
        "/v1/topics/{topic}",
        "Publishes one event, several, or one a line: checked as the app's own sends are, and all before any "
        "is sent. Needs the right publish:topic, which nobody has by default.",
        "Published",
        (
            TOPIC,
            Parameter(
                "Idempotency-Key",
                "Asked again with it within an hour, this worker publishes nothing, and answers as before.",
                TEXT,
                "header",
            ),
        ),
        (400, 404, 409, 413, 503),
        method="post",
        takes="Publish",
        group="publish",
    ),
    Route(
        "dead_letters",
        "/v1/dead-letters",
        "Events that were set aside, in the order of topic, partition and offset.",
        "DeadLetters",
        (
            Parameter("topic", "Only those of this topic's events, or in this dead-letter topic.", TEXT),
            Parameter("reason", "Only those with this reason.", TEXT),
            Parameter(
                "state",
                "Those that wait, or that were replayed or dropped.",
                {"enum": ["waiting", "replayed", "dropped", "all"], "default": "waiting"},
            ),
            Parameter("limit", "Letters of a page.", {"type": "integer", "minimum": 1, "default": 100}),
            Parameter("cursor", "`next` of the page before; everything else as it was.", TEXT),
        ),
        (400, 503),
        group="dead-letters",
    ),
    Route(
        "dead_letter",
        "/v1/dead-letters/{id}",
        "One of them, with its traceback and the command that replays it.",
        "DeadLetterWhole",
        (ID,),
        (400, 404, 503),
        group="dead-letters",
    ),
    Route(
        "dead_letter_replay",
        "/v1/dead-letters/{id}/replay",
        "Sends its event to where it came from, for all who read there or for one agent, as it was or with "
        "another value. Needs the right admin:topic for its dead-letter topic.",
        "Replayed",
        (ID,),
        (400, 404, 409, 503),
        method="post",
        takes="ReplayAsked",
        group="dead-letters",
    ),
    Route(
        "dead_letter_drop",
        "/v1/dead-letters/{id}",
        "Takes it out of those that wait. Needs the right admin:topic for its dead-letter topic.",
        "Dropped",
        (ID,),
        (400, 404, 503),
        method="delete",
        group="dead-letters",
    ),
)

_EVENT: Final[Mapping[str, Schema]] = {
    "key": {"description": "Any JSON that is a key of the topic."},
    "value": {"description": "Any JSON; what the topic's readers would set aside is refused."},
    "headers": {
        "description": "Names and texts.",
        "anyOf": [{"type": "object", "additionalProperties": TEXT_OR_NULL}, HEADERS],
    },
    "timestamp": {**TIME, "type": ["string", "integer", "null"]},
    "partition": {"type": ["integer", "null"], "minimum": 0, "description": "By default its key's."},
}
_LETTER: Final[Mapping[str, Schema]] = {
    "id": {**TEXT, "description": "topic:partition:offset"},
    "source": {**object_schema({**_AT, "offset": OFFSET}), "description": "Where its event came from."},
    "state": {"enum": ["waiting", "replayed", "dropped"]},
    "handled": {**INSTANT_OR_NULL, "description": "When it was replayed or dropped."},
    "reason": TEXT,
    "error": TEXT,
    "field": {**TEXT_OR_NULL, "description": "Path of the field that is wrong."},
    "agent": {**TEXT_OR_NULL, "description": "The agent that gave up on it."},
    "consumer": {**TEXT_OR_NULL, "description": "The agent or aggregate that could not use it."},
    "attempts": {"type": ["integer", "null"]},
    "worker": TEXT_OR_NULL,
    "time": {"type": "string", "format": "date-time", "description": "When it was set aside."},
    "key": {"description": "Any JSON."},
    "value": {"description": "Any JSON."},
    "cut": {**TEXT_OR_NULL, "description": "How much there was of an event that did not fit as a whole."},
    "headers": HEADERS,
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Subscriptions": object_schema(
        {
            "connections": {**COUNT, "description": "Open WebSockets."},
            "subscriptions": array(
                object_schema(
                    {
                        "worker": {**TEXT, "description": "The one that serves them."},
                        "table": {**TEXT_OR_NULL, "description": "Null where it is a topic."},
                        "topic": TEXT_OR_NULL,
                        "of_worker": {"type": "boolean", "description": "Another worker is the subscriber."},
                        "keys": {"type": ["integer", "null"], "description": "So many keys; null for all."},
                        "by_prefix": {"type": "boolean", "description": "Keys that begin in some way."},
                        "by_test": {"type": "boolean", "description": "Values of which something holds."},
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
    "DeadLetter": object_schema(_LETTER),
    "DeadLetters": object_schema(
        {
            "dead_letters": array(ref("DeadLetter")),
            "next": {
                **TEXT_OR_NULL,
                "description": "Cursor of the next page; there may be one though this page is not full.",
            },
        }
    ),
    "DeadLetterWhole": object_schema(
        {
            **_LETTER,
            "traceback": {**TEXT_OR_NULL, "description": "Its end, of an agent that raised."},
            "replay": {**TEXT_OR_NULL, "description": "The command that replays it."},
        }
    ),
    "ReplayAsked": object_schema(
        {
            "value": {"description": "In place of the event's own; any JSON."},
            "agent": {
                **TEXT_OR_NULL,
                "description": "It alone takes it; by default all that read there.",
            },
            "again": {"type": "boolean", "description": "Also where it was replayed or dropped before."},
        },
        required=(),
    ),
    "Replayed": object_schema(
        {
            "id": TEXT,
            "state": {"const": "replayed"},
            "position": object_schema({**_AT, "offset": OFFSET}),
        }
    ),
    "Dropped": object_schema({"id": TEXT, "state": {"const": "dropped"}}),
    "Event": object_schema(_EVENT, required=("value",)),
    "Publish": {
        "anyOf": [ref("Event"), object_schema({"events": array(ref("Event"))})],
    },
    "Published": object_schema(
        {
            "positions": {
                **array(object_schema({"partition": COUNT, "offset": OFFSET})),
                "description": "Where each event lies, in the order in which they came.",
            }
        }
    ),
}
