"""One worker's connection to a `MemoryBroker`, and what tests may do to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from streamflow.clock import Clock
from streamflow.errors import CommitAborted, CommitUnknown, Fenced, StreamflowError, TransportError
from streamflow.transports.base import (
    Batch,
    Commit,
    Features,
    RebalanceListener,
    Record,
    TopicPartition,
    TopicSpec,
)
from streamflow.transports.memory.broker import MemoryBroker, Transaction
from streamflow.transports.memory.faults import Faults
from streamflow.transports.memory.group import Membership

FETCH_RECORDS_MAX = 5_000  # of one partition in one batch


class ClientKilled(StreamflowError):
    """The client was killed by a test; no call on it does anything any more."""


class Positions:
    """Where one reader stands in the partitions that it reads: partition -> next offset."""

    def __init__(self, broker: MemoryBroker, clock: Clock) -> None:
        self.at: dict[TopicPartition, int] = {}
        self._broker = broker
        self._clock = clock
        self._changed = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    def take(self) -> list[Batch]:
        """What has come since; moves the positions."""
        faults = self._broker.faults
        batches: list[Batch] = []
        for spot, position in self.at.items():
            limit = FETCH_RECORDS_MAX
            if faults is not None and faults.fetch_records_max is not None:
                limit = faults.random.randint(1, faults.fetch_records_max)
            batch = self._broker.log(spot).read(position, limit)
            if batch is not None:
                batches.append(batch)
        for batch in batches:
            self.at[batch.topic, batch.partition] = batch.next_offset
        return batches

    async def moved(self, wait_ms: float) -> None:
        """Returns when something may have come, or the positions have changed, or ``wait_ms`` is over."""
        logs = [self._broker.log(spot) for spot in self.at]
        if any(position < log.stable for position, log in zip(self.at.values(), logs, strict=True)):
            return
        self._changed.clear()
        for log in logs:
            log.waiters[self._changed] = None
        timer = asyncio.ensure_future(self._clock.sleep_ms(wait_ms))
        timer.add_done_callback(self._time_over)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()
            for log in logs:
                log.waiters.pop(self._changed, None)

    def _time_over(self, timer: asyncio.Task[None]) -> None:
        # Not when it was called off: that would wake the next wait, which calls its own timer off, and so on.
        if not timer.cancelled():
            self._changed.set()


class MemoryTransport:
    """A `Transport`. ``name`` is the worker's slot: a second one of that name fences the first.

    ``kill``, ``stall`` and ``wake`` are for tests; they do to the client what SIGKILL, SIGSTOP and
    SIGCONT do to a process.
    """

    features = Features(transactions=True, shared=False)

    def __init__(
        self,
        broker: MemoryBroker,
        group: str,
        name: str,
        clock: Clock | None = None,
        *,
        standby_replicas: int = 0,
    ) -> None:
        self.name = name
        self._standby_replicas = standby_replicas
        self._broker = broker
        self._clock = clock if clock is not None else broker.clock
        self._group = broker.group(group)
        self._positions = Positions(broker, self._clock)  # of the partitions that are assigned and resumed
        self._sought: dict[TopicPartition, int] = {}  # of those that are paused
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._epoch = 0
        self._member: Membership | None = None
        self._member_numbers = 0
        self._topics: frozenset[str] = frozenset()
        self._membership: asyncio.Task[None] | None = None
        self._dead = False
        self._awake = asyncio.Event()
        self._awake.set()
        self._absences = 0  # how often the client has been stalled or killed
        self._stopped = False

    # Life

    async def start(self) -> None:
        self._epoch = self._broker.start_producer(self.name)

    async def stop(self) -> None:
        if self._stopped or self._dead:
            return
        self._stopped = True
        self._assigned = frozenset()
        self._positions.at.clear()
        self._positions.wake()
        task, self._membership = self._membership, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self._member is not None:
            self._group.leave(self._member.member_id)

    def kill(self) -> None:
        """No goodbye: the group waits for the session timeout, an open commit for the transaction timeout."""
        self._dead = True
        self._awake.set()
        self._positions.wake()
        if self._membership is not None:
            self._membership.cancel()
        self._lose_session_later()

    def stall(self) -> None:
        """Every call waits at its next step; past the session timeout the group gives up on the client."""
        self._awake.clear()
        self._lose_session_later()

    def wake(self) -> None:
        self._awake.set()

    def _lose_session_later(self) -> None:
        self._absences += 1
        absence, member = self._absences, self._member
        if member is None:
            return

        def lose() -> None:
            if absence == self._absences and (self._dead or not self._awake.is_set()):
                self._group.leave(member.member_id)

        self._broker.later(self._broker.session_timeout_ms, lose)

    def _check(self) -> None:
        if self._dead:
            raise ClientKilled(f"client {self.name!r} was killed")
        if self._stopped:
            raise TransportError(f"client {self.name!r} is stopped")

    async def _step(self, point: str) -> None:
        """Where a fault may strike. Without faults and while nobody stalls us: nothing."""
        faults = self._broker.faults
        if faults is not None:
            if faults.on_point is not None:
                await faults.on_point(self, point)
            delay_ms = faults.delay_ms()
            if delay_ms > 0:
                await self._clock.sleep_ms(delay_ms)
        while not self._awake.is_set():
            await self._awake.wait()
        self._check()

    async def _operate(self, point: str) -> None:
        """The beginning of an operation that a retry may cure."""
        await self._step(point)
        faults = self._broker.faults
        if faults is not None and faults.chance(faults.error_chance):
            raise TransportError(f"{point}: injected")

    # Topics and offsets

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        self._check()
        self._broker.create_topics(specs)

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        self._check()
        counts = {topic: self._broker.partition_count(topic) for topic in topics}
        return {topic: count for topic, count in counts.items() if count}

    async def earliest_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self._check()
        return {spot: self._broker.log(spot).start for spot in partitions}

    async def high_watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self._check()
        return {spot: self._broker.log(spot).end for spot in partitions}

    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        wanted = list(partitions)
        await self._operate("committed:before")
        while self._group.unsettled(wanted):
            self._group.settled.clear()
            await self._group.settled.wait()
            await self._step("committed:before")
        return {spot: self._group.committed.get(spot) for spot in wanted}

    # The group

    async def subscribe(self, topics: Iterable[str], listener: RebalanceListener, url: str) -> None:
        self._check()
        self._topics = frozenset(topics)
        if self._membership is not None:
            if self._member is not None:
                self._member.topics = self._topics
                self._group.begin()
            return
        self._membership = asyncio.create_task(
            self._take_part(listener, url), name=f"membership of {self.name}"
        )

    async def _take_part(self, listener: RebalanceListener, url: str) -> None:
        """Joins, is assigned, is revoked, joins again, until it is cancelled or the listener raises."""
        try:
            while True:
                await self._step("join:before")
                if self._member is None or self._member.kicked:
                    self._member_numbers += 1
                    self._member = Membership(
                        f"{self.name}-{self._epoch}-{self._member_numbers}",
                        url,
                        self._topics,
                        self._standby_replicas,
                    )
                assignment = await self._group.join(self._member)
                await self._step("assign:before")
                if assignment is None:
                    continue
                self._assigned = assignment.partitions
                await listener.on_assigned(assignment)
                await self._step("assign:after")
                await self._member.rebalance.wait()
                await self._step("revoke:before")
                self._assigned = frozenset()
                self._sought.clear()
                self._positions.at.clear()
                await listener.on_revoked()
                await self._step("revoke:after")
        except ClientKilled:
            return
        except Exception:
            # The next fetch raises it; the others must not wait for this member.
            self._positions.wake()
            if self._member is not None:
                self._group.leave(self._member.member_id)
            raise

    # Reading

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Of a partition that is not assigned (any more) it is ignored: a rebalance may come between."""
        if partition in self._positions.at:
            self._positions.at[partition] = offset
            self._positions.wake()
        elif partition in self._assigned:
            self._sought[partition] = offset

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        for spot in partitions:
            if spot in self._positions.at:
                self._sought[spot] = self._positions.at.pop(spot)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        for spot in partitions:
            if spot in self._assigned and spot not in self._positions.at:
                self._positions.at[spot] = self._sought.pop(spot, 0)
        self._positions.wake()

    async def fetch(self, wait_ms: int) -> list[Batch]:
        deadline_ms = self._clock.monotonic_ms() + wait_ms
        await asyncio.sleep(0)  # a loop of fetches that all find something must let others run
        await self._operate("fetch:before")
        while True:
            if self._membership is not None and self._membership.done():
                raise self._membership.exception() or TransportError("the membership has ended")
            # INVARIANT: nothing is awaited between taking and returning, so that what a fetch took is
            # neither lost when it is cancelled nor handed out after a revoke.
            batches = self._positions.take()
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if batches or left_ms <= 0:
                return batches
            await self._positions.moved(left_ms)
            await self._step("fetch:before")

    def log_reader(self) -> MemoryLogReader:
        return MemoryLogReader(self)

    # Writing

    async def send(self, records: Sequence[Record]) -> list[int]:
        await asyncio.sleep(0)
        await self._operate("send:before")
        offsets = self._broker.write(records)
        await self._step("send:after")
        return offsets

    def records_between(self, partition: TopicPartition, start: int, end: int) -> int | None:
        """As good as exact: only control records and gaps are counted with them."""
        return max(0, end - start)

    async def commit(self, commit: Commit) -> dict[TopicPartition, int]:
        if not any(spot in commit.assignment.partitions for spot in commit.offsets):
            raise ValueError("a commit must name a partition of its assignment, or nothing fences it")
        await asyncio.sleep(0)
        await self._step("commit:before")
        faults = self._broker.faults
        if faults is not None:
            self._broker.check(commit.records)
            if faults.broken_order is not None:
                commit = replace(commit, records=faults.broken_order(commit.records))
            if faults.plain_commits:
                return await self._commit_plainly(commit, faults)
            if faults.broken_atomic:
                return await self._commit_torn(commit, faults)
            return await self._commit_in_steps(commit, faults)
        if not self._group.valid(commit.assignment):
            raise Fenced(f"generation {commit.assignment.generation} is over")
        offsets = self._broker.write(commit.records)
        self._group.settle(0, commit.offsets, committed=True)
        return ends_of(commit.records, offsets)

    async def _commit_in_steps(self, commit: Commit, faults: Faults) -> dict[TopicPartition, int]:
        """The same as Kafka does it. Any step may be the last: `Faults.on_point` may kill us there."""
        transaction = await self._broker.begin(self.name, self._epoch)
        try:
            return await self._decide_in_steps(commit, faults, transaction)
        except BaseException:
            # A worker that lives ends its transaction; a killed one leaves that to the timeout.
            if not (self._dead or transaction.sent):
                self._broker.decide(transaction, committed=False)
            raise

    async def _decide_in_steps(
        self, commit: Commit, faults: Faults, transaction: Transaction
    ) -> dict[TopicPartition, int]:
        # Step 1. Write, in a few runs; then wait for the acknowledgement.
        offsets: list[int] = []
        at = 0
        while at < len(commit.records):
            run = commit.records[at : at + faults.random.randint(1, max(1, len(commit.records)))]
            await self._step("commit:writing")
            self._check_open(transaction)
            offsets += self._broker.write_singly(run, transaction)
            at += len(run)
        await self._step("commit:written")
        self._check_open(transaction)
        outcome = faults.outcome()
        if outcome == "aborted":
            raise CommitAborted("injected")
        # Step 2. Add the offsets: the fence.
        fence = None if lets_through(faults, commit) else commit.assignment
        self._broker.add_offsets(transaction, self._group, fence, commit.offsets)
        await self._step("commit:offsets")
        self._check_open(transaction)
        # Step 3. Decide. From here on nothing can be taken back.
        transaction.sent = True
        if outcome == "unknown":
            self._decide_unseen(transaction, faults)
            raise CommitUnknown("injected")
        self._broker.decide(transaction, committed=True)
        await self._step("commit:decided")
        return ends_of(commit.records, offsets)

    def _check_open(self, transaction: Transaction) -> None:
        """A worker that slept finds its transaction ended, by its timeout or by its successor."""
        if transaction.decided is not None:
            raise CommitAborted("the transaction has timed out")

    def _decide_unseen(self, transaction: Transaction, faults: Faults) -> None:
        done = faults.chance(0.5)
        wait_ms = faults.random.uniform(0, faults.undecided_ms_max) if faults.undecided_ms_max else 0.0
        self._broker.later(wait_ms, lambda: self._broker.decide(transaction, committed=done))

    async def _commit_plainly(self, commit: Commit, faults: Faults) -> dict[TopicPartition, int]:
        """At least once: any step may be the last, and leaves what was written before it.

        Whoever has lost its partitions meanwhile notices before its next record: see `Faults.plain_commits`.
        """
        ends: dict[TopicPartition, int] = {}
        outcome = faults.outcome()
        for first, last in pairwise((0, *commit.barriers, len(commit.records))):
            waiting: dict[TopicPartition, deque[Record]] = {}
            for record in commit.records[first:last]:
                waiting.setdefault(record[:2], deque()).append(record)
            while waiting:
                await self._step("commit:writing")
                if not self._group.valid(commit.assignment):
                    raise Fenced(f"generation {commit.assignment.generation} is over")
                spot = faults.random.choice(list(waiting))
                (offset,) = self._broker.write([waiting[spot].popleft()])
                ends[spot] = offset + 1
                if not waiting[spot]:
                    del waiting[spot]
                if outcome == "aborted" and faults.chance(0.1):
                    raise CommitAborted("injected")
        await self._step("commit:written")
        if outcome == "unknown" and faults.chance(0.5):
            raise CommitUnknown("injected")
        self._group.settle(0, commit.offsets, committed=True)
        if outcome == "unknown":
            raise CommitUnknown("injected")
        await self._step("commit:decided")
        return ends

    async def _commit_torn(self, commit: Commit, faults: Faults) -> dict[TopicPartition, int]:
        """Not a commit: what a worker does that knows no transactions. A crash leaves a part of it."""
        if not (lets_through(faults, commit) or self._group.valid(commit.assignment)):
            raise Fenced(f"generation {commit.assignment.generation} is over")
        offsets: list[int] = []
        for record in commit.records:
            await self._step("commit:writing")
            offsets += self._broker.write([record])
        await self._step("commit:written")
        self._group.settle(0, commit.offsets, committed=True)
        await self._step("commit:decided")
        return ends_of(commit.records, offsets)


