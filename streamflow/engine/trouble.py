"""What fails for a while, as the log and probes are told of it: one line for each change of state.

A broker that is away makes many things fail, each many times a second. Each is told when it begins, every
`AGAIN_MS` while it lasts, and when it is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError, LostWrites
from streamflow.transports.base import Transport

AGAIN_MS = 30_000.0
ASK_MS = 5_000.0
STALLED_MS = 15_000.0
"""So long the broker may be silent, or a commit that was due be late, before the worker is not ready."""


class Trouble:
    """One thing that may fail and be tried again."""

    def __init__(self, logger: logging.Logger, clock: Clock, what: str) -> None:
        self._logger = logger
        self._clock = clock
        self._what = what
        self._since_ms: float | None = None
        self._told_ms = 0.0
        self._silent = 0  # failures since the last line

    def failed(self, why: object) -> None:
        """It has failed, and is tried again."""
        now_ms = self._clock.monotonic_ms()
        if self._since_ms is None:
            self._since_ms = self._told_ms = now_ms
            self._logger.warning("%s, and is tried again: %s", self._what, why)
        elif now_ms - self._told_ms >= AGAIN_MS:
            self._logger.warning(
                "%s for %.0f s, still trying (%d times since the last line): %s",
                self._what,
                (now_ms - self._since_ms) / 1_000,
                self._silent + 1,
                why,
            )
            self._told_ms, self._silent = now_ms, 0
        else:
            self._silent += 1

    def worked(self) -> None:
        """It works; cheap where nothing was wrong."""
        if self._since_ms is not None:
            seconds = (self._clock.monotonic_ms() - self._since_ms) / 1_000
            self._since_ms, self._silent = None, 0
            self._logger.warning("over after %.1f s: %s", seconds, self._what)


class BrokerWatch:
    """Does the broker answer, and does what is due become durable? `reason` says what is wrong.

    It asks the broker for the partitions of ``topic`` now and then, since a consumer that waits for records
    that never come does not notice. A question is never given up: the next one comes when it has ended.
    """

    def __init__(
        self, transport: Transport, clock: Clock, logger: logging.Logger, topic: Callable[[], str]
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._topic = topic
        self._trouble = Trouble(logger, clock, "this worker is stalled")
        self._asking: asyncio.Task[None] | None = None
        self._answered_ms = clock.monotonic_ms()
        self._error = "no answer"
        self._due_since_ms: float | None = None
        self.owed = False  # a commit has failed for good: what it held has still to be taken again
        self._lost: LostWrites | None = None

    async def run(self) -> None:
        """Until cancelled. Raises LostWrites where the broker knows this worker no more."""
        self._answered_ms = self._clock.monotonic_ms()
        try:
            while True:
                if self._asking is None or self._asking.done():
                    self._asking = asyncio.create_task(self._ask(), name="streamflow-broker-watch")
                await self._clock.sleep_ms(ASK_MS)
                if self._lost is not None:
                    raise self._lost  # whatever waits for the broker now would wait for ever
                reason = self.reason()
                if reason is None:
                    self._trouble.worked()
                else:
                    self._trouble.failed(reason)
        finally:
            if self._asking is not None:
                self._asking.cancel()

    async def _ask(self) -> None:
        try:
            await self._transport.partition_counts([self._topic()])
        except ConfigurationError:
            pass  # a refusal is an answer
        except LostWrites as exc:
            self._lost = exc
        except Exception as exc:  # noqa: BLE001  # whatever the driver raises, it is no answer
            self._error = str(exc) or type(exc).__name__
            return
        self._answered_ms = self._clock.monotonic_ms()
        self._error = "no answer"

    def commit_due(self, *, due: bool) -> None:
        """Told before each checkpoint whether there is something to be made durable, and after it."""
        if not due:
            self._due_since_ms, self.owed = None, False
        elif self._due_since_ms is None:
            self._due_since_ms = self._clock.monotonic_ms()

    def forgive(self) -> None:
        """The event loop was blocked: nobody could be asked, nor anything committed."""
        self._answered_ms = self._clock.monotonic_ms()
        if self._due_since_ms is not None:
            self._due_since_ms = self._answered_ms

    def commit_failed(self) -> None:
        """What it held is dropped, and read back."""
        self.owed = True

    @property
    def commit_age_ms(self) -> float:
        """How long something has been due that is not durable."""
        return 0.0 if self._due_since_ms is None else self._clock.monotonic_ms() - self._due_since_ms

    def reason(self) -> str | None:
        """Why this worker can't be relied on now, or ``None``."""
        silent_ms = self._clock.monotonic_ms() - self._answered_ms
        if silent_ms >= STALLED_MS:
            return f"the broker has not answered for {silent_ms / 1_000:.0f} s ({self._error})"
        if self.commit_age_ms >= STALLED_MS:
            return f"a commit has been due for {self.commit_age_ms / 1_000:.0f} s"
        return None
