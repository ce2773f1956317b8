"""What an agent is, apart from its running."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from streamflow.processing.buffer import Buffer
from streamflow.processing.circuit_breaker import CircuitBreaker
from streamflow.processing.event_stream import EventStream
from streamflow.processing.retries import Retry, Transient
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

    ``transient``: errors that a minute may cure; ``breaker``: while it is open the agent's partitions wait;
    ``timeout_s``: an event that its code is at work on for longer is cancelled, undone and tried again.
    ``gives_up_max``: after so many events in a row that it gave up on the worker stops; 0: never.
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
    transient: Transient = field(default_factory=Transient)
    breaker: CircuitBreaker | None = None
    timeout_s: float | None = None
    gives_up_max: int = 0

    @property
    def consumer(self) -> str:
        return f"agent:{self.name}"