class MemoryLogReader:
    """A `LogReader` of one `MemoryTransport`; it dies and stalls with it."""

    def __init__(self, client: MemoryTransport) -> None:
        self._client = client
        self._positions = Positions(client._broker, client._clock)

    async def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._client._check()
        for spot in positions:
            self._client._broker.log(spot)
        self._positions.at = dict(positions)
        self._positions.wake()

    async def read(self, wait_ms: int) -> list[Batch]:
        client = self._client
        deadline_ms = client._clock.monotonic_ms() + wait_ms
        await asyncio.sleep(0)
        await client._operate("read:before")
        while True:
            batches = self._positions.take()
            left_ms = deadline_ms - client._clock.monotonic_ms()
            if batches or left_ms <= 0:
                return batches
            await self._positions.moved(left_ms)
            await client._step("read:before")

    async def close(self) -> None:
        self._positions.at.clear()
        self._positions.wake()


def lets_through(faults: Faults, commit: Commit) -> bool:
    return faults.broken_fence is not None and faults.broken_fence(commit)


def ends_of(records: Sequence[Record], offsets: Sequence[int]) -> dict[TopicPartition, int]:
    """Partition -> the offset behind its last record."""
    return {record[:2]: offset + 1 for record, offset in zip(records, offsets, strict=True)}
