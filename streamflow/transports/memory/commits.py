"""The atomic commit: one synchronous step, or where faults are set the steps of Kafka.

And two that are not atomic: that of a driver without transactions, and one that breaks the contract.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

from streamflow.errors import CommitAborted, CommitUnknown, Fenced, TransportError
from streamflow.transports.base import Commit, Record, TopicPartition
from streamflow.transports.memory.broker import MemoryBroker, Transaction
from streamflow.transports.memory.coordinator import GroupCoordinator
from streamflow.transports.memory.faults import Faults
from streamflow.transports.memory.process import Process


class Commits:
    """Commits checkpoints of one worker, whose producer has the ``process``'s name."""

    def __init__(self, broker: MemoryBroker, coordinator: GroupCoordinator, process: Process) -> None:
        self._broker = broker
        self._coordinator = coordinator
        self._process = process
        self._epoch = 0

    def start(self) -> int:
        """Fences the earlier life of this name; the epoch of the new one."""
        self._epoch = self._broker.start_producer(self._process.name)
        return self._epoch

    async def commit(self, commit: Commit) -> dict[TopicPartition, int]:
        await asyncio.sleep(0)
        await self._process.step("commit:before")
        faults = self._broker.faults
        if faults is not None:
            with _no_effect():
                self._broker.check(commit.records)
            if faults.broken_order is not None:
                commit = replace(commit, records=faults.broken_order(commit.records))
            if faults.plain_commits:
                return await self._plainly(commit, faults)
            if faults.broken_atomic:
                return await self._torn(commit, faults)
            return await self._in_steps(commit, faults)
        if not self._coordinator.valid(commit.assignment):
            raise Fenced(f"generation {commit.assignment.generation} is over")
        with _no_effect():
            offsets = self._broker.write(commit.records)
        self._coordinator.settle(0, commit.offsets, committed=True)
        return ends_of(commit.records, offsets)

    async def _in_steps(self, commit: Commit, faults: Faults) -> dict[TopicPartition, int]:
        """The same as Kafka does it. Any step may be the last: `Faults.on_point` may kill us there."""
        transaction = await self._broker.begin(self._process.name, self._epoch)
        try:
            return await self._decide_in_steps(commit, faults, transaction)
        except BaseException:
            # A worker that lives ends its transaction; a killed one leaves that to the timeout.
            if not (self._process.dead or transaction.sent):
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
            await self._process.step("commit:writing")
            self._check_open(transaction)
            offsets += self._broker.write_singly(run, transaction)
            at += len(run)
        await self._process.step("commit:written")
        self._check_open(transaction)
        outcome = faults.outcome()
        if outcome == "aborted":
            raise CommitAborted("injected")
        # Step 2. Add the offsets: the fence.
        fence = None if lets_through(faults, commit) else commit.assignment
        self._broker.add_offsets(transaction, self._coordinator, fence, commit.offsets)
        await self._process.step("commit:offsets")
        self._check_open(transaction)
        # Step 3. Decide. From here on nothing can be taken back.
        transaction.send()
        if outcome == "unknown":
            self._decide_unseen(transaction, faults)
            raise CommitUnknown("injected")
        self._broker.decide(transaction, committed=True)
        await self._process.step("commit:decided")
        return ends_of(commit.records, offsets)

    def _check_open(self, transaction: Transaction) -> None:
        """A worker that slept finds its transaction ended, by its timeout or by its successor."""
        if transaction.decided is not None:
            raise CommitAborted("the transaction has timed out")

    def _decide_unseen(self, transaction: Transaction, faults: Faults) -> None:
        done = faults.chance(0.5)
        wait_ms = faults.random.uniform(0, faults.undecided_ms_max) if faults.undecided_ms_max else 0.0
        self._broker.later(wait_ms, lambda: self._broker.decide(transaction, committed=done))

    async def _plainly(self, commit: Commit, faults: Faults) -> dict[TopicPartition, int]:
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
                await self._process.step("commit:writing")
                if not self._coordinator.valid(commit.assignment):
                    raise Fenced(f"generation {commit.assignment.generation} is over")
                spot = faults.random.choice(list(waiting))
                (offset,) = self._broker.write([waiting[spot].popleft()])
                ends[spot] = offset + 1
                if not waiting[spot]:
                    del waiting[spot]
                if outcome == "aborted" and faults.chance(0.1):
                    raise CommitAborted("injected")
        await self._process.step("commit:written")
        if outcome == "unknown" and faults.chance(0.5):
            raise CommitUnknown("injected")
        self._coordinator.settle(0, commit.offsets, committed=True)
        if outcome == "unknown":
            raise CommitUnknown("injected")
        await self._process.step("commit:decided")
        return ends

    async def _torn(self, commit: Commit, faults: Faults) -> dict[TopicPartition, int]:
        """Not a commit: what a worker does that knows no transactions. A crash leaves a part of it."""
        if not (lets_through(faults, commit) or self._coordinator.valid(commit.assignment)):
            raise Fenced(f"generation {commit.assignment.generation} is over")
        offsets: list[int] = []
        for record in commit.records:
            await self._process.step("commit:writing")
            offsets += self._broker.write([record])
        await self._process.step("commit:written")
        self._coordinator.settle(0, commit.offsets, committed=True)
        await self._process.step("commit:decided")
        return ends_of(commit.records, offsets)


def lets_through(faults: Faults, commit: Commit) -> bool:
    return faults.broken_fence is not None and faults.broken_fence(commit)


def ends_of(records: Sequence[Record], offsets: Sequence[int]) -> dict[TopicPartition, int]:
    """Partition -> the offset behind its last record."""
    return {record[:2]: offset + 1 for record, offset in zip(records, offsets, strict=True)}


@contextmanager
def _no_effect() -> Iterator[None]:
    """What fails here, such as a partition that is not there, fails before anything is written."""
    try:
        yield
    except TransportError as exc:
        raise CommitAborted(str(exc)) from exc
