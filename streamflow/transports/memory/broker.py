"""The broker of the memory transport: topics, groups, and transactions over both.

While no `Faults` are set a commit is one synchronous step and nothing is ever undecided. With faults
it goes the way of Kafka: written, offsets added under the fence, decided, and then visible in each
partition at its own time.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count

from streamflow.clock import Clock
from streamflow.errors import Fenced, TransportError
from streamflow.transports.base import Assignment, Record, TopicPartition, TopicSpec
from streamflow.transports.memory.coordinator import GroupCoordinator
from streamflow.transports.memory.faults import Faults
from streamflow.transports.memory.log import PartitionLog
from streamflow.transports.records import check_sizes, grouped


class Transaction:
    """One undecided commit. ``written``: partition -> offsets.

    ``sent``: the worker has asked for its end; what becomes of it is the broker's matter.
    """

    def __init__(self, number: int, producer: str) -> None:
        self.number = number
        self.producer = producer
        self.written: dict[TopicPartition, list[int]] = {}
        self.coordinator: GroupCoordinator | None = None
        self.offsets: dict[TopicPartition, int] = {}
        self.sent = False
        self.decided: bool | None = None  # True: committed, False: aborted
        self.resolved = asyncio.Event()
        self._call_off_timeout: Callable[[], None] = lambda: None
        self._unresolved: set[str | TopicPartition] = set()  # what still hides it

    def time_out_unless(self, call_off_timeout: Callable[[], None]) -> None:
        """``call_off_timeout`` is called when it is decided."""
        self._call_off_timeout = call_off_timeout

    def wrote(self, spot: TopicPartition, offset: int) -> None:
        self.written.setdefault(spot, []).append(offset)

    def add_offsets(self, coordinator: GroupCoordinator, offsets: Mapping[TopicPartition, int]) -> None:
        self.coordinator, self.offsets = coordinator, dict(offsets)

    def send(self) -> None:
        self.sent = True

    def decide(self, *, committed: bool) -> list[str | TopicPartition]:
        """What has still to show it: the partitions and ``offsets``."""
        self.decided = committed
        self._call_off_timeout()
        waiting: list[str | TopicPartition] = [*self.written, "offsets"]
        self._unresolved = set(waiting)
        return waiting

    def resolve(self, what: str | TopicPartition) -> bool:
        """One of them shows it; whether it was the last."""
        self._unresolved.discard(what)
        if not self._unresolved:
            self.resolved.set()
        return not self._unresolved


class MemoryBroker:
    """Shared by all `MemoryTransport` of a process.

    ``records_max`` and ``bytes_max`` bound each partition of a topic that is not compacted: the
    oldest records go, as with Kafka's retention. ``session_timeout_ms`` is how long a client that
    was killed or stalled keeps its partitions. ``tombstone_ms`` is how long a compacted partition
    keeps tombstones at least.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        faults: Faults | None = None,
        records_max: int | None = 250_000,
        bytes_max: int | None = 256 * 1024 * 1024,
        session_timeout_ms: float = 10_000.0,
        rebalance_timeout_ms: float = 60_000.0,
        transaction_timeout_ms: float = 10_000.0,
        tombstone_ms: int = 60_000,
    ) -> None:
        self.clock = clock
        self.faults = faults
        self.records_max = records_max
        self.bytes_max = bytes_max
        self.session_timeout_ms = session_timeout_ms
        self.rebalance_timeout_ms = rebalance_timeout_ms
        self.transaction_timeout_ms = transaction_timeout_ms
        self.tombstone_ms = tombstone_ms
        self._topics: dict[str, list[PartitionLog]] = {}
        self._topic_ids: dict[str, str] = {}
        self._coordinators: dict[str, GroupCoordinator] = {}
        self._epochs: dict[str, int] = {}  # producer name -> how often it has started
        self._open: dict[str, Transaction] = {}  # producer name -> its transaction until it is resolved
        self._timers: set[asyncio.Task[None]] = set()
        self._numbers = 0

    # Topics

    def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        created: set[str] = set()
        for spec in specs:
            if spec.name not in self._topics:
                created.add(spec.name)
                self._numbers += 1
                self._topic_ids[spec.name] = str(self._numbers)
                self._topics[spec.name] = [
                    PartitionLog(
                        spec.name,
                        partition,
                        compacted=spec.compacted,
                        record_bytes_max=spec.record_bytes_max,
                        records_max=self.records_max,
                        bytes_max=self.bytes_max,
                    )
                    for partition in range(spec.partitions)
                ]
        for coordinator in self._coordinators.values():
            if any(created & member.topics for member in coordinator.members.values()):
                coordinator.begin()

    def delete_topic(self, topic: str) -> None:
        """It is gone, with the offsets that groups have committed in it, as on Kafka.

        Raises RuntimeError while a commit into it is undecided: that is not modelled.
        """
        if any(log.undecided for log in self._topics.get(topic, ())):
            raise RuntimeError(f"a commit into {topic} is undecided")
        logs = self._topics.pop(topic, [])
        self._topic_ids.pop(topic, None)
        for coordinator in self._coordinators.values():
            coordinator.forget(topic)
        for log in logs:
            log.notify()

    def grow_topic(self, topic: str, partitions: int) -> None:
        """It gets more partitions; groups that read it are divided anew."""
        logs = self._topics[topic]
        first = logs[0]
        logs.extend(
            PartitionLog(
                topic,
                partition,
                compacted=first.compacted,
                record_bytes_max=first.record_bytes_max,
                records_max=self.records_max,
                bytes_max=self.bytes_max,
            )
            for partition in range(len(logs), partitions)
        )
        for coordinator in self._coordinators.values():
            if any(topic in member.topics for member in coordinator.members.values()):
                coordinator.begin()

    def topic_id(self, topic: str) -> str | None:
        """Another one for each time that a topic of this name was made; ``None``: it is not there."""
        return self._topic_ids.get(topic)

    def partition_count(self, topic: str) -> int:
        """0 for a topic that does not exist."""
        return len(self._topics.get(topic, ()))

    def topics(self) -> list[str]:
        return sorted(self._topics)

    def log(self, partition: TopicPartition) -> PartitionLog:
        logs = self._topics.get(partition[0], ())
        if not 0 <= partition[1] < len(logs):
            raise TransportError(f"partition {partition[0]}[{partition[1]}] does not exist")
        return logs[partition[1]]

    # Writing

    def check(self, records: Sequence[Record]) -> dict[TopicPartition, list[Record]]:
        """The records by partition, in order; raises what would refuse one of them, so that nothing is left.

        RecordRefused, or TransportError where a partition does not exist.
        """
        by_partition = grouped(records)
        check_sizes(records, {spot: self.log(spot).record_bytes_max for spot in by_partition})
        return by_partition

    def write(self, records: Sequence[Record]) -> list[int]:
        """Appends all of the records or, if one is refused, none; returns their offsets."""
        by_partition = self.check(records)
        if self.faults is not None:
            return self.write_singly(records)
        now_ms = self.clock.now_ms()
        offsets = {}
        for spot, mine in by_partition.items():
            log = self.log(spot)
            offsets[spot] = count(log.end)
            log.extend(mine, now_ms)
            log.settle(now_ms, self.tombstone_ms)
        return [next(offsets[record[:2]]) for record in records]

    def write_singly(self, records: Sequence[Record], transaction: Transaction | None = None) -> list[int]:
        """Appends checked records, with gaps; undecided ones if a transaction is given."""
        now_ms = self.clock.now_ms()
        offsets: list[int] = []
        for record in records:
            spot = record[:2]
            log = self.log(spot)
            offset = log.end + (self.faults.gap() if self.faults is not None else 0)
            if transaction is not None:
                log.begin(transaction.number, offset)
                transaction.wrote(spot, offset)
            log.append(record, now_ms, offset)
            log.settle(now_ms, self.tombstone_ms)
            offsets.append(offset)
        return offsets

    def undecided(self) -> bool:
        """Is there a commit that is not yet visible everywhere, or gone everywhere?"""
        return bool(self._open)

    # Groups

    def coordinator(self, group: str) -> GroupCoordinator:
        coordinator = self._coordinators.get(group)
        if coordinator is None:
            coordinator = GroupCoordinator(group, self.partition_count, self.later, self.rebalance_timeout_ms)
            self._coordinators[group] = coordinator
        return coordinator

    # Transactions

    def start_producer(self, name: str) -> int:
        """Fences the name's earlier producer, ends what it left open, and returns the new epoch."""
        self._epochs[name] = self._epochs.get(name, 0) + 1
        left = self._open.get(name)
        if left is not None:
            self.decide(left, committed=False)
        return self._epochs[name]

    async def begin(self, producer: str, epoch: int) -> Transaction:
        """A new transaction, when the producer's last one is resolved everywhere. Raises Fenced."""
        while True:
            if self._epochs[producer] != epoch:
                raise Fenced(f"a newer worker has started as {producer!r}")
            last = self._open.get(producer)
            if last is None:
                break
            await last.resolved.wait()
        self._numbers += 1
        transaction = Transaction(self._numbers, producer)
        self._open[producer] = transaction

        def time_out() -> None:
            self.decide(transaction, committed=False)

        transaction.time_out_unless(self.later(self.transaction_timeout_ms, time_out))
        return transaction

    def add_offsets(
        self,
        transaction: Transaction,
        coordinator: GroupCoordinator,
        assignment: Assignment | None,
        offsets: Mapping[TopicPartition, int],
    ) -> None:
        """The fence. Behind it the partitions' `committed` waits for the decision. Raises Fenced.

        Without an assignment nothing is fenced: for tests that break the contract.
        """
        if assignment is not None and not coordinator.valid(assignment):
            raise Fenced(f"generation {assignment.generation} of group {coordinator.name!r} is over")
        transaction.add_offsets(coordinator, offsets)
        coordinator.hold(transaction.number, offsets)

    def decide(self, transaction: Transaction, *, committed: bool) -> None:
        """Commits or aborts, once; each partition and the group's offsets show it at their own time."""
        if transaction.decided is not None:
            return
        for what in transaction.decide(committed=committed):
            self._resolve_later(transaction, what)

    def _resolve_later(self, transaction: Transaction, what: str | TopicPartition) -> None:
        wait_ms = self.faults.visible_ms() if self.faults is not None else 0.0
        if wait_ms > 0:
            self.later(wait_ms, lambda: self._resolve(transaction, what))
        else:
            self._resolve(transaction, what)

    def _resolve(self, transaction: Transaction, what: str | TopicPartition) -> None:
        committed = bool(transaction.decided)
        if isinstance(what, str):
            if transaction.coordinator is not None:
                transaction.coordinator.settle(transaction.number, transaction.offsets, committed)
        else:
            control_record = self.faults is not None and self.faults.control_records
            aborted = () if committed else transaction.written[what]
            self.log(what).decide(transaction.number, aborted, control_record=control_record)
        if transaction.resolve(what):
            del self._open[transaction.producer]

    # Time

    def later(self, delay_ms: float, act: Callable[[], None]) -> Callable[[], None]:
        """Calls ``act`` after ``delay_ms`` of the broker's clock; returns what calls that off.

        The timer belongs to the broker: it runs in an empty context, so that no worker's death stops it.
        """

        async def wait() -> None:
            await self.clock.sleep_ms(delay_ms)
            act()

        timer = asyncio.get_running_loop().create_task(wait(), context=contextvars.Context())
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)

        def call_off() -> None:
            # A timer that is acting now may call itself off by what it does.
            if timer is not asyncio.current_task():
                timer.cancel()

        return call_off

    async def close(self) -> None:
        """Stops the broker's timers; what is in its logs stays."""
        timers = list(self._timers)
        for timer in timers:
            timer.cancel()
        await asyncio.gather(*timers, return_exceptions=True)
