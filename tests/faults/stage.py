"""Real workers over a real broker, fed by a producer of its own, and looked at from outside."""

from __future__ import annotations

import asyncio
import json
import pathlib
import secrets
import subprocess
import sys
from collections import Counter
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError as AioKafkaError
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from streamflow.clock import rfc3339
from tests.faults import checker
from tests.faults.checker import Seen
from tests.faults.feeder import REFUSED
from tests.faults.workload import PARTITIONS, T0_MS, WINDOW_MS, Event, closer, event
from tests.integration.workers import ROOT, WorkerProcess, create_topics, read_all, wait_for

JOB = pathlib.Path(__file__).with_name("job_under_faults.py")
LIMIT_S = 90.0
ASK_S = 5.0
RATE = 1_500.0
# HTTP names window starts as text.
START_MS = {rfc3339(ms): ms for ms in range(T0_MS, T0_MS + 3_000 * WINDOW_MS, WINDOW_MS)}


def is_ready(worker: WorkerProcess) -> bool:
    try:
        return bool(worker.get("/readyz")["status"] == "ready")
    except OSError:
        return False


async def members_of(bootstrap: str, group: str) -> int:
    """How many members a settled group has; -1 while it is moving, or nobody can say.

    By aiokafka: librdkafka's way to ask ends the process now and then when the broker goes away meanwhile.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(ASK_S * 1_000))
    try:
        async with asyncio.timeout(ASK_S):
            await admin.start()
            (answer,) = await admin.describe_consumer_groups([group])
    except (AioKafkaError, OSError, TimeoutError):
        return -1
    finally:
        await admin.close()
    _, _, state, _, _, members, *_ = answer.groups[0]
    return len(members) if state == "Stable" else -1


def url_of(bootstrap: str) -> str:
    """An app's broker."""
    return ";".join(f"kafka://{server}" for server in bootstrap.split(","))


class Feeder:
    """A producer in another process; `acknowledged` is what its log says."""

    def __init__(
        self, bootstrap: str, topic: str, log: pathlib.Path, first: int, count: int, rate: float = RATE
    ) -> None:
        self._log = log
        command = [sys.executable, "-m", "tests.faults.feeder", bootstrap, topic, str(log)]
        self._process = subprocess.Popen([*command, str(first), str(count), str(rate)], cwd=ROOT)

    def acknowledged(self) -> list[tuple[int, int, int]]:
        """(number, partition, offset) of each, in the order of their acknowledgement.

        The offset is -1 where it was in the log already when the producer sent it again to another leader.
        """
        if not self._log.exists():
            return []
        whole = self._log.read_text().rpartition("\n")[0]
        rows = map(str.split, whole.replace("None", "-1").splitlines())
        return [(int(n), int(p), int(o)) for n, p, o in rows]

    def finish(self, *, may_refuse: bool = False) -> set[int]:
        """Numbers of the events that the broker has refused; none unless it may."""
        code = self._process.wait(LIMIT_S)
        assert code == 0 or (may_refuse and code == REFUSED), "not every event was acknowledged"
        return set(map(int, self._log.with_name(f"{self._log.name}.refused").read_text().split()))

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)


