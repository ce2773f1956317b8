"""Membership of the group: joins, is assigned, is revoked, joins again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from streamflow.errors import TransportError
from streamflow.transports.base import Assignment, RebalanceListener
from streamflow.transports.memory.broker import MemoryBroker
from streamflow.transports.memory.coordinator import GroupCoordinator, GroupMember
from streamflow.transports.memory.process import ClientKilled, Process


class Group:
    """One worker's membership. `assignment` is the newest, None before the first and while it goes.

    ``on_lost`` is called when the assignment is about to go, and when the membership has ended by an error.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        coordinator: GroupCoordinator,
        process: Process,
        listener: RebalanceListener,
        url: str,
        replicas: int,
        epoch: int,
        on_lost: Callable[[], None],
    ) -> None:
        self.assignment: Assignment | None = None
        self._broker = broker
        self._coordinator = coordinator
        self._process = process
        self._listener = listener
        self._url = url
        self._replicas = replicas
        self._epoch = epoch
        self._on_lost = on_lost
        self._topics: frozenset[str] = frozenset()
        self._member: GroupMember | None = None
        self._member_numbers = 0
        self._task: asyncio.Task[None] | None = None

    def join(self, topics: Iterable[str]) -> None:
        self._topics = frozenset(topics)
        self._task = asyncio.create_task(self._take_part(), name=f"membership of {self._process.name}")

    def resubscribe(self, topics: Iterable[str]) -> None:
        """Joins anew, for these topics."""
        self._topics = frozenset(topics)
        if self._member is not None:
            self._member.resubscribe(self._topics)
            self._coordinator.begin()

    async def leave(self) -> None:
        self.assignment = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self._member is not None:
            self._coordinator.leave(self._member.member_id)

    def kill(self) -> None:
        """No goodbye."""
        if self._task is not None:
            self._task.cancel()
        self.lose_session_later()

    def lose_session_later(self) -> None:
        """The coordinator takes our member for dead, unless the process is back in time."""
        process, member = self._process, self._member
        absence = process.absences
        if member is None:
            return

        def lose() -> None:
            if absence == process.absences and process.away:
                self._coordinator.leave(member.member_id)

        self._broker.later(self._broker.session_timeout_ms, lose)

    def check(self) -> None:
        """Raises what has ended the membership."""
        if self._task is not None and self._task.done():
            raise self._task.exception() or TransportError("the membership has ended")

    async def _take_part(self) -> None:
        """Joins, is assigned, is revoked, joins again, until it is cancelled or the listener raises."""
        step = self._process.step
        try:
            while True:
                await step("join:before")
                if self._member is None or self._member.kicked:
                    self._member = self._new_member()
                assignment = await self._coordinator.join(self._member)
                await step("assign:before")
                if assignment is None:
                    continue
                self.assignment = assignment
                await self._listener.on_assigned(assignment)
                await step("assign:after")
                await self._member.rebalance.wait()
                await step("revoke:before")
                self.assignment = None
                self._on_lost()
                await self._listener.on_revoked()
                await step("revoke:after")
        except ClientKilled:
            return
        except Exception:
            # The next fetch raises it; the others must not wait for this member.
            self._on_lost()
            if self._member is not None:
                self._coordinator.leave(self._member.member_id)
            raise

    def _new_member(self) -> GroupMember:
        self._member_numbers += 1
        member_id = f"{self._process.name}-{self._epoch}-{self._member_numbers}"
        return GroupMember(member_id, self._url, self._topics, self._replicas)
