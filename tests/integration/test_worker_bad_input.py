"""What can't be an event is set aside as it was, and the worker goes on."""

from __future__ import annotations

import json

from tests.integration.job import Cluster
from tests.integration.workers import PARTITIONS, Events, Message, read_all, wait_for

BIG = b'{"id": "1", "type": "click", "data": "' + b"x" * 900_000


def good(**changes: object) -> bytes:
    event = {
        "id": "1",
        "type": "click",
        "timestamp": "2025-10-09T08:53:20Z",
        "data": {"user": "ann"},
        **changes,
    }
    return json.dumps({name: value for name, value in event.items() if value is not None}).encode()


# name -> (key, value, reason)
BAD: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "not JSON": (b"ann", b"\x00\xffhello", "not-json"),
    "an array": (b"ann", b'["id", 1]', "wrong-type"),
    "no id": (b"ann", good(id=None), "missing-field"),
    "no timestamp": (b"ann", good(timestamp=None), "missing-field"),
    "no type": (b"ann", good(type=None), "missing-type"),
    "data of a wrong type": (b"ann", good(data=[1]), "wrong-type"),
    "type of a wrong type": (b"ann", good(type=7), "wrong-type"),
    "the year 1": (b"ann", good(timestamp="0001-01-01T00:00:00Z"), "bad-timestamp"),
    "the year 9999": (b"ann", good(timestamp="9999-12-31T23:59:59Z"), "bad-timestamp"),
    "no time zone": (b"ann", good(timestamp="2025-10-09T08:53:20"), "bad-timestamp"),
    "far out of range in ms": (b"ann", good(timestamp=10**17), "bad-timestamp"),
    "NaN": (b"ann", good().replace(b'"2025-10-09T08:53:20Z"', b"NaN"), "not-json"),
    "null": (b"ann", None, "null-value"),
    "a key that is no UTF-8": (b"\xff\xfe\x00", good(), "bad-key"),
    "900 KB of broken JSON": (b"ann", BIG, "not-json"),
}


def test_every_bad_record_is_set_aside_as_it_was_and_the_good_ones_are_counted(cluster: Cluster) -> None:
    events = Events(cluster.kafka, cluster.topic)
    places: dict[str, int] = {}
    for number, (name, (key, value, _)) in enumerate(BAD.items()):
        events.send(50, span_ms=1_000)
        places[name] = number % PARTITIONS
        events.raw(key, value, places[name])
    events.finish()
    worker = cluster.start()
    worker.wait_ready()
    cluster.check(events)

    letters: list[Message] = wait_for("all are set aside", lambda: set_aside(cluster, len(BAD)))
    assert len(letters) == len(BAD)
    for name, (key, value, reason) in BAD.items():
        letter = next(m for m in letters if (m.key, m.value) == (key, value))
        told = {header: text.decode() for header, text in letter.headers.items()}
        assert told["reason"] == reason, (name, told)
        assert told["source-topic"] == cluster.topic
        assert told["source-partition"] == str(places[name])
        assert int(told["source-offset"]) >= 0
        assert told["error"]
    assert worker.metric("streamflow_dead_letters_total") == len(BAD)
    assert worker.status("/healthz") == 200


def set_aside(cluster: Cluster, count: int) -> list[Message]:
    letters = read_all(cluster.kafka, f"{cluster.topic}-dead-letters")
    return letters if len(letters) >= count else []
