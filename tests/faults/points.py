"""Named points at which a worker under test ends itself by SIGKILL, or hangs.

Loaded by the app of the fault tests and by nothing else: it puts itself around functions of the
transport and the engine. A point is armed by a file of its name in a folder; who removes the file
has met the point, so that of several workers one dies, once.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import time
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import EndTxnRequest

from streamflow.engine import rebalance
from streamflow.state import restore as recovery
from streamflow.transports.base import COMMIT_DECIDED, COMMIT_OFFSETS, COMMIT_WRITTEN
from streamflow.transports.kafka.commits import Commits
from streamflow.transports.kafka.connection import Connection
from streamflow.transports.kafka.offsets import GroupOffsets
from streamflow.transports.kafka.producer import Producer

# Of a commit in a transaction.
COMMIT_POINTS = (
    "before-ack",  # the checkpoint's records are on their way
    "after-ack",  # the changelog is acknowledged, the offsets are not yet with the transaction
    "before-end",  # everything but the decision
    "after-end",  # the decision is on its way
    "after-commit",  # decided and acknowledged; nothing is folded yet
)
POINTS = (
    *COMMIT_POINTS,
    "restore",  # a part of a changelog is read back
    "half-written",  # at least once: rows and outputs are acknowledged, the progress is not
    "before-offsets",  # at least once: everything is written, the offsets are not
    "revoke",  # in the last checkpoint of an assignment, or behind it where there is none
)
TURNS = 50  # of the event loop, until what was begun has been written to its socket

# Whether what this task and those that it starts write is of a transaction.
in_transaction = ContextVar("in_transaction", default=False)


class Points:
    """``folder``: where points are armed."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._revoking = False
        self._deciding = False  # between all of a commit but its decision, and that

    def met(self, point: str) -> bool:
        try:
            (self.folder / point).unlink()
        except FileNotFoundError:
            return False
        return True

    def die_at(self, point: str) -> None:
        if self.met(point):
            os.kill(os.getpid(), signal.SIGKILL)

    def hang_at(self, point: str) -> None:
        """Blocks the whole process for as many seconds as the file says."""
        file = self.folder / point
        if file.exists():
            seconds = float(file.read_text())
            if self.met(point):
                time.sleep(seconds)

    async def die_behind(self, point: str, work: Awaitable[Any]) -> Any:
        """Dies when the work is under way, and what it sends has left."""
        if not self.met(point):
            return await work
        under_way = asyncio.ensure_future(work)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGKILL)
        return await under_way

    def install(self) -> None:
        self._around_the_commit()
        self._around_the_assignment()

    def _around_the_commit(self) -> None:
        ask, reached = Connection.ask, Commits.reached

        async def asking(connection: Any, node_id: int, request: Any, *rest: Any, **more: Any) -> Any:
            work = ask(connection, node_id, request, *rest, **more)
            if isinstance(request, ProduceRequest) and in_transaction.get():
                return await self.die_behind("before-ack", work)
            if isinstance(request, EndTxnRequest) and self._deciding:
                return await self.die_behind("after-end", work)
            return await work

        async def reaching(commits: Any, point: str) -> None:
            if point == COMMIT_WRITTEN:
                self.die_at("after-ack")
            elif point == COMMIT_OFFSETS:
                self.die_at("before-end")
                if self._revoking:
                    self.die_at("revoke")
            elif point == COMMIT_DECIDED:
                self.die_at("after-commit")
            self._deciding = point == COMMIT_OFFSETS
            await reached(commits, point)

        write = GroupOffsets.write

        async def writing_offsets(offsets: Any, *rest: Any) -> None:
            self.die_at("before-offsets")
            await write(offsets, *rest)

        produce = Producer.write

        async def producing(producer: Any, records: Any, deadline: Any) -> Any:
            if producer.transactional_id is None and self.met("half-written"):
                # Partitions are acknowledged one by one, in any order.
                await produce(producer, [r for r in records if not r.topic.endswith("-progress")], deadline)
                os.kill(os.getpid(), signal.SIGKILL)
            token = in_transaction.set(producer.transactional_id is not None)
            try:
                return await produce(producer, records, deadline)
            finally:
                in_transaction.reset(token)

        put(Producer, "write", producing)
        put(GroupOffsets, "write", writing_offsets)
        put(Connection, "ask", asking)
        put(Commits, "reached", reaching)

    def _around_the_assignment(self) -> None:
        fill, revoke = recovery.fill, rebalance.Rebalance._revoke

        def filling(*rest: Any) -> None:
            fill(*rest)
            self.die_at("restore")

        async def revoking(running: Any) -> None:
            self._revoking = running.active is not None
            try:
                await revoke(running)
                if self._revoking:
                    self.die_at("revoke")
            finally:
                self._revoking = False

        put(recovery, "fill", filling)
        put(rebalance.Rebalance, "_revoke", revoking)


def put(owner: object, name: str, function: object) -> None:
    """Puts a function in the place of another one."""
    setattr(owner, name, function)
