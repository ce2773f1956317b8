"""The main job on Redis as anybody sees it from outside: plain XADD in, and the streams to check it by."""

from __future__ import annotations

import json
import pathlib
import random
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import redis

from streamflow.clock import rfc3339
from streamflow.partitioner import fnv1a
from tests.integration.job import TABLES, holds
from tests.integration.workers import (
    PARTITIONS,
    PAUSE_MS,
    ROOT,
    T0_MS,
    TYPES,
    WINDOW_MS,
    Expected,
    WorkerProcess,
    difference,
    wait_for,
)

USERS = [f"user-{n}" for n in range(200)]
BATCH = 500
LAST = "last"  # type of the events that close what came before them


class RedisJob:
    """``agents/events.py``, alone on a server, without the tick of the wall clock.

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
        source = (ROOT / "agents" / "events.py").read_text()
        assert "idle_close_s=10" in source
        self._module = folder / "job_under_test.py"
        self._module.write_text(source.replace("idle_close_s=10", "idle_close_s=None"))
        self._folder = folder
        self._settings = {"broker": broker, "session_timeout_ms": "3000", **settings}
        self._connect = connect
        self._random = random.Random(seed)
        self._last_ms = T0_MS
        self._number = 0
        self.acknowledged: set[tuple[str, bytes]] = set()  # (stream, id)
        self.workers: list[WorkerProcess] = []

    def start(self) -> WorkerProcess:
        """One worker more; it is not ready yet."""
        log = self._folder / f"worker-{len(self.workers)}.log"
        worker = WorkerProcess(self._module, log, **self._settings)
        self.workers.append(worker)
        worker.start()
        return worker

    def end(self) -> None:
        for worker in self.workers:
            worker.end()

    def send(self, count: int, *, span_ms: int = 60_000) -> int:
        """``count`` events, long after those before; how many the server did not take.

        After a connection that breaks the rest of a batch may be there or not; it is not sent again.
        """
        first_ms = self._last_ms - self._last_ms % WINDOW_MS + PAUSE_MS
        refused = 0
        client = self._connect()
        try:
            for start in range(0, count, BATCH):
                events = []
                for n in range(start, min(count, start + BATCH)):
                    self._last_ms = first_ms + n * span_ms // count
                    events.append((self._random.choice(USERS), self._random.choice(TYPES), self._last_ms))
                refused += len(events) - self._add(client, events)
        finally:
            client.close()
        return refused

    def finish(self) -> None:
        """One event for each partition, long after the others: every window before it closes."""
        self._last_ms += PAUSE_MS
        users = [next(u for u in USERS if fnv1a(u.encode(), PARTITIONS) == p) for p in range(PARTITIONS)]
        client = self._connect()
        try:
            assert self._add(client, [(user, LAST, self._last_ms) for user in users]) == PARTITIONS
        finally:
            client.close()

    def _add(self, client: Any, events: list[tuple[str, str, int]]) -> int:
        """How many were acknowledged. Half of them field maps, as one types them, half JSON in ``v``."""
        pipeline = client.pipeline(transaction=False)
        streams = []
        for user, kind, time_ms in events:
            self._number += 1
            fields: dict[Any, Any] = {"type": kind, "timestamp": rfc3339(time_ms)}
            if self._number % 2:
                fields |= {"key": user, "amount": 7}
            else:
                event = {"id": str(self._number), **fields, "data": {"user": user}}
                fields = {"v": json.dumps(event), "k": user}
            streams.append(stream_of(fnv1a(user.encode(), PARTITIONS)))
            pipeline.xadd(streams[-1], fields)
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
        client = self._connect()
        try:
            for partition in range(PARTITIONS):
                stream = stream_of(partition)
                for id_, fields in client.xrange(stream):
                    ids.add((stream, id_))
                    expected.add(*read_entry(fields))
        finally:
            client.close()
        return expected, ids

    def lost(self) -> int:
        """Events that were acknowledged and are not there."""
        return len(self.acknowledged - self.log()[1])

    def check(self) -> None:
        """Every worker answers with exactly what the streams hold, and so do the results."""
        expected, _ = self.log()
        for worker in self.workers:
            for table in TABLES:
                wanted = expected.rows(table)
                try:
                    wait_for("exact", partial(holds, worker, table, wanted))
                except AssertionError:
                    found = worker.rows(table)
                    log = worker.log()[-2_000:]
                    raise AssertionError(f"{table}: {difference(found, wanted)}\n{log}") from None
        self._check_results(expected)

    def _check_results(self, expected: Expected) -> None:
        """Each window before the last ones stands once in the results, with its final counts."""
        wanted = {
            start: result for start, result in expected.results().items() if LAST not in result["event_types"]
        }

        def closed() -> list[dict[str, Any]]:
            return [result for result in self.results() if LAST not in result["event_types"]]

        wait_for("all windows are closed", lambda: len(closed()) >= len(wanted))
        found = closed()
        assert sorted(result["window_start"] for result in found) == sorted(wanted)
        assert {result["window_start"]: result for result in found} == wanted

    def results(self) -> list[dict[str, Any]]:
        client = self._connect()
        try:
            return [json.loads(fields[b"v"]) for _, fields in client.xrange("window-results:0")]
        finally:
            client.close()

    def lags(self) -> list[int | None]:
        """By partition, as XINFO GROUPS tells it."""
        client = self._connect()
        try:
            groups = [client.xinfo_groups(stream_of(partition)) for partition in range(PARTITIONS)]
            return [group["lag"] for partition in groups for group in partition]
        finally:
            client.close()


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
