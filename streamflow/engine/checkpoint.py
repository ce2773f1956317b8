"""The atomic commit, in numbered steps. It alone makes progress durable.

Steps 1 and 5 stand here, 3 and 4 (acknowledgements, the group's offsets under the fence, the
decision) are the transport's `commit`, whose contract is atomicity.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from streamflow.clock import Clock
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.trouble import Trouble
from streamflow.errors import CommitAborted, RecordRefused
from streamflow.state.committed import CommittedChanges
from streamflow.transports.base import Commit, Record, TopicPartition, Transport

logger = logging.getLogger(__name__)

RETRY_FIRST_MS = 50.0
RETRY_MAX_MS = 2_000.0


class Checkpoint:
    """Runs the checkpoints of one assignment, one at a time.

    ``on_cut`` is told, synchronously, that the cut is taken and agents may take events again, and
    ``on_committed`` what each checkpoint made visible. ``refused`` is given the records of a cut some of
    which the broker never takes, and returns what is to be written instead, or raises. ``missing`` is
    asked after a commit that had no effect whether there still are the partitions that its records are for;
    what it says, if anything, ends this assignment's checkpoints: such a cut would be aborted for ever.
    """

    def __init__(
        self,
        active: ActiveAssignment,
        transport: Transport,
        clock: Clock,
        *,
        on_cut: Callable[[], None],
        on_committed: Callable[[Sequence[CommittedChanges]], None],
        refused: Callable[[Sequence[Record], RecordRefused], Sequence[Record]],
        missing: Callable[[Sequence[Record]], Awaitable[str]] | None = None,
    ) -> None:
        self.in_flight = False
        self.closed = False
        self.last_seconds = 0.0
        self._active = active
        self._transport = transport
        self._clock = clock
        self._on_cut = on_cut
        self._on_committed = on_committed
        self._refused = refused
        self._missing = missing
        self._trouble = Trouble(logger, clock, "checkpoints are aborted")
        self._attempts_max: int | None = None
        self._lock = asyncio.Lock()
        self._committed: dict[TopicPartition, int] = {}
        self._failing: dict[tuple[str, int, int], int] = {}

    def limit_attempts(self, attempts: int) -> None:
        """A commit that had no effect, one on its way too, is tried so often; else until it works."""
        self._attempts_max = attempts

    async def run(self) -> bool:
        """One checkpoint; False if there was nothing to make durable, or if no more may be made.

        Raises Fenced, CommitUnknown, and CommitAborted after the last attempt. After each of them
        this assignment makes no more checkpoints: what it holds in memory is to be dropped.
        """
        async with self._lock:
            if self.closed or not self._active.due():
                return False
            try:
                await self._run()
            except BaseException:
                # A cut whose fate is open must never be followed by another one.
                self.closed = True
                raise
            return True

    async def _run(self) -> None:
        began_ms = self._clock.monotonic_ms()
        # Step 1. Cut: everything of this assignment in one synchronous step, so that no event is invalidated.
        cut, offsets = self._active.cut()
        self._on_cut()
        records = cut.records()
        written: dict[TopicPartition, int] = {}
        failing = self._active.failing()
        if records or offsets != self._committed or failing != self._failing:
            # Steps 2 to 4. Write, wait for every acknowledgement, commit the offsets under the fence.
            self.in_flight = True
            try:
                written = await self._commit(
                    Commit(
                        self._active.assignment, records, offsets, barriers=cut.barriers(), failing=failing
                    )
                )
            finally:
                self.in_flight = False
            self._committed, self._failing = offsets, failing
        # Step 5. It is durable: fold the cut into what may be shown; no await before all of it is.
        changes = self._active.committed(written)
        # Step 6. Tell the live subscribers.
        self._on_committed(changes)
        self.last_seconds = (self._clock.monotonic_ms() - began_ms) / 1_000

    async def _commit(self, commit: Commit) -> dict[TopicPartition, int]:
        attempt, wait_ms = 0, RETRY_FIRST_MS
        while True:
            attempt += 1
            try:
                written = await self._transport.commit(commit)
                self._trouble.worked()
                return written
            except RecordRefused as exc:
                # It had no effect either, and would never have one: the cut goes on without those records.
                commit = replace(commit, records=self._refused(commit.records, exc))
                continue
            except CommitAborted as exc:
                # It had no effect: the very same cut is tried again, while work goes on over it.
                if self._attempts_max is not None and attempt >= self._attempts_max:
                    raise
                missing = await self._missing(commit.records) if self._missing is not None else ""
                if missing:
                    raise CommitAborted(f"{exc}: {missing}") from exc
                self._trouble.failed(exc)
            await self._clock.sleep_ms(wait_ms)
            wait_ms = min(wait_ms * 2, RETRY_MAX_MS)
