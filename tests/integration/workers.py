"""Real workers as processes, what they are asked over HTTP, and what they ought to answer."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streamflow.clock import rfc3339
from streamflow.partitioner import fnv1a
from tests.support.server import free_ports

ROOT = pathlib.Path(__file__).resolve().parents[2]
POLL_S = 0.1
WINDOW_MS = 10_000
T0_MS = 1_760_000_000_000  # a multiple of the window
PAUSE_MS = 600_000  # of event time between two calls of `Events.send`
PARTITIONS = 6
TYPES = ("click", "view", "buy", "error")

Row = tuple[Any, Any]  # key, window start in ms or as RFC 3339


def wait_for(what: str, check: Callable[[], Any], limit_s: float = 60.0) -> Any:
    """The first true answer of ``check``; fails with ``what`` when the time is over."""
    end = time.monotonic() + limit_s
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"after {limit_s} s still not: {what}")
        time.sleep(POLL_S)


def free_port() -> int:
    return free_ports(1)[0]


def free_port_pair() -> int:
    """A port that was free a moment ago, and so was the next one."""
    for _ in range(100):
        port = free_port()
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            probe.bind(("127.0.0.1", port + 1))
            return port
    raise AssertionError("no two ports beside each other are free")


class WorkerProcess:
    """``faust -A module worker`` with a port of its own, which it keeps over restarts.

    ``module`` is the file of the app; ``settings`` go into its environment.
    """

    def __init__(self, module: pathlib.Path, log: pathlib.Path, **settings: str) -> None:
        self.module = module
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self.settings = {"data_dir": str(log.parent / "data"), **settings}  # not in the folder of the code
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("STREAMFLOW_")}
        environ |= {f"STREAMFLOW_{name.upper()}": value for name, value in self.settings.items()}
        environ["PYTHONPATH"] = f"{self.module.parent}{os.pathsep}{ROOT}"
        command = [sys.executable, "-m", "faust", "-A", self.module.stem, "worker", "-l", "info"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--web-port", str(self.port)], cwd=ROOT, env=environ, stdout=log, stderr=log
            )

    def cpu_s(self) -> float:
        """CPU that it has used, user and system (Linux)."""
        assert self._process is not None
        stat = pathlib.Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tell(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def stop(self, how: signal.Signals = signal.SIGTERM, limit_s: float = 20.0) -> int:
        """Asks it to end; its exit code."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(limit_s)

    def wait(self, limit_s: float) -> int:
        """The exit code of a worker that ends by itself."""
        assert self._process is not None
        return self._process.wait(limit_s)

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(
                    f"the worker ended with {self._process.returncode}:\n{self.log()[-3000:]}"
                )
            with contextlib.suppress(OSError):
                return bool(self.get("/readyz")["status"] == "ready")
            return False

        wait_for(f"{self.url} is ready", ready)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> Any:
        """Raises urllib.error.HTTPError."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                code: int = answer.status
                return code
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code

    def rows(self, table: str) -> dict[Row, Any]:
        """(key, window start) -> value, from all workers. Raises AssertionError for a partial answer."""
        found: dict[Row, Any] = {}
        cursor: str | None = ""
        while cursor is not None:
            page = self.get(f"/v1/tables/{table}/rows?limit=1000" + (f"&cursor={cursor}" if cursor else ""))
            assert not page["partial"], page["missing_partitions"]
            for row in page["rows"]:
                at = (row["key"], row["window"]["start"])
                assert at not in found, f"{at} twice in {table}"
                found[at] = row["value"]
            cursor = page["next"]
        return found

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name
        )


@dataclass
class Expected:
    """What the three tables hold when every event was counted once."""

    by_user: Counter[Row] = field(default_factory=Counter)
    by_type: Counter[Row] = field(default_factory=Counter)
    totals: dict[int, Counter[str]] = field(default_factory=dict)

    def add(self, user: str, kind: str, time_ms: int) -> None:
        start = time_ms - time_ms % WINDOW_MS
        self.by_user[user, start] += 1
        self.by_type[kind, start] += 1
        self.totals.setdefault(start, Counter())[kind] += 1

    def rows(self, table: str) -> dict[Row, Any]:
        """As `WorkerProcess.rows` gives them."""
        if table == "window_totals":
            return {
                (None, rfc3339(start)): {"total_events": sum(types.values()), "event_types": dict(types)}
                for start, types in self.totals.items()
            }
        counts = self.by_user if table == "events_by_user" else self.by_type
        return {(key, rfc3339(start)): count for (key, start), count in counts.items()}

    def results(self) -> dict[str, Any]:
        """Window start -> record of `window-results`."""
        return {
            rfc3339(start): {
                "window_start": rfc3339(start),
                "window_end": rfc3339(start + WINDOW_MS),
                "total_events": sum(types.values()),
                "event_types": dict(types),
            }
            for start, types in self.totals.items()
        }


class Events:
    """Makes events whose times grow, keyed by user, in the partition that the app's rule gives."""

    def __init__(self, bootstrap: str, topic: str, seed: int = 1) -> None:
        self.topic = topic
        self.expected = Expected()
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "batch.size": 262_144})
        self._random = random.Random(seed)
        self._users = [f"user-{n}" for n in range(200)]
        self._number = 0
        self._last_ms = T0_MS  # event time of the newest

    def send(self, count: int, *, span_ms: int) -> None:
        """``count`` events over ``span_ms`` of event time, long after those sent before.

        Long after, since silence closes windows too: an event that followed closely would be late
        wherever this machine takes its time between two calls.
        """
        first_ms = self._later()
        for n in range(count):
            self._last_ms = first_ms + n * span_ms // count
            self.send_one(self._random.choice(self._users), self._random.choice(TYPES), self._last_ms)
        self.flush()

    def _later(self) -> int:
        """A window's start."""
        return self._last_ms - self._last_ms % WINDOW_MS + PAUSE_MS

    def send_one(self, user: str, kind: str, time_ms: int) -> None:
        self._number += 1
        value = (
            f'{{"id":"{self._number}","type":"{kind}","timestamp":"{rfc3339(time_ms)}",'
            f'"data":{{"user":"{user}","n":{self._number}}}}}'
        )
        self.raw(user.encode(), value.encode(), fnv1a(user.encode(), PARTITIONS))
        self.expected.add(user, kind, time_ms)

    def raw(self, key: bytes | None, value: bytes | None, partition: int) -> None:
        while True:
            try:
                self._producer.produce(self.topic, value, key, partition)
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.1)

    def finish(self) -> None:
        """One event for each partition, long after the others: every window before it closes."""
        self._last_ms = self._later()
        for partition in range(PARTITIONS):
            user = next(u for u in self._users if fnv1a(u.encode(), PARTITIONS) == partition)
            self.send_one(user, "last", self._last_ms)
        self.flush()

    def flush(self) -> None:
        assert self._producer.flush(60) == 0


