"""What one worker says of itself, its agents and its topics, for readers outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from streamflow.engine.watchdog import InHand
from streamflow.transports.base import TopicPartition

WorkerState = Literal["ready", "recovering", "stalled", "failed"]
IN_HAND_MAX = 20
"""So many events of one agent are named; what code is at work on can be more than anybody reads."""


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """One agent on this worker, since it started.

    ``failed``: attempts that raised; ``dropped``: by its buffer's policy; ``waiting``: events that wait to be
    taken. ``rate_per_s``: of the last ten seconds; ``None`` while not known. ``latencies``: batches of the
    last minute by `SECONDS_BUCKETS`. ``blocked``: an event is held for longer than `agent_warn_s`, or has
    held the event loop up within the last minute.
    """

    name: str
    topics: Sequence[str]
    concurrency: int
    processed: int
    failed: int
    retries: int
    dropped: int
    waiting: int
    rate_per_s: float | None
    latencies: Sequence[int]
    in_hand: Sequence[InHand]
    blocked: bool


class StandbyFacts(NamedTuple):
    """A partition of a changelog that is kept up to date for another worker.

    ``lag``: records that it is behind, as of the last look; ``None`` while that is not known.
    """

    topic: str
    partition: int
    lag: int | None


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One worker. Times are epoch milliseconds; ``breakers``: circuit breaker -> its state."""

    state: WorkerState
    reason: str | None
    version: str
    started_ms: int
    committed_ms: int | None
    memory_bytes: int | None
    connections: int
    records_total: int
    lags: Mapping[TopicPartition, int | None]
    partitions: Sequence[TopicPartition]
    standbys: Sequence[StandbyFacts]
    breakers: Mapping[str, str]


class PartitionFacts(NamedTuple):
    """``start`` and ``end``: first offset, and the one behind the last record; ``None`` while not known.

    ``position``: the least that the app's consumers have checkpointed; ``None`` where nothing reads it.
    """

    partition: int
    start: int | None
    end: int | None
    position: int | None


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """One topic that the app knows. ``internal``: it holds the app's own state."""

    name: str
    internal: bool
    agents: Sequence[str]
    tables: Sequence[str]
    partitions: Sequence[PartitionFacts]