class Outputs:
    """Reads a topic on, committed records only."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._consumer = self._new()
        self._partitions = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
        self.records: list[tuple[bytes, Any]] = []  # key, value

    def read_on(self) -> None:
        """Reads to where each partition ends now."""
        left = set(range(PARTITIONS))
        for at in self._consumer.position(self._partitions):
            # Where the end was met before, it is told again only behind a new record.
            _, high = self._consumer.get_watermark_offsets(TopicPartition(at.topic, at.partition), ASK_S)
            if at.offset >= high or high == 0:
                left.discard(at.partition)
        empty = 0
        while left and empty < 10:
            message = self._consumer.poll(0.5)
            if message is None:
                empty += 1
            elif message.error() is None:
                self.records.append((message.key(), json.loads(message.value())))
            elif message.error().code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())

    def read_anew(self) -> None:
        """All of it, by a new client: where brokers have moved, an old one may have lost its way."""
        found = read_all(self._bootstrap, self._topic)
        self.records = [(message.key or b"", json.loads(message.value or b"null")) for message in found]

    def _new(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": f"reader-{secrets.token_hex(5)}",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "reconnect.backoff.max.ms": 1_000,
                "log_level": 0,
            }
        )

    def close(self) -> None:
        self._consumer.close()


class Stage:
    """``workers`` workers of the app under names of its own, each restarted with its own port.

    ``bootstraps``: the broker's address for each worker, where it is not the common one. ``bootstrap`` may
    name several brokers, ``host:port,host:port``; then topics have so many ``copies``.
    """

    def __init__(
        self,
        bootstrap: str,
        folder: pathlib.Path,
        *,
        workers: int = 2,
        bootstraps: tuple[str, ...] = (),
        copies: int = 1,
        **settings: str,
    ) -> None:
        self.bootstrap = bootstrap
        self._copies = copies
        self.folder = folder
        self.id = f"faults-{secrets.token_hex(4)}"
        self.points = folder / "points"
        self.points.mkdir()
        names = (self.id, f"{self.id}-out", f"{self.id}-closed")
        create_topics(bootstrap, dict.fromkeys(names, PARTITIONS), copies)
        self.sent = 0
        self.refused: set[int] = set()  # numbers of events that the broker has refused for good
        self.notes: list[str] = []
        self._feeder: Feeder | None = None
        self._outputs, self._closed = Outputs(bootstrap, names[1]), Outputs(bootstrap, names[2])
        self._group = Consumer({"bootstrap.servers": bootstrap, "group.id": self.id, "log_level": 0})
        self.ends = dict.fromkeys(range(PARTITIONS), 0)
        self._closers = 0  # events that close windows
        options = {
            "id": self.id,
            "faults_topic": self.id,
            "faults_folder": str(self.points),
            "session_timeout_ms": "2500",
            "broker_max_poll_interval": "4",
            **settings,
        }
        addresses = bootstraps or (bootstrap,) * workers
        self.workers = [
            WorkerProcess(JOB, folder / f"worker-{n}.log", broker=url_of(address), **options)
            for n, address in enumerate(addresses)
        ]

    # -- workers --------------------------------------------------------------------------------

    def start(self) -> None:
        for worker in self.workers:
            worker.start()
        self.settle()

    def settle(self) -> None:
        """Starts those that are dead; returns when the group is whole and everyone is ready."""

        def whole() -> bool:
            for worker in self.workers:
                if not worker.running():
                    worker.start()
            return self.members() == len(self.workers) and all(map(is_ready, self.workers))

        wait_for("the group is whole, and everyone is ready", whole, LIMIT_S)

    def wait_members(self, count: int) -> None:
        wait_for(f"{count} members in the group", lambda: self.members() == count, LIMIT_S)

    def members(self) -> int:
        """How many members a settled group has; -1 while it is moving."""
        return asyncio.run(members_of(self.bootstrap, self.id))

    def wait_death(self) -> WorkerProcess:
        """Of one that met a point."""

        def dead() -> list[WorkerProcess]:
            return [worker for worker in self.workers if not worker.running()]

        found: list[WorkerProcess] = wait_for("a worker died at its point", dead, LIMIT_S)
        return found[0]

    def arm(self, point: str, text: str = "") -> None:
        part = self.folder / f"{point}.new"
        part.write_text(text)
        part.rename(self.points / point)  # whole from the first moment

    def armed(self, point: str) -> bool:
        return (self.points / point).exists()

    # -- events ---------------------------------------------------------------------------------

    def feed(self, count: int, rate: float = RATE) -> Feeder:
        """Begins to send the next ``count`` events, ``rate`` a second."""
        log = self.folder / f"acknowledged-{self.sent}.log"
        self._feeder = Feeder(self.bootstrap, self.id, log, self.sent, count, rate)
        self.sent += count
        return self._feeder

    def feeder_done(self, *, may_refuse: bool = False) -> None:
        """Every event is acknowledged, once, in the order of its key.

        ``may_refuse``: a broker without room may say no to some; then nothing may come of them.
        """
        assert self._feeder is not None
        self.refused |= self._feeder.finish(may_refuse=may_refuse)
        told = self._feeder.acknowledged()
        twice = [n for n, times in Counter(n for n, _, _ in told).items() if times > 1]
        assert not twice, f"acknowledged twice: {twice[:5]}"
        for _, partition, offset in told:
            self.ends[partition] = max(self.ends[partition], offset + 1)
        for partition in {partition for _, partition, offset in told if offset < 0}:
            self.ends[partition] = self._end_of_source(partition)

    def _end_of_source(self, partition: int) -> int:
        """A broker that was frozen may not know yet that it leads it no longer."""

        def end() -> tuple[int] | None:
            try:
                return (self._group.get_watermark_offsets(TopicPartition(self.id, partition), ASK_S)[1],)
            except KafkaException:
                return None

        return int(wait_for(f"the end of {self.id}[{partition}] is known", end, LIMIT_S)[0])

    def close_windows(self) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        for partition in range(PARTITIONS):
            last = closer(partition)
            producer.produce(self.id, last.encoded(), last.key.encode(), partition)
        assert producer.flush(60) == 0
        for partition in range(PARTITIONS):
            self.ends[partition] += 1
        self._closers += PARTITIONS

    # -- the check ------------------------------------------------------------------------------

    def look(self) -> Seen:
        """Raises OSError, AssertionError or KafkaException while partitions move."""
        seen = Seen(offsets=self.offsets())
        for key, value in self._rows("sums"):
            seen.sums[key[0]] = value
        for (group, start), value in self._rows("by_group"):
            if group != "closer":
                seen.windows[group, START_MS[start]] = (value["n"], value["amount"])
        for topic in (self._outputs, self._closed):
            if self._copies > 1:
                topic.read_anew()
            else:
                topic.read_on()
        for raw, value in self._outputs.records:
            seen.outputs.setdefault(raw.decode(), []).append((value["seq"], value["total"]))
        for _, value in self._closed.records:
            at = (value["key"], START_MS[value["window_start"]])
            seen.closed.append((at, (value["n"], value["amount"])))
        return seen

    def offsets(self) -> dict[int, int]:
        """partition -> the group's committed offset; nothing while one is undecided."""
        asked = [TopicPartition(self.id, partition) for partition in range(PARTITIONS)]
        try:
            return {at.partition: at.offset for at in self._group.committed(asked, ASK_S)}
        except KafkaException:
            return {}

    def _rows(self, table: str) -> list[tuple[tuple[Any, Any], Any]]:
        worker = next(worker for worker in self.workers if worker.running())
        rows: list[tuple[tuple[Any, Any], Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = worker.get(f"/v1/tables/{table}/rows?limit=1000" + (f"&cursor={cursor}" if cursor else ""))
            assert not page["partial"], page["missing_partitions"]
            rows += [((r["key"], r["window"] and r["window"]["start"]), r["value"]) for r in page["rows"]]
            cursor = page["next"]
        return rows

    def written(self) -> list[Event]:
        """What was acknowledged, in order; where the source holds more than that, what it holds.

        A broker that goes down while a producer sends to it may keep a record that the producer sends again,
        for all its idempotence: the log has it twice then, so it is to be counted twice.
        """
        numbers = sorted({*range(self.sent)} - self.refused)
        if sum(self.ends.values()) == len(numbers) + self._closers:
            return [event(number) for number in numbers]
        values = [message.value or b"{}" for message in read_all(self.bootstrap, self.id)]
        found = [each for each in (Event(**json.loads(value)) for value in values) if each.seq >= 0]
        missing = {event(number) for number in numbers} - set(found)
        assert not missing, f"acknowledged, and not in the log: {sorted(missing)[:10]}"
        print(f"{len(found) - len(set(found))} events stand twice in the source", flush=True)
        return found

    def check(self, *, closed: bool = False, guarantee: str = "exactly_once") -> None:
        """Waits until everything is consumed and right; says what is wrong with it otherwise."""
        wanted = checker.expected(self.written(), self.ends)
        wrong: list[str] = ["nothing was looked at"]

        def right() -> bool:
            nonlocal wrong
            try:
                seen = self.look()
            except (OSError, AssertionError, KafkaException) as exc:
                wrong = [f"can't look: {exc!r}"]
                return False
            if guarantee == "exactly_once":
                wrong = checker.exactly_once(wanted, seen, closed)
            else:
                wrong = checker.at_least_once(wanted, seen)
            return not wrong

        try:
            wait_for("everything is right", right, LIMIT_S)
        except AssertionError:
            logs = "\n".join(f"--- {worker.url}\n{worker.log()[-3_000:]}" for worker in self.workers)
            raise AssertionError(f"{len(wrong)} wrong: " + "\n".join(wrong[:10]) + "\n" + logs) from None

    def end(self) -> None:
        if self._feeder is not None:
            self._feeder.end()
        for worker in self.workers:
            worker.end()
        self._outputs.close()
        self._closed.close()
        self._group.close()
