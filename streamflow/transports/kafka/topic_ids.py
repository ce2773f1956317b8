"""Requests that name topics by id as well: metadata that tells the ids, and fetches that insist on them.

A name says nothing of whether its topic is still the one that it was: a topic that was deleted and made again
answers to it, at offsets that mean other records. So a fetch names the id (version 13, Kafka 3.1); a broker
whose topic has another one gives nothing. Older brokers are asked as before, and what is left there is that a
log which ends before a position can't be the log in which it was taken.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest as OldMetadataRequest
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from streamflow.transports.kafka.protocol import NO_TAGS, NONE, S

NO_ID = bytes(16)
FETCH_KEY = 1
METADATA_KEY = 3
UNKNOWN_TOPIC_ID = 100
INCONSISTENT_TOPIC_ID = 103
# The topic of that name has another id, as far as this broker knows.
ANOTHER_TOPIC = frozenset({UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID})


class Uuid(AbstractType[bytes]):  # type: ignore[misc]  # aiokafka ships no types
    """16 bytes as they are."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: Any) -> bytes:
        return bytes(data.read(16))


def id_text(topic_id: bytes) -> str:
    """As Kafka's tools print it."""
    return base64.urlsafe_b64encode(topic_id).decode().rstrip("=")


def id_bytes(text: str) -> bytes:
    """The inverse of `id_text`."""
    return base64.urlsafe_b64decode(text + "==")


class TopicDescription(NamedTuple):
    """What one broker knows of a topic. ``topic_id``: empty where it does not tell.

    ``copies``: replicas of the partition that has the fewest.
    """

    topic_id: str
    partitions: int
    copies: int


class MetadataResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = METADATA_KEY
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32), ("host", S), ("port", Int32), ("rack", S), ("tags", TaggedFields)
            ),
        ),
        ("cluster_id", S),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", S),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class MetadataRequest_v10(RequestStruct):  # type: ignore[misc]  # noqa: N801  # as aiokafka names them
    """The first version that tells topic ids."""

    API_KEY = METADATA_KEY
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = MetadataResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", Uuid), ("topic", S), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class MetadataRequest(Request[MetadataRequest_v10]):  # type: ignore[misc]  # aiokafka ships no types
    """What a broker knows of topics, with their ids where it is new enough. Nothing is created by asking."""

    API_KEY = METADATA_KEY

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: Any) -> Any:
        rows = [(NO_ID, topic, NO_TAGS) for topic in self._topics]
        return request_struct_class(rows, False, False, False, NO_TAGS)

    def prepare(self, versions: Any) -> Any:
        if versions.get(METADATA_KEY, (0, 0))[1] >= MetadataRequest_v10.API_VERSION:
            return self.build(MetadataRequest_v10)
        return OldMetadataRequest(self._topics, allow_auto_topic_creation=False).prepare(versions)


def described(answer: Any) -> dict[str, TopicDescription]:
    """The topics of an answer to `MetadataRequest` that are there."""
    with_id = answer.API_VERSION >= MetadataRequest_v10.API_VERSION
    found = {}
    for row in answer.topics:
        code, name, partitions = row[0], row[1], row[4] if with_id else row[-1]
        if code == NONE and partitions:
            topic_id = id_text(row[2]) if with_id and row[2] != NO_ID else ""
            replicas = [partition[4 if with_id else 3] for partition in partitions]
            found[name] = TopicDescription(topic_id, len(partitions), min(map(len, replicas)))
    return found


class FetchResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = FETCH_KEY
    API_VERSION = 13
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("session_id", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", Uuid),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("high_watermark", Int64),
                        ("last_stable_offset", Int64),
                        ("log_start_offset", Int64),
                        (
                            "aborted",
                            CompactArray(
                                ("producer_id", Int64), ("first_offset", Int64), ("tags", TaggedFields)
                            ),
                        ),
                        ("preferred_read_replica", Int32),
                        ("records", CompactBytes),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class FetchRequest_v13(RequestStruct):  # type: ignore[misc]  # noqa: N801  # as aiokafka names them
    """The first version that names topics by id alone."""

    API_KEY = FETCH_KEY
    API_VERSION = 13
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = FetchResponse
    SCHEMA = Schema(
        ("replica_id", Int32),
        ("max_wait_ms", Int32),
        ("min_bytes", Int32),
        ("max_bytes", Int32),
        ("isolation_level", Int8),
        ("session_id", Int32),
        ("session_epoch", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", Uuid),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("current_leader_epoch", Int32),
                        ("fetch_offset", Int64),
                        ("last_fetched_epoch", Int32),
                        ("log_start_offset", Int64),
                        ("max_bytes", Int32),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        (
            "forgotten",
            CompactArray(("topic_id", Uuid), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)),
        ),
        ("rack_id", S),
        ("tags", TaggedFields),
    )


class FetchById(Request[FetchRequest_v13]):  # type: ignore[misc]  # aiokafka ships no types
    """A fetch of aiokafka's, by ids where the broker knows such. ``ids``: topic -> its id, of each topic."""

    API_KEY = FETCH_KEY

    def __init__(self, by_name: Any, ids: Mapping[str, bytes]) -> None:
        self._by_name = by_name
        self._ids = ids

    def build(self, request_struct_class: Any) -> Any:
        one = self._by_name
        topics = [
            (
                self._ids[topic],
                [(partition, -1, offset, -1, -1, size, NO_TAGS) for partition, offset, size in rows],
                NO_TAGS,
            )
            for topic, rows in one.topics
        ]
        limits = (one._max_wait_ms, one._min_bytes, one._max_bytes, one._isolation_level)
        # No fetch session (0, -1); no replica (-1).
        return request_struct_class(-1, *limits, 0, -1, topics, [], one._rack_id, NO_TAGS)

    def prepare(self, versions: Any) -> Any:
        if versions.get(FETCH_KEY, (0, 0))[1] >= FetchRequest_v13.API_VERSION:
            return self.build(FetchRequest_v13)
        return self._by_name.prepare(versions)


def fetched_rows(answer: Any, ids: Mapping[str, bytes]) -> Iterable[tuple[str, Sequence[Any]]]:
    """(topic, rows) of a fetch's answer of any version, the rows as those of versions 5 to 11."""
    if answer.API_VERSION < FetchRequest_v13.API_VERSION:
        found: Iterable[tuple[str, Sequence[Any]]] = answer.topics
        return found
    names = {topic_id: topic for topic, topic_id in ids.items()}
    return [
        (
            names[topic_id],
            [(*row[:5], [(one[0], one[1]) for one in row[5] or ()], row[6], row[7]) for row in rows],
        )
        for topic_id, rows, _ in answer.topics
        if topic_id in names
    ]
