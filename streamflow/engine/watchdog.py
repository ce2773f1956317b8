"""A thread of its own that names what holds a worker up: a blocked event loop, an agent that hangs.

Each `LOOK_MS` it asks the event loop for a sign, and looks at which events agents are at work on. It names
the agent, the event and where its code stands, and cancels nothing. It only reads, so that what it sees may
be a moment old; it takes no lock that the loop holds. Only what an agent takes without giving the loop its
turn ends with the event in flight, when the loop is blocked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from streamflow.clock import Clock
from streamflow.engine.pace import Pace
from streamflow.engine.stacks import stack_of_task, stack_of_thread
from streamflow.engine.trouble import AGAIN_MS
from streamflow.metrics import Metrics
from streamflow.processing.agent import AgentRunner
from streamflow.processing.held_event import HeldEvent

logger = logging.getLogger(__name__)

LOOK_MS = 250.0
BLOCKED_MS = 1_000.0
"""The event loop is blocked when it gives no sign for so long."""
SHORT_BLOCK_MS = 300.0
"""What takes so long, again and again, starves a commit."""
SHOWN_MS = 60_000.0
"""So long a block is shown after its end: nobody can ask while it lasts."""

Place = tuple[str, str, int, int]
"""(agent, topic, partition, offset)"""


class InHand(NamedTuple):
    """An event that an agent is at work on, and since when."""

    agent: str
    topic: str
    partition: int
    offset: int
    seconds: float


class Held:
    """An event that an agent is at work on, since when, and when it was last told of."""

    def __init__(self, since_ms: float) -> None:
        self.since_ms = since_ms
        self.event: HeldEvent | None = None
        self.told_ms: float | None = None

    def see(self, event: HeldEvent) -> None:
        """It still is."""
        self.event = event

    def is_due(self, now_ms: float, warn_ms: float) -> bool:
        """Is it to be told of, for the first time or again?"""
        if self.told_ms is None:
            return now_ms - self.since_ms >= warn_ms
        return now_ms - self.told_ms >= max(warn_ms, AGAIN_MS)

    def tell(self, now_ms: float) -> None:
        """It is told of now."""
        self.told_ms = now_ms


class Watchdog:
    """Of one engine. ``agents`` gives its agents; `start` is called in their event loop.

    ``on_blocked`` is told in the event loop when a block of `SHORT_BLOCK_MS` or more is over. Where a worker
    that is blocked for long loses its partitions, that is behind ``leaves_ms``. Without `start` it sees
    nothing.
    """

    def __init__(
        self,
        agents: Callable[[], Sequence[AgentRunner]],
        clock: Clock,
        metrics: Metrics,
        *,
        warn_s: float,
        leaves_ms: float | None = None,
        on_blocked: Callable[[], None] = lambda: None,
    ) -> None:
        self._agents = agents
        self._clock = clock
        self._metrics = metrics
        self._warn_ms = warn_s * 1_000
        self._leaves_ms = leaves_ms
        self._on_blocked = on_blocked
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._held: dict[Place, Held] = {}
        self.pace = Pace(metrics)
        # Of the question to the event loop: when it was asked, whether it is answered, when it was told of.
        self._asked_ms = 0.0
        self._answered = True
        self._told_ms: float | None = None
        self._left = False
        self._names: list[dict[str, Any]] = []  # what was in flight as the block began
        self._blocks: list[tuple[float, dict[str, Any]]] = []  # (when over, what is shown of it)

    def start(self) -> None:
        """Looks from now on. Idempotent."""
        if self._thread is None:
            self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
            self._thread = threading.Thread(target=self._run, name="streamflow-watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Looks no more. Idempotent; does not wait."""
        self._ended.set()

    def _run(self) -> None:
        before_ms = self._clock.monotonic_ms()
        while not self._ended.wait(LOOK_MS / 1_000):
            now_ms = self._clock.monotonic_ms()
            stood_ms, before_ms = now_ms - before_ms - LOOK_MS, now_ms
            try:
                self._look_at_loop(now_ms, stood_ms)
                self._look_at_agents(now_ms)
            except Exception:  # a look that meets what changes under it is one look less
                logger.debug("a look failed", exc_info=True)

    # -- the event loop -----------------------------------------------------------------------------

    def _look_at_loop(self, now_ms: float, stood_ms: float) -> None:
        assert self._loop is not None
        if self._answered:
            self._asked_ms, self._answered = now_ms, False
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # it is closed
                self._ended.set()
            return
        # A block of events that were fast, and each of which is slow now, would take all its events' time.
        for agent in self._agents():
            agent.end_blocks()
        # Where this thread stood as long, the process was stopped, or code held the whole interpreter.
        blocked = now_ms - self._asked_ms >= BLOCKED_MS and stood_ms < BLOCKED_MS
        if blocked and (self._told_ms is None or now_ms - self._told_ms >= AGAIN_MS):
            self._tell_blocked(now_ms)
        leaves_ms = self._leaves_ms
        if leaves_ms is not None and blocked and not self._left and now_ms - self._asked_ms >= leaves_ms:
            self._left = True
            logger.error(
                "the event loop has been blocked for longer than broker_max_poll_interval (%g s): %s; its"
                " partitions go to whoever is there, who takes the event again, and what is done here now"
                " does not count. Raise broker_max_poll_interval for work that takes so long",
                leaves_ms / 1_000,
                _said(self._names),
            )

    def _tell_blocked(self, now_ms: float) -> None:
        stack = stack_of_thread(self._loop_thread)
        task = asyncio.current_task(self._loop)
        agents = self._agents()
        # What runs for an agent in a task that the agent has made: any of them may be meant.
        at_work = [agent for agent in agents if agent.runs(task)] or agents
        self._names = [
            {"agent": agent.spec.name, **_named(event)} for agent in at_work for event in agent.held_events()
        ]
        self._told_ms = now_ms
        logger.warning(
            "the event loop has been blocked for %.1f s: %s; nothing else of this worker runs until it goes"
            " on (await what waits, or hand it to asyncio.to_thread)\n%s",
            (now_ms - self._asked_ms) / 1_000,
            _said(self._names),
            stack or "(no stack)",
        )

    def _answer(self) -> None:
        """In the event loop."""
        now_ms = self._clock.monotonic_ms()
        blocked_ms = now_ms - self._asked_ms
        if blocked_ms >= BLOCKED_MS:
            seconds = blocked_ms / 1_000
            self._metrics.event_loop_blocked_seconds_total.inc(seconds)
            if self._told_ms is None:
                logger.warning(
                    "this worker stood still for %.1f s: its process was stopped, or code held the"
                    " interpreter",
                    seconds,
                )
            else:
                logger.warning(
                    "over after %.1f s: the event loop was blocked: %s", seconds, _said(self._names)
                )
            shown = {"blocked_event_loop_s": round(seconds, 1), "events": self._names}
            self._blocks = [*self._blocks[-9:], (now_ms, shown)]
            self._told_ms, self._names, self._left = None, [], False
        if blocked_ms >= SHORT_BLOCK_MS:
            self._on_blocked()
        self._answered = True

    # -- agents -------------------------------------------------------------------------------------

    def _look_at_agents(self, now_ms: float) -> None:
        held: dict[Place, Held] = {}
        agents = self._agents()
        self.pace.look(now_ms, agents)
        for agent in agents:
            oldest_ms = now_ms
            for event in agent.held_events():
                place = (agent.spec.name, event.topic, event.partition, event.offset)
                known = held[place] = self._held.get(place) or Held(now_ms)
                known.see(event)
                oldest_ms = min(oldest_ms, known.since_ms)
                if known.is_due(now_ms, self._warn_ms):
                    self._tell_held(agent, event, known, now_ms)
            self._metrics.agent_event_seconds.labels(agent.spec.name).set((now_ms - oldest_ms) / 1_000)
        before, self._held = self._held, held
        for place, known in before.items():
            if known.told_ms is not None and place not in held and known.event is not None:
                seconds = (now_ms - known.since_ms) / 1_000
                logger.warning("over after %.1f s: agent %s held %s", seconds, place[0], known.event.place)

    def _tell_held(self, agent: AgentRunner, event: HeldEvent, known: Held, now_ms: float) -> None:
        task = event.task
        runs = self._loop is not None and task is not None and asyncio.current_task(self._loop) is task
        stack = stack_of_thread(self._loop_thread) if runs else stack_of_task(task)
        known.tell(now_ms)
        logger.warning(
            "agent %s has had %s in flight for %.0f s (agent_warn_s is %g); its code stands at\n%s",
            agent.spec.name,
            event.place,
            (now_ms - known.since_ms) / 1_000,
            self._warn_ms / 1_000,
            stack or "(no coroutine of the agent has it: it waits for its acknowledgement)",
        )

    # -- who asks -----------------------------------------------------------------------------------

    def in_hand(self) -> list[InHand]:
        """What agents are at work on, as of the newest look."""
        now_ms = self._clock.monotonic_ms()
        return [
            InHand(*place, round((now_ms - known.since_ms) / 1_000, 3)) for place, known in self._held.items()
        ]

    def slow(self) -> list[Mapping[str, Any]]:
        """What is held for longer than ``agent_warn_s``, and blocks of the event loop in the last minute."""
        now_ms = self._clock.monotonic_ms()
        held = [
            {"agent": place[0], **_named(known.event), "held_s": round((now_ms - known.since_ms) / 1_000, 1)}
            for place, known in self._held.items()
            if known.event is not None and now_ms - known.since_ms >= self._warn_ms
        ]
        return [*held, *(shown for over_ms, shown in self._blocks if now_ms - over_ms < SHOWN_MS)]


def _named(event: HeldEvent) -> dict[str, Any]:
    return {
        "topic": event.topic,
        "partition": event.partition,
        "offset": event.offset,
        "events": event.events,
    }


def _said(names: Sequence[Mapping[str, Any]]) -> str:
    if not names:
        return "by code that has no event in flight"
    return " or ".join(
        f"agent {each['agent']} with {each['topic']}[{each['partition']}] offset {each['offset']}"
        for each in names
    )
