"""Requests that name topics by id, in the version that the broker has."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from aiokafka.protocol.fetch import FetchRequest, FetchResponse_v11
from aiokafka.protocol.metadata import MetadataResponse_v5

from streamflow.transports.kafka.topic_ids import (
    NO_ID,
    FetchById,
    FetchResponse,
    MetadataRequest,
    MetadataResponse,
    TopicDescription,
    described,
    fetched_rows,
    id_bytes,
    id_text,
)

ID = bytes(range(16))
OTHER = bytes(range(16, 32))


def read(kind: Any, *values: Any) -> Any:
    """An answer as it is read from its bytes."""
    return kind.decode(BytesIO(kind(*values).encode()))


def new_metadata(*topics: tuple[int, str, bytes, list[list[int]]]) -> Any:
    rows: list[Any] = [
        (code, name, topic_id, False, [(0, p, 1, 0, r, r, [], {}) for p, r in enumerate(replicas)], 0, {})
        for code, name, topic_id, replicas in topics
    ]
    return read(MetadataResponse, 0, [(1, "host", 9092, None, {})], "cluster", 1, rows, 0, {})


@pytest.mark.parametrize("text", [id_text(ID), id_text(OTHER), id_text(NO_ID)])
def test_an_id_is_written_as_kafkas_tools_do(text: str) -> None:
    assert id_text(id_bytes(text)) == text
    assert len(text) == 22


def test_what_a_broker_tells_of_topics_is_read_in_either_version() -> None:
    answer = new_metadata((0, "a", ID, [[1, 2, 3], [1, 2]]), (3, "gone", NO_ID, []), (0, "b", NO_ID, [[1]]))
    assert described(answer) == {
        "a": TopicDescription(id_text(ID), 2, 2),
        "b": TopicDescription("", 1, 1),
    }
    partitions: list[Any] = [(0, 0, 1, [1, 2], [1, 2], []), (0, 1, 1, [1, 2, 3], [1], [])]
    old = read(
        MetadataResponse_v5,
        0,
        [(1, "host", 9092, None)],
        "cluster",
        1,
        [(0, "a", False, partitions), (3, "gone", False, [])],
    )
    assert described(old) == {"a": TopicDescription("", 2, 2)}


@pytest.mark.parametrize("newest, version", [(13, 10), (10, 10), (9, 5), (5, 5)])
def test_metadata_is_asked_for_with_ids_where_the_broker_has_them(newest: int, version: int) -> None:
    request = MetadataRequest(["a", "b"]).prepare({3: (0, newest)})
    assert version == request.API_VERSION
    assert type(request).decode(BytesIO(request.encode())).encode() == request.encode()


def by_name() -> Any:
    return FetchRequest(100, 1, 1_000, 1, [("a", [(0, 70, 500), (1, 80, 500)]), ("b", [(0, 90, 500)])])


@pytest.mark.parametrize("newest, version", [(17, 13), (13, 13), (12, 11), (11, 11)])
def test_a_fetch_names_ids_where_the_broker_takes_them(newest: int, version: int) -> None:
    request = FetchById(by_name(), {"a": ID, "b": OTHER}).prepare({1: (4, newest)})
    assert version == request.API_VERSION
    if version == 13:
        sent = type(request).decode(BytesIO(request.encode()))
        assert [(topic, [(p, offset) for p, _, offset, *_ in rows]) for topic, rows, _ in sent.topics] == [
            (ID, [(0, 70), (1, 80)]),
            (OTHER, [(0, 90)]),
        ]


def test_answers_of_both_versions_read_alike_and_of_other_ids_not_at_all() -> None:
    row = (0, 0, 10, 9, 5, [(7, 6)], -1, b"records")
    old = read(FetchResponse_v11, 0, 0, 0, [("a", [row])])
    aborted: list[Any] = [(7, 6, {})]
    new = read(
        FetchResponse,
        0,
        0,
        0,
        [(ID, [(*row[:5], aborted, -1, b"records", {})], {}), (OTHER, [(*row[:5], None, -1, None, {})], {})],
        {},
    )
    (told,) = fetched_rows(old, {})
    assert told == ("a", [row])
    assert fetched_rows(new, {"a": ID}) == [told]
