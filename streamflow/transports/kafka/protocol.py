"""Kafka's requests that aiokafka lacks or speaks in too old a version, and the error codes by name.

Layouts are those of the protocol's published schemas. ``S`` below is a compact string; requests and
answers of flexible versions end in tagged fields, which are always empty here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiokafka.protocol.admin import CreateTopicsRequest_v3, CreateTopicsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

S: Final = CompactString("utf-8")
NONE: Final = 0
LEADER_EPOCH_UNKNOWN: Final = -1
NO_TAGS: Final[dict[int, bytes]] = {}

ERROR_NAMES: Final[Mapping[int, str]] = {
    -1: "UNKNOWN_SERVER_ERROR",
    0: "NONE",
    2: "CORRUPT_MESSAGE",
    3: "UNKNOWN_TOPIC_OR_PARTITION",
    5: "LEADER_NOT_AVAILABLE",
    6: "NOT_LEADER_OR_FOLLOWER",
    7: "REQUEST_TIMED_OUT",
    9: "REPLICA_NOT_AVAILABLE",
    10: "MESSAGE_TOO_LARGE",
    12: "OFFSET_METADATA_TOO_LARGE",
    13: "NETWORK_EXCEPTION",
    14: "COORDINATOR_LOAD_IN_PROGRESS",
    15: "COORDINATOR_NOT_AVAILABLE",
    16: "NOT_COORDINATOR",
    17: "INVALID_TOPIC_EXCEPTION",
    18: "RECORD_LIST_TOO_LARGE",
    19: "NOT_ENOUGH_REPLICAS",
    20: "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    22: "ILLEGAL_GENERATION",
    25: "UNKNOWN_MEMBER_ID",
    27: "REBALANCE_IN_PROGRESS",
    29: "TOPIC_AUTHORIZATION_FAILED",
    30: "GROUP_AUTHORIZATION_FAILED",
    31: "CLUSTER_AUTHORIZATION_FAILED",
    32: "INVALID_TIMESTAMP",
    36: "TOPIC_ALREADY_EXISTS",
    37: "INVALID_PARTITIONS",
    38: "INVALID_REPLICATION_FACTOR",
    40: "INVALID_CONFIG",
    41: "NOT_CONTROLLER",
    44: "POLICY_VIOLATION",
    45: "OUT_OF_ORDER_SEQUENCE_NUMBER",
    46: "DUPLICATE_SEQUENCE_NUMBER",
    47: "INVALID_PRODUCER_EPOCH",
    48: "INVALID_TXN_STATE",
    49: "INVALID_PRODUCER_ID_MAPPING",
    50: "INVALID_TRANSACTION_TIMEOUT",
    51: "CONCURRENT_TRANSACTIONS",
    52: "TRANSACTION_COORDINATOR_FENCED",
    53: "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
    55: "OPERATION_NOT_ATTEMPTED",
    56: "KAFKA_STORAGE_ERROR",
    59: "UNKNOWN_PRODUCER_ID",
    74: "FENCED_LEADER_EPOCH",
    75: "UNKNOWN_LEADER_EPOCH",
    78: "OFFSET_NOT_AVAILABLE",
    82: "FENCED_INSTANCE_ID",
    87: "INVALID_RECORD",
    88: "UNSTABLE_OFFSET_COMMIT",
    89: "THROTTLING_QUOTA_EXCEEDED",
    90: "PRODUCER_FENCED",
    120: "TRANSACTION_ABORTABLE",
}

# The group has another generation, or does not know this member: the assignment is void.
GROUP_FENCED: Final = frozenset({22, 25, 82})
# Of these, what the member itself is to hear of at once: it joins anew. 82 is of another that has its name.
GROUP_FORGOT: Final = frozenset({22, 25})
UNKNOWN_MEMBER: Final = 25
# The coordinator has moved or is not there yet: look it up again.
COORDINATOR_MOVED: Final = frozenset({7, 15, 16})
# The coordinator is busy with itself or with the end of the transaction before: ask again.
COORDINATOR_BUSY: Final = frozenset({13, 14, 51})
# The leader of a partition has moved, or has not heard of it yet: refresh the metadata.
LEADER_MOVED: Final = frozenset({3, 5, 6, 9, 56, 74, 75})
# A leader that could not do it this time.
LEADER_BUSY: Final = frozenset({2, 7, 13, 19, 20, 78, 89})
TOO_LARGE: Final = frozenset({10, 18})
# A record of the batch will never be taken: such as one without key by a compacted topic.
RECORD_INVALID: Final = frozenset({32, 44, 87})
# What only somebody's hand can help with: code -> what to do.
DENIALS: Final[Mapping[int, str]] = {
    30: "this user may not use the group; allow it Read on the groups that begin with the app's id",
    31: "this user may not write idempotently; allow it IdempotentWrite on the cluster or Write on topics",
    50: "setting transaction_timeout_ms is above the broker's transaction.max.timeout.ms",
    53: (
        "this user may not use that transactional id; allow it Write and Describe on the transactional ids"
        " that begin with the app's id, or set processing_guarantee to 'at_least_once'"
    ),
}

TOPIC_ALREADY_EXISTS: Final = 36
NOT_CONTROLLER: Final = 41
UNSTABLE_OFFSET_COMMIT: Final = 88


def error_name(code: int) -> str:
    """``ILLEGAL_GENERATION (22)``."""
    return f"{ERROR_NAMES.get(code, 'error')} ({code})"


class Exactly(Request[Any]):  # type: ignore[misc]  # aiokafka ships no types
    """A request in the one version that we know; the client asks a builder for it."""

    API_KEY = -1  # Not used: `prepare` does not look anything up.

    def __init__(self, struct: Any) -> None:
        self._struct = struct

    def build(self, request_struct_class: Any) -> Any:
        return self._struct

    def prepare(self, versions: Any) -> Any:
        return self._struct


class TxnOffsetCommitResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 28
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "errors",
            CompactArray(
                ("topic", S),
                (
                    "partition_errors",
                    CompactArray(("partition", Int32), ("error_code", Int16), ("tags", TaggedFields)),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class TxnOffsetCommitRequest(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    """Version 3 carries the group's generation: without it a worker that lost its partitions commits."""

    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = TxnOffsetCommitResponse
    SCHEMA = Schema(
        ("transactional_id", S),
        ("group_id", S),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", S),
        ("group_instance_id", S),
        (
            "topics",
            CompactArray(
                ("topic", S),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", S),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class OffsetCommitResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 8
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "errors",
            Array(
                ("topic", String("utf-8")),
                ("partition_errors", Array(("partition", Int32), ("error_code", Int16))),
            ),
        ),
    )


class OffsetCommitRequest(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    """Version 7 carries the static member's name."""

    API_KEY = 8
    API_VERSION = 7
    RESPONSE_TYPE = OffsetCommitResponse
    SCHEMA = Schema(
        ("group_id", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", String("utf-8")),
                    ),
                ),
            ),
        ),
    )


class OffsetFetchResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", S),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", S),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class OffsetFetchRequest(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    """Version 7 can refuse to answer while a commit is undecided (``require_stable``)."""

    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = OffsetFetchResponse
    SCHEMA = Schema(
        ("group_id", S),
        (
            "topics",
            CompactArray(("topic", S), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class HeartbeatResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 12
    API_VERSION = 3
    SCHEMA = Schema(("throttle_time_ms", Int32), ("error_code", Int16))


class HeartbeatRequest(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    """Version 3 carries the static member's name."""

    API_KEY = 12
    API_VERSION = 3
    RESPONSE_TYPE = HeartbeatResponse
    SCHEMA = Schema(
        ("group_id", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
    )


class CreateTopicsResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 19
    API_VERSION = 4
    SCHEMA = CreateTopicsResponse_v3.SCHEMA


class CreateTopicsRequest(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    """Version 4 lets the broker choose the number of replicas (-1)."""

    API_KEY = 19
    API_VERSION = 4
    RESPONSE_TYPE = CreateTopicsResponse
    SCHEMA = CreateTopicsRequest_v3.SCHEMA


class MetadataResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 3
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
            ),
        ),
    )


class MetadataRequest(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    """Version 7 tells the epoch of each leader."""

    API_KEY = 3
    API_VERSION = 7
    RESPONSE_TYPE = MetadataResponse
    SCHEMA = Schema(("topics", Array(String("utf-8"))), ("allow_auto_topic_creation", Boolean))


class OffsetForLeaderEpochResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 23
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader_epoch", Int32),
                        ("end_offset", Int64),
                    ),
                ),
            ),
        ),
    )


class OffsetForLeaderEpochRequest(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    """Version 3 is for consumers too: a broker whose epoch is not the one that is named refuses."""

    API_KEY = 23
    API_VERSION = 3
    RESPONSE_TYPE = OffsetForLeaderEpochResponse
    SCHEMA = Schema(
        ("replica_id", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(("partition", Int32), ("current_leader_epoch", Int32), ("leader_epoch", Int32)),
                ),
            ),
        ),
    )