def create_topics(bootstrap: str, topics: Mapping[str, int], copies: int = 1) -> None:
    """Topics whose records stay, however old their timestamps."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    wanted = [NewTopic(name, n, copies, config={"retention.ms": "-1"}) for name, n in topics.items()]
    for future in admin.create_topics(wanted).values():
        future.result(30)


@dataclass
class Message:
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


def read_all(bootstrap: str, topic: str) -> list[Message]:
    """Everything that is committed in a topic now."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"reader-{random.getrandbits(40):x}",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        return list(_until_end(consumer, set(partitions)))
    finally:
        consumer.close()


def _until_end(consumer: Any, left: set[int]) -> Iterator[Message]:
    from confluent_kafka import KafkaError

    end = time.monotonic() + 60
    while left:
        assert time.monotonic() < end, f"partitions {left} have no end"
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error() is not None:
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            left.discard(message.partition())
            continue
        yield Message(
            message.partition(),
            message.offset(),
            message.key(),
            message.value(),
            dict(message.headers() or ()),
        )


def difference(found: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> str:
    """What differs, in a few lines."""
    wrong = [at for at in {*found, *wanted} if found.get(at) != wanted.get(at)]
    lines: Sequence[str] = [f"{at}: {found.get(at)} instead of {wanted.get(at)}" for at in wrong[:5]]
    return f"{len(wrong)} of {len(wanted)} rows: " + "; ".join(lines)
