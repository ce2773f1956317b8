"""What runs: the workers and their agents, as all of them say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from streamflow.metrics import spread_quantile
from streamflow.query.facts import AgentFacts, WorkerFacts
from streamflow.transports.base import TopicPartition
from streamflow.web import encoding
from streamflow.web.http.api import Api, answer, only
from streamflow.web.http.completeness import UNUSABLE
from streamflow.web.http.everyone import Everyone
from streamflow.web.peers import is_peer
from streamflow.web.rights import caller_of

SUMMED = ("processed", "failed", "retries", "dropped", "waiting")


class Running:
    """The handlers of ``/v1/agents`` and ``/v1/workers``."""

    def __init__(self, api: Api, everyone: Everyone) -> None:
        self._served = api.served
        self._everyone = everyone

    async def workers(self, request: web.Request) -> web.StreamResponse:
        """Every member of the group; one that does not answer has only what the group knows of it."""
        caller_of(request).require("read", "app", self._served.app_id)
        only(request, ())
        facts = self._served.worker()
        own = _worker(self._served.url, facts)
        if is_peer(request):
            own["lags"] = [[topic, partition, lag] for (topic, partition), lag in sorted(facts.lags.items())]
            return answer(request, {"workers": [own], "partial": False, "missing": []})
        partitions = {member.url: member.partitions for member in self._served.members()}
        workers, missing = [own], []
        for url, said in (await self._everyone.ask("/v1/workers")).items():
            try:
                if said is None:
                    raise ValueError("no answer")
                # Its address is what we know it by: what it says of itself may be spelt otherwise.
                worker = {**said["workers"][0], "worker": url, "self": False}
                workers.append({name: value for name, value in worker.items() if name != "lags"})
            except UNUSABLE:
                missing.append(url)
                workers.append(_unreachable(url, partitions.get(url, ())))
        workers.sort(key=lambda worker: str(worker["worker"]))
        return answer(request, {"workers": workers, "partial": bool(missing), "missing": missing})

    async def agents(self, request: web.Request) -> web.StreamResponse:
        """Sums over the workers; ``missing`` names those that did not answer, whose part is not in them."""
        caller_of(request).require("read", "app", self._served.app_id)
        only(request, ())
        own = [_agent(facts) for facts in self._served.agents()]
        if is_peer(request):
            return answer(request, {"agents": own, "partial": False, "missing": []})
        by_name = {agent["agent"]: agent for agent in own}
        missing = []
        for url, said in (await self._everyone.ask("/v1/agents")).items():
            try:
                if said is None:
                    raise ValueError("no answer")
                theirs = [_checked(agent) for agent in said["agents"]]
            except UNUSABLE:
                missing.append(url)
                continue
            for agent in theirs:
                before = by_name.get(agent["agent"])
                by_name[agent["agent"]] = agent if before is None else _sum(before, agent)
        agents = [_shown(agent) for _, agent in sorted(by_name.items())]
        return answer(request, {"agents": agents, "partial": bool(missing), "missing": missing})


def _worker(url: str, facts: WorkerFacts) -> dict[str, Any]:
    lags = facts.lags.values()
    return {
        "worker": url,
        "self": True,
        "state": facts.state,
        "reason": facts.reason,
        "version": facts.version,
        "started": encoding.time_text(facts.started_ms),
        "last_commit": encoding.time_text(facts.committed_ms),
        "memory_bytes": facts.memory_bytes,
        "connections": facts.connections,
        "records_total": facts.records_total,
        "lag_records": None if None in lags else sum(lag for lag in lags if lag is not None),
        "partitions": _places(facts.partitions),
        "standbys": [{"topic": t, "partition": p, "lag": lag} for t, p, lag in facts.standbys],
        "breakers": [{"name": name, "state": state} for name, state in sorted(facts.breakers.items())],
    }


def lags_of(said: Mapping[str, Any] | None) -> dict[TopicPartition, int | None]:
    """What a worker's answer to a peer says of its partitions. Raises one of `UNUSABLE`."""
    if said is None:
        raise ValueError("no answer")
    return {
        (str(topic), int(partition)): None if lag is None else int(lag)
        for topic, partition, lag in said["workers"][0]["lags"]
    }


def _unreachable(url: str, partitions: Iterable[TopicPartition]) -> dict[str, Any]:
    unknown = dict.fromkeys(
        ("version", "started", "last_commit", "memory_bytes", "connections", "records_total", "lag_records")
    )
    return {
        "worker": url,
        "self": False,
        "state": "unreachable",
        "reason": "it does not answer",
        **unknown,
        "partitions": _places(sorted(partitions)),
        "standbys": [],
        "breakers": [],
    }


def _places(partitions: Iterable[TopicPartition]) -> list[dict[str, Any]]:
    return [{"topic": topic, "partition": partition} for topic, partition in partitions]


def _agent(facts: AgentFacts) -> dict[str, Any]:
    """One worker's part; ``buckets``, from which the quantiles of all are made, is for peers only."""
    return {
        "agent": facts.name,
        "topics": list(facts.topics),
        "concurrency": facts.concurrency,
        **{name: getattr(facts, name) for name in SUMMED},
        "rate_per_s": facts.rate_per_s,
        "latency_ms": _latency(facts.latencies),
        "buckets": list(facts.latencies),
        "in_hand": [
            {"topic": e.topic, "partition": e.partition, "offset": str(e.offset), "seconds": e.seconds}
            for e in facts.in_hand
        ],
        "blocked": facts.blocked,
        "workers": 1,
    }


def _checked(agent: Mapping[str, Any]) -> dict[str, Any]:
    """Raises one of `UNUSABLE` for what no worker says."""
    numbers = {name: int(agent[name]) for name in (*SUMMED, "concurrency", "workers")}
    rate = agent["rate_per_s"]
    return {
        **agent,
        **numbers,
        "agent": str(agent["agent"]),
        "rate_per_s": None if rate is None else float(rate),
        "buckets": [int(count) for count in agent["buckets"]],
        "in_hand": [dict(event) for event in agent["in_hand"]],
    }


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    rates = [rate for rate in (one["rate_per_s"], other["rate_per_s"]) if rate is not None]
    buckets = [a + b for a, b in zip(one["buckets"], other["buckets"], strict=True)]
    in_hand = sorted((*one["in_hand"], *other["in_hand"]), key=lambda event: -event["seconds"])
    return {
        **one,
        "topics": list(dict.fromkeys((*one["topics"], *other["topics"]))),
        **{name: one[name] + other[name] for name in (*SUMMED, "workers")},
        "rate_per_s": round(sum(rates), 3) if rates else None,
        "latency_ms": _latency(buckets),
        "buckets": buckets,
        "in_hand": in_hand,
        "blocked": bool(one["blocked"] or other["blocked"]),
    }


def _shown(agent: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in agent.items() if name != "buckets"}


def _latency(buckets: Iterable[int]) -> dict[str, float] | None:
    counts = list(buckets)
    p50, p99 = spread_quantile(counts, 0.5), spread_quantile(counts, 0.99)
    if p50 is None or p99 is None:
        return None
    return {"p50": round(p50 * 1_000, 3), "p99": round(p99 * 1_000, 3)}
