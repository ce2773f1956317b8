"""The hour that workers keep of themselves, and how it is added together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import jsonschema

from streamflow.web.http import history
from streamflow.web.http.history import NAMES, SLOTS_MAX, STEP_MS, Ring
from streamflow.web.http.routes import SCHEMAS
from streamflow.web.security import PEER_HEADER
from tests.support.web_fakes import Cluster, FakeServed
from tests.unit.web.http.test_api import Client


class SetClock:
    """Stands until it is set."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> float:
        return float(self.ms)

    async def sleep_ms(self, delay_ms: float) -> None:
        await asyncio.Event().wait()


def a_worker() -> tuple[FakeServed, SetClock, Ring]:
    served = FakeServed(Cluster(), range(3), "http://127.0.0.1:1")
    clock = SetClock()
    served.clock = clock  # type: ignore[assignment]  # one that the test sets
    return served, clock, Ring(served)


def test_rates_are_differences_and_the_rest_is_as_it_stands() -> None:
    served, clock, ring = a_worker()
    ring.measure()
    assert ring.slots() == {}
    clock.ms += STEP_MS
    served.cluster.events += 50
    served.metrics.events_failed_total.labels("agent", "ValueError").inc(5)
    served.metrics.ws_connections.set(3)
    ring.measure()
    ((slot, figures),) = ring.slots().items()
    said = dict(zip(NAMES, figures, strict=True))
    assert slot == clock.ms // STEP_MS
    memory = said.pop("memory_bytes")
    assert said == {"events_per_s": 10, "lag_records": 0, "failed_per_s": 1, "ws_connections": 3}
    assert memory is not None
    assert memory > 0


def test_a_slot_is_written_once_and_an_early_timer_loses_nothing() -> None:
    served, clock, ring = a_worker()
    ring.measure()
    clock.ms += STEP_MS
    ring.measure()
    served.cluster.events += 50
    clock.ms += STEP_MS - 1
    ring.measure()
    clock.ms += 1
    ring.measure()
    assert [figures[0] for figures in ring.slots().values()] == [0, 10]


def test_what_went_by_unseen_is_not_known_and_the_ring_stays_small() -> None:
    served, clock, ring = a_worker()
    ring.measure()
    clock.ms += STEP_MS
    ring.measure()
    clock.ms += 3 * STEP_MS
    served.cluster.events += 150
    ring.measure()
    assert [figures[0] for figures in ring.slots().values()] == [0, None, None, 10]
    clock.ms += 10_000 * STEP_MS
    ring.measure()
    assert len(ring.slots()) == SLOTS_MAX


def test_the_lag_of_a_worker_that_is_not_ready_is_not_known() -> None:
    served, clock, ring = a_worker()
    ring.measure()
    served.is_ready = False
    clock.ms += STEP_MS
    ring.measure()
    assert [figures[NAMES.index("lag_records")] for figures in ring.slots().values()] == [None]


async def answers(
    client: Client, wanted: Callable[[dict], bool], path: str = "/v1/history?minutes=1"
) -> dict:
    async with asyncio.timeout(20):
        while True:
            body: dict = await client.ok(path)
            if wanted(body):
                return body
            await asyncio.sleep(0.05)


def newest(body: dict, name: str) -> list[float | None]:
    values: list[float | None] = next(s["values"] for s in body["series"] if s["name"] == name)
    return values


async def test_any_worker_adds_up_all_and_says_who_is_silent(monkeypatch) -> None:
    monkeypatch.setattr(history, "STEP_MS", 1_000)
    cluster = Cluster()
    async with cluster.run([0], [1, 2]) as (first, second), aiohttp.ClientSession() as session:
        first.metrics.ws_connections.set(3)
        second.metrics.ws_connections.set(4)
        clients = [Client(session, worker) for worker in (first, second)]
        for client in clients:
            body = await answers(client, lambda body: newest(body, "ws_connections")[-1] == 7)
            jsonschema.validate(body, dict(SCHEMAS["History"]), cls=jsonschema.Draft202012Validator)
            assert (body["step_s"], body["partial"], body["missing_workers"]) == (1, False, [])
            assert {len(series["values"]) for series in body["series"]} == {60}
            own = await client.ok("/v1/history?minutes=1", **{PEER_HEADER: "http://127.0.0.1:1"})
            assert newest(own, "ws_connections")[-1] == client.served.metrics.ws_connections.value
        await cluster.kill(1)
        body = await answers(
            clients[0], lambda body: body["partial"] and newest(body, "ws_connections")[-1] is None
        )
        assert body["missing_workers"] == [second.url]
        assert 7 in newest(body, "ws_connections")  # the past does not change
        cluster.members.pop()  # the group has noticed, too
        body = await answers(clients[0], lambda body: newest(body, "ws_connections")[-1] == 3)
        assert (body["partial"], body["missing_workers"]) == (False, [])
        assert 7 in newest(body, "ws_connections")


async def test_a_part_can_be_asked_for_and_what_is_wrong_is_said() -> None:
    async with Cluster().run() as (served,), aiohttp.ClientSession() as session:
        client = Client(session, served)
        body = await client.ok("/v1/history?metric=lag_records,memory_bytes&minutes=2")
        assert [series["name"] for series in body["series"]] == ["lag_records", "memory_bytes"]
        assert [series["labels"] for series in body["series"]] == [{}, {}]
        assert {len(series["values"]) for series in body["series"]} == {24}
        await client.problem("/v1/history?metric=nonsense", 400, "bad-parameter")
        for minutes in ("0", "61", "x", "1.5"):
            await client.problem(f"/v1/history?minutes={minutes}", 400, "bad-parameter")
