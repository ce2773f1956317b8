"""``streamflow doctor``: what it finds in the events of a topic."""

from __future__ import annotations

from typing import Any

from streamflow.aggregates import Count, Sum
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.cli.doctor import event_findings
from streamflow.windows import TumblingWindow
from tests.support.declared import T0_MS, Declared


def spec(name: str, **options: Any) -> AggregateSpec:
    return AggregateSpec(name, "events", Key(), TumblingWindow(10), RowFunctions(Count()), **options)


async def found(world: Declared) -> dict[str, tuple[str, str]]:
    """Check -> its status and what it says."""
    return {f.check: (f.status, f.said) async for f in event_findings(world.engine, "events", 1, 1_000)}


async def test_fields_that_no_event_has_are_named() -> None:
    values = {"n": Count(), "sum": Sum("amonut"), "all": Sum("n")}
    declared = AggregateSpec("table", "events", "shpo", None, RowFunctions(values))
    world = Declared(declared, partitions=1, value=dict[str, Any])
    await world.start()
    try:
        assert not [check for check in await found(world) if "fields" in check], "nothing is known yet"
        await world.write(0, {"n": 1, "shop": "a", "amount": 2}, {"shop": "b"})
        said = [f.said async for f in event_findings(world.engine, "events", 1, 9) if "fields" in f.check]
        assert [text.split(" is missing")[0] for text in said] == [
            "by='shpo'",
            "values={'sum': Sum('amonut')}",
        ]
    finally:
        await world.close()


async def test_times_that_look_like_seconds_are_named_with_the_cure() -> None:
    world = Declared(spec("a", time="sec"), spec("b", time="ms"), partitions=1, value=dict[str, Any])
    await world.start()
    try:
        await world.write(0, {"sec": T0_MS // 1_000, "ms": T0_MS}, b"no JSON", {"sec": None, "ms": T0_MS})
        findings = await found(world)
        assert findings["times of events: ms"] == ("ok", "up to 2025-10-09T08:53:20Z")
        status, said = findings["times of events: sec"]
        assert status == "warning"
        assert 'TimeField("sec", unit="s")' in said
        assert findings["times of events"][0] == "ok"
    finally:
        await world.close()
