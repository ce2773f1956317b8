"""What an agent is, apart from its running."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from streamflow.processing.buffer import Buffer
from streamflow.processing.event_stream import EventStream
from streamflow.processing.retries import Retry
from streamflow.state.beginning import Start

Run = Callable[[EventStream], Awaitable[None]]
Restarts = Literal["one", "all", "never", "crash"]
"""What follows a failure: its coroutine starts again, all of the agent's do, none does, the worker stops."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent, apart from its running. ``run`` is called with the stream again after each failure.

    ``run`` is ``None`` for a consumer that others take events of. ``dead_letter``: the topic for events
    it gives up on, or ``None``: they stop the worker. ``concurrency`` is the number of coroutines that share
    the events; ``isolated``: one for each partition. ``early``: it starts before the worker joins the group,
    so that what it asks for before its first event can be subscribed to at once. ``start``: where it begins
    while it has no progress; ``None``: where the group stands.
    """

    name: str
    topic: str
    run: Run | None
    retry: Retry = field(default_factory=Retry)
    dead_letter: str | None = None
    buffer: Buffer = field(default_factory=Buffer)
    concurrency: int = 1
    isolated: bool = False
    restarts: Restarts = "one"
    early: bool = False
    start: Start | None = None

    @property
    def consumer(self) -> str:
        return f"agent:{self.name}"
