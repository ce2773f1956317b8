"""The main job on Redis as anybody sees it from outside: plain XADD in, and the streams to check it by."""

from __future__ import annotations

import contextlib
import json
import pathlib
import random
import secrets
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import redis

from streamflow.clock import rfc3339
from streamflow.partitioner import fnv1a
from tests.integration.job import Job, main_job
from tests.integration.workers import PARTITIONS, PAUSE_MS, T0_MS, TYPES, WINDOW_MS, Expected
from tests.support.redis_server import RedisServer

USERS = [f"user-{n}" for n in range(200)]
BATCH = 500
LAST = "last"  # type of the events that close what came before them

Event = tuple[str, str, int]  # user, type, time in ms


class Entries:
    """Makes events in both forms: half of them field maps, as one types them, half JSON in ``v``."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._number = 0
        self._last_ms = T0_MS

    def spread(self, count: int, span_ms: int) -> Iterator[Event]:
        """``count`` events over ``span_ms`` of event time, long after those before."""
        first_ms = self._last_ms - self._last_ms % WINDOW_MS + PAUSE_MS
        for n in range(count):
            self._last_ms = first_ms + n * span_ms // count
            yield self._random.choice(USERS), self._random.choice(TYPES), self._last_ms

    def closing(self) -> list[Event]:
        """One event for each partition, long after the others: every window before it closes."""
        self._last_ms += PAUSE_MS
        users = [next(u for u in USERS if partition_of(u) == p) for p in range(PARTITIONS)]
        return [(user, LAST, self._last_ms) for user in users]

    def fields(self, event: Event) -> dict[Any, Any]:
        user, kind, time_ms = event
        self._number += 1
        fields = {"type": kind, "timestamp": rfc3339(time_ms)}
        if self._number % 2:
            return fields | {"key": user, "amount": 7}
        return {"v": json.dumps({"id": str(self._number), **fields, "data": {"user": user}}), "k": user}


def partition_of(user: str) -> int:
    return fnv1a(user.encode(), PARTITIONS)


class NamedRedisJob(Job):
    """With stream names of its own on one server, and a producer of plain entries."""

    def __init__(self, server: RedisServer, folder: pathlib.Path) -> None:
        self.id = f"events-{secrets.token_hex(4)}"
        self.redis: Any = server.client()
        self.expected = Expected()
        self.server = server
        self._entries = Entries()
        super().__init__(
            folder,
            main_job(),
            id=self.id,
            broker=server.url,
            redis_stream_name=f"{self.id}.{{topic}}:{{partition}}",
            redis_key_prefix=self.id,
            session_timeout_ms="3000",
        )

    def end(self) -> None:
        super().end()
        self.redis.close()

    def stream(self, partition: int, topic: str = "events") -> str:
        return f"{self.id}.{topic}:{partition}"

    def send(self, count: int, *, span_ms: int) -> None:
        self._add(self._entries.spread(count, span_ms))

    def finish(self) -> None:
        """Closes every window."""
        self._add(self._entries.closing())

    def _add(self, events: Iterable[Event]) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for n, event in enumerate(events, 1):
            pipeline.xadd(self.stream(partition_of(event[0])), self._entries.fields(event))
            self.expected.add(*event)
            if n % BATCH == 0:
                pipeline.execute()
        pipeline.execute()

    def check(self) -> None:
        """Of the workers that run."""
        self.check_rows(self.expected, [worker for worker in self.workers if worker.running()])

    def check_results(self) -> None:
        self.check_closed(self.expected, self.results)

    def results(self) -> list[dict[str, Any]]:
        entries = self.redis.xrange(self.stream(0, "window-results"))
        return [json.loads(fields[b"v"]) for _, fields in entries]

    def lags(self) -> list[int | None]:
        return lags_of(self.redis, [self.stream(p) for p in range(PARTITIONS)])


class RedisJob(Job):
    """Alone on a server, without the tick of the wall clock.

    ``connect`` makes a client of the server that is master now; ``settings`` are the workers'.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        broker: str,
        connect: Callable[[], Any],
        seed: int = 1,
        **settings: str,
    ) -> None:
        source = main_job()
        assert "idle_close_s=10" in source
        settings = {"broker": broker, "session_timeout_ms": "3000", **settings}
        super().__init__(folder, source.replace("idle_close_s=10", "idle_close_s=None"), **settings)
        self._connect = connect
        self._entries = Entries(seed)
        self.acknowledged: set[tuple[str, bytes]] = set()  # (stream, id)

    def send(self, count: int, *, span_ms: int = 60_000) -> int:
        """``count`` events, long after those before; how many the server did not take.

        After a connection that breaks the rest of a batch may be there or not; it is not sent again.
        """
        events = list(self._entries.spread(count, span_ms))
        with contextlib.closing(self._connect()) as client:
            batches = (events[start : start + BATCH] for start in range(0, count, BATCH))
            return count - sum(self._add(client, batch) for batch in batches)

    def finish(self) -> None:
        """Closes every window."""
        with contextlib.closing(self._connect()) as client:
            assert self._add(client, self._entries.closing()) == PARTITIONS

    def _add(self, client: Any, events: list[Event]) -> int:
        """How many were acknowledged."""
        pipeline = client.pipeline(transaction=False)
        streams = [stream_of(partition_of(user)) for user, _, _ in events]
        for stream, event in zip(streams, events, strict=True):
            pipeline.xadd(stream, self._entries.fields(event))
        try:
            answers = pipeline.execute(raise_on_error=False)
        except (redis.ConnectionError, redis.TimeoutError):
            return 0
        taken = {
            (stream, id_) for stream, id_ in zip(streams, answers, strict=True) if isinstance(id_, bytes)
        }
        self.acknowledged |= taken
        return len(taken)

    def log(self) -> tuple[Expected, set[tuple[str, bytes]]]:
        """What the streams hold now, counted by hand, and the ids in them."""
        expected, ids = Expected(), set()
        with contextlib.closing(self._connect()) as client:
            for stream in map(stream_of, range(PARTITIONS)):
                for id_, fields in client.xrange(stream):
                    ids.add((stream, id_))
                    expected.add(*read_entry(fields))
        return expected, ids

    def lost(self) -> int:
        """Events that were acknowledged and are not there."""
        return len(self.acknowledged - self.log()[1])

    def check(self) -> None:
        """Every worker answers with exactly what the streams hold, and so do the results."""
        expected, _ = self.log()
        self.check_rows(expected)
        self.check_closed(expected, self.results, lambda result: LAST in result["event_types"])

    def results(self) -> list[dict[str, Any]]:
        with contextlib.closing(self._connect()) as client:
            return [json.loads(fields[b"v"]) for _, fields in client.xrange("window-results:0")]

    def lags(self) -> list[int | None]:
        with contextlib.closing(self._connect()) as client:
            return lags_of(client, [stream_of(p) for p in range(PARTITIONS)])


def lags_of(client: Any, streams: Iterable[str]) -> list[int | None]:
    """By partition, as XINFO GROUPS tells it."""
    return [group["lag"] for stream in streams for group in client.xinfo_groups(stream)]


def stream_of(partition: int) -> str:
    return f"events:{partition}"


def read_entry(fields: dict[bytes, bytes]) -> tuple[str, str, int]:
    """(user, type, time in ms) of an entry in either form."""
    if b"v" in fields:
        event = json.loads(fields[b"v"])
        return event["data"]["user"], event["type"], time_ms_of(event["timestamp"])
    return fields[b"key"].decode(), fields[b"type"].decode(), time_ms_of(fields[b"timestamp"].decode())


def time_ms_of(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000)
