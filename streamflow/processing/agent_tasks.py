"""The coroutines of one agent: its function as often as it says, and what was set going for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from streamflow.clock import Clock
from streamflow.processing.agent_spec import Run
from streamflow.processing.feed import Actor
from streamflow.processing.gate import Gate

logger = logging.getLogger(__name__)

EARLY_MAX_S = 2.0
"""So long the worker waits for what agents do before their first event, until it joins the group."""


class AgentTasks:
    """``work`` runs one coroutine: it is given its actor and what to run."""

    def __init__(
        self, name: str, gate: Gate, clock: Clock, work: Callable[[Actor, Run], Coroutine[Any, Any, None]]
    ) -> None:
        self._name = name
        self._gate = gate
        self._clock = clock
        self._work = work
        self._tasks: dict[asyncio.Task[None], tuple[Actor, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def start(self, run: Run, lanes: Iterable[int]) -> None:
        """Starts ``run`` once for each lane where it does not run."""
        missing = list(lanes)
        for task, (actor, stage) in list(self._tasks.items()):
            if task.done():
                del self._tasks[task]
            elif not stage and actor.lane in missing:
                missing.remove(actor.lane)
        for lane in missing:
            self._start(run, lane, "")

    def spawn(self, stage: str, run: Run, lane: int) -> None:
        """Starts something else for the agent, unless a stage of this name runs."""
        if all(task.done() or name != stage for task, (_, name) in self._tasks.items()):
            self._start(run, lane, stage)

    def _start(self, run: Run, lane: int, stage: str) -> None:
        actor = Actor(self._gate, self._clock, lane)
        work: Coroutine[Any, Any, None] = self._work(actor, run)
        self._tasks[asyncio.create_task(work, name=f"{self._name} {stage}".strip())] = actor, stage

    def running(self) -> list[tuple[asyncio.Task[None], Actor]]:
        """As they are now; another thread may ask."""
        return [(task, actor) for task, (actor, _) in list(self._tasks.items())]

    def stop(self) -> list[asyncio.Task[None]]:
        """Cancels them all; what they still take raises StaleEvent. Returns those that have to end."""
        tasks, self._tasks = self._tasks, {}
        for task, (actor, _) in tasks.items():
            actor.stop()
            task.cancel()
        return list(tasks)

    async def has_begun(self) -> None:
        """Returns when each of them has waited for an event, or has ended."""
        for task, (actor, _) in list(self._tasks.items()):
            waiting = asyncio.ensure_future(actor.waits.wait())
            try:
                await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()


async def have_begun(all_tasks: Iterable[AgentTasks]) -> None:
    """Waits, bounded, until agents that start early have asked for their first event."""
    try:
        async with asyncio.timeout(EARLY_MAX_S):
            for tasks in all_tasks:
                await tasks.has_begun()
    except TimeoutError:
        logger.info("an agent does something else before its first event; the worker goes on without waiting")
