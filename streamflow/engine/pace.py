"""How fast agents have been lately: what they count anyway, looked at once a second.

Nothing is counted here. The watchdog's thread takes a sample of each agent's counters; whoever asks gets what
has changed since an older sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from streamflow.metrics import SECONDS_BUCKETS, Metrics
from streamflow.processing.agent import AgentRunner

SAMPLE_MS: Final = 1_000.0
SAMPLES_MAX: Final = 61
RATE_MS: Final = 10_000.0


class _Sample(NamedTuple):
    at_ms: float
    processed: dict[str, int]  # agent -> events that it has finished
    latencies: dict[str, tuple[int, ...]]  # agent -> batches by `SECONDS_BUCKETS`, and those beyond


class Pace:
    """Of one engine's agents. `look` may run in another thread than the questions."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._samples: tuple[_Sample, ...] = ()

    def look(self, now_ms: float, agents: Sequence[AgentRunner]) -> None:
        """Takes a sample where the newest one is a second old."""
        if self._samples and now_ms - self._samples[-1].at_ms < SAMPLE_MS:
            return
        processed = {agent.spec.name: agent.processed for agent in agents}
        sample = _Sample(now_ms, processed, {name: self._latencies(name) for name in processed})
        # One assignment: who asks meanwhile has the samples before, or these.
        self._samples = (*self._samples[1 - SAMPLES_MAX :], sample)

    def _latencies(self, agent: str) -> tuple[int, ...]:
        histogram = self._metrics.end_to_end_seconds.children.get((agent,))
        return (0,) * (len(SECONDS_BUCKETS) + 1) if histogram is None else tuple(histogram.counts)

    def rate_per_s(self, agent: AgentRunner, now_ms: float) -> float | None:
        """Events that it has finished in the last ten seconds, a second; ``None`` before the first sample."""
        samples = self._samples
        if not samples:
            return None
        older = [sample for sample in samples if now_ms - sample.at_ms >= RATE_MS]
        base = older[-1] if older else samples[0]
        seconds = max(now_ms - base.at_ms, SAMPLE_MS) / 1_000
        done = agent.processed - base.processed.get(agent.spec.name, 0)
        return round(max(0.0, done / seconds), 3)

    def latencies(self, agent: str) -> tuple[int, ...]:
        """Batches of the last minute by how long they took, from their oldest record's timestamp to the
        checkpoint that holds them: a number for each of `SECONDS_BUCKETS`, and for those beyond."""
        samples, now = self._samples, self._latencies(agent)
        before = samples[0].latencies.get(agent) if samples else None
        return now if before is None else tuple(n - b for n, b in zip(now, before, strict=True))
