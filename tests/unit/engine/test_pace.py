"""How fast agents have been: from samples of what is counted anyway."""

from __future__ import annotations

import pytest

from streamflow.engine.pace import Pace
from streamflow.metrics import Metrics, spread_quantile
from tests.support.running import make_app, running, until


async def test_rates_and_latencies_are_those_of_the_newest_samples() -> None:
    app = make_app()
    topic = app.topic("orders", value_type=int)

    @app.agent(topic)
    async def take(stream: object) -> None:
        async for _ in stream:  # type: ignore[attr-defined]
            pass

    async with running(app):
        (agent,) = app.engine.topology.agents
        pace = Pace(app.engine.metrics)
        assert pace.rate_per_s(agent, 0) is None
        pace.look(0, [agent])
        for n in range(30):
            await topic.send(value=n)
        await until(lambda: agent.processed == 30)
        pace.look(500, [agent])  # too early: the sample before is what counts
        assert pace.rate_per_s(agent, 3_000) == 10.0
        pace.look(3_000, [agent])
        assert pace.rate_per_s(agent, 13_000) == 0.0
        await until(lambda: sum(pace.latencies(agent.spec.name)))
        for second in range(4, 70):
            pace.look(second * 1_000, [agent])
        assert sum(pace.latencies(agent.spec.name)) == 0  # none in the last minute


@pytest.mark.parametrize(
    "counts, fraction, seconds",
    [
        ([0] * 17, 0.5, None),
        ([10] + [0] * 16, 0.5, 0.0005),
        ([0, 10] + [0] * 15, 1.0, 0.0025),
        ([0] * 16 + [5], 0.5, 300.0),
    ],
)
def test_a_quantile_lies_evenly_within_its_bucket_and_never_beyond_the_last_bound(
    counts: list[int], fraction: float, seconds: float | None
) -> None:
    assert spread_quantile(counts, fraction) == pytest.approx(seconds)
    assert len(Metrics().checkpoint_seconds.counts) == 17
