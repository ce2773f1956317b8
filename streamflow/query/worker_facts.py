"""The facts of one worker and its agents: what the engine counts anyway, gathered when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamflow.engine.engine import Engine
from streamflow.metrics import Counter, Labelled, resident_bytes
from streamflow.processing.agent import AgentRunner
from streamflow.processing.circuit_breaker import circuit_states
from streamflow.query.facts import IN_HAND_MAX, AgentFacts, StandbyFacts, WorkerFacts, WorkerState
from streamflow.settings import version
from streamflow.transports.base import TopicPartition


def agent_facts(engine: Engine) -> list[AgentFacts]:
    """Of each agent."""
    blocked = set(_blocked(engine))
    return [_agent(engine, agent, agent.spec.name in blocked) for agent in engine.topology.agents]


def _agent(engine: Engine, agent: AgentRunner, blocked: bool) -> AgentFacts:
    name, pace = agent.spec.name, engine.watchdog.pace
    in_hand = [each for each in engine.watchdog.in_hand() if each.agent == name]
    return AgentFacts(
        name=name,
        topics=list(agent.topics),
        concurrency=agent.spec.concurrency,
        processed=agent.processed,
        failed=_counted(engine.metrics.events_failed_total, name),
        retries=agent.retries,
        dropped=_counted(engine.metrics.events_dropped_total, name),
        waiting=agent.queued,
        rate_per_s=pace.rate_per_s(agent, engine.clock.monotonic_ms()),
        latencies=pace.latencies(name),
        in_hand=sorted(in_hand, key=lambda each: -each.seconds)[:IN_HAND_MAX],
        blocked=blocked,
    )


def _blocked(engine: Engine) -> Iterator[str]:
    for slow in engine.watchdog.slow():
        if "agent" in slow:
            yield slow["agent"]
        yield from (each["agent"] for each in slow.get("events", ()) if isinstance(each, dict))


def _counted(counters: Labelled[Counter], agent: str) -> int:
    return int(sum(child.value for labels, child in counters.children.items() if labels[0] == agent))


def worker_facts(
    engine: Engine,
    state: WorkerState,
    reason: str | None,
    *,
    started_ms: int,
    committed_ms: int | None,
    lags: Mapping[TopicPartition, int | None],
) -> WorkerFacts:
    """Of this worker. ``lags``: of its source partitions."""
    active = engine.active
    return WorkerFacts(
        state=state,
        reason=reason,
        version=version(),
        started_ms=started_ms,
        committed_ms=committed_ms,
        memory_bytes=resident_bytes() or None,
        connections=int(engine.metrics.ws_connections.value),
        records_total=int(engine.metrics.records_total.value),
        lags=lags,
        partitions=[] if active is None else active.source_partitions(),
        standbys=_standbys(engine),
        breakers=circuit_states(),
    )


def _standbys(engine: Engine) -> list[StandbyFacts]:
    standbys = engine.rebalance.standbys
    # Where offsets are times their difference counts no records.
    counts = not engine.transport.features.timely_offsets
    found = []
    for (topic, partition), part in sorted(standbys.parts.items()):
        end, offset = standbys.ends.get((topic, partition)), part.store.offset
        lag = None if end is None else 0 if offset >= end else end - offset if counts else None
        found.append(StandbyFacts(topic, partition, lag))
    return found
