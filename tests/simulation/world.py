"""One seed from its first event to its verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from streamflow.testing import SimulationError, SimulationLoop, run_simulation
from tests.simulation import at_least, checks, later
from tests.simulation.cluster import Cluster
from tests.simulation.scenario import GRACE_MS, MOVING, RETAIN_MS, SIZE_MS, Scenario, Trouble

STEPS_MAX = 3_000_000


@dataclass
class Verdict:
    """``wrong`` is empty for a world in which every invariant held."""

    seed: int
    wrong: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    virtual_s: float = 0.0
    kept: int = 0  # partitions that an assignment found with their rows still there
    digest: str = ""  # of all that was ever visible at the end: equal for the same seed


def run_seed(seed: int, trouble: Trouble | None = None, *, plain: bool = False, **broken: Any) -> Verdict:
    """``plain``: without transactions. ``broken``: ``broken_...`` switches of the transport's `Faults`."""
    scenario = Scenario(seed, trouble)
    if plain:
        # No fence reaches what a worker writes that stops between the question whether it still may and
        # its write, so nobody stops there; and what idle ticks make late is not to be told from a loss.
        scenario.trouble = replace(scenario.trouble, freeze_chance=0.0, idle_close_s=None)
    verdict = Verdict(seed)

    async def main(loop: SimulationLoop) -> None:
        cluster = Cluster(loop, scenario, plain_commits=plain, **broken)
        verdict.story = cluster.story
        try:
            await _live(cluster, verdict.wrong)
        finally:
            verdict.virtual_s = loop.time()
            verdict.kept = sum(int(m.partitions_kept_total.value) for m in cluster.metrics)
            verdict.digest = checks.digest(cluster.broker)

    try:
        run_simulation(main, seed, steps_max=STEPS_MAX)
    except AssertionError as exc:
        verdict.wrong.append(f"failed: {exc}")
    except SimulationError as exc:
        verdict.wrong.append(f"{type(exc).__name__}: {exc}: {exc.__cause__!r}")
    return verdict


async def _live(cluster: Cluster, wrong: list[str]) -> None:
    scenario = cluster.scenario
    for _ in range(scenario.trouble.workers):
        cluster.boot()
    feeding = asyncio.ensure_future(cluster.feed(scenario.trouble.duration_s))
    await cluster.harass()
    await feeding
    cluster.calm_down()
    # The first flush closes every window, the second expires it.
    ahead_ms = SIZE_MS + GRACE_MS
    first_ms = scenario.last_ms() + ahead_ms
    await _flush(cluster, 1, first_ms)
    _judge(cluster, first_ms, wrong)
    if not cluster.faults.plain_commits:  # else what a zombie has written stays in the log
        whole = partial(checks.standbys_are_whole, cluster, first_ms)
        await cluster.until(whole, "standbys hold what the owners hold")
    second_ms = first_ms + ahead_ms + SIZE_MS + RETAIN_MS
    await _flush(cluster, 2, second_ms)
    _judge_the_end(cluster, second_ms, wrong)
    for worker in list(cluster.workers.values()):
        if not worker.stopping:
            await cluster.stop(worker)


async def _flush(cluster: Cluster, number: int, time_ms: int) -> None:
    events = cluster.scenario.flush(number, time_ms)
    cluster.flushed += events
    cluster.produce(events)
    await cluster.until(_watched(cluster, time_ms), f"everything is quiet after flush {number}")


def _watched(cluster: Cluster, time_ms: int) -> Callable[[], bool]:
    def quiet() -> bool:
        for worker in cluster.workers.values():
            assert worker.engine.failure is None, f"{worker.owner} failed: {worker.engine.failure!r}"
        return checks.has_become_quiet(cluster, time_ms)

    return quiet


def _judge(cluster: Cluster, time_ms: int, wrong: list[str]) -> None:
    scenario = cluster.scenario
    events = [
        [*part, *(e for e in cluster.flushed if e.partition == p)] for p, part in enumerate(scenario.events)
    ]
    expected = scenario.expected(events)
    if cluster.faults.plain_commits:
        at_least.judge(cluster, expected, events, wrong)
        return
    open_from_ms = time_ms - time_ms % SIZE_MS
    checks.check_outputs(cluster, events, wrong)
    checks.check_offsets(cluster, wrong)
    # Idle ticks close windows early, those of the flush too, and make nothing late.
    checks.check_closed_rows(cluster, expected, open_from_ms, wrong)
    checks.check_progress(cluster, expected, wrong)
    later.check(cluster, expected, events, wrong)
    checks.check_rows(cluster, expected, wrong)
    checks.check_moving(cluster, expected, time_ms, wrong)


def _judge_the_end(cluster: Cluster, time_ms: int, wrong: list[str]) -> None:
    if cluster.faults.plain_commits:
        return  # closed rows may have come twice, and a tombstone that a crash left out does not come again
    for fold in checks.FOLDS:
        checks.emitted(cluster.broker, fold, wrong)
    for fold in MOVING:
        checks.emitted_moving(cluster.broker, fold, wrong)
    checks.check_bounded(cluster, time_ms - time_ms % SIZE_MS, wrong)
