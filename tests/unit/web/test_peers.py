"""Several workers: any of them answers for any key, says what is missing, and asks nobody twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from streamflow.transports.base import Member
from streamflow.web.security import PEER_HEADER
from tests.support.web_fakes import SETTINGS, SIZE_MS, Cluster, partition_of
from tests.unit.web.http.test_api import NAMES, Client
from tests.unit.web.live.test_hub import connect

HOMES = {partition: next(n for n in NAMES if partition_of(n) == partition) for partition in range(3)}


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    for index, name in enumerate(NAMES):
        for window in range(2):
            cluster.put("counts", name, index, start_ms=window * SIZE_MS)
            cluster.put("by_type", name, index, start_ms=window * SIZE_MS)
        cluster.put("users", name, index)
    return cluster


@pytest.fixture
async def clients(cluster: Cluster) -> AsyncIterator[list[Client]]:
    async with cluster.run([0], [1], [2]) as workers, aiohttp.ClientSession() as session:
        yield [Client(session, worker) for worker in workers]


async def test_any_worker_answers_for_any_key(clients: list[Client]) -> None:
    for client in clients:
        for index, name in enumerate(NAMES):
            for table in ("users", "counts", "by_type"):
                body = await client.ok(f"/v1/tables/{table}/keys/{name}")
                assert (body["key"], body["value"]) == (name, index)
                assert body["partition"] == partition_of(name)
                assert body["partial"] is False
                assert body["position"]
            windows = (await client.ok(f"/v1/tables/counts/keys/{name}/windows"))["rows"]
            assert len(windows) == 2
        await client.problem("/v1/tables/users/keys/nobody", 404, "no-such-key")


@pytest.mark.parametrize("spelling, key", [("a%2Fb%25%20%E2%82%AC", "a/b% €"), ("%2525", "%25")])
async def test_a_peer_reads_the_same_key(
    cluster: Cluster, clients: list[Client], spelling: str, key: str
) -> None:
    cluster.put("users", key, 1)
    for client in clients:
        assert (await client.ok(f"/v1/tables/users/keys/{spelling}"))["key"] == key
        assert (await client.ok("/v1/tables/users/keys/?key_b64=YW5u"))["key"] == "ann"


async def test_lists_merge_all_owners_in_pages(clients: list[Client]) -> None:
    for client in clients:
        for sort in ("window", "-window"):
            seen: list[tuple[str, str]] = []
            cursor = ""
            for _ in range(20):
                body = await client.ok(f"/v1/tables/counts/rows?limit=3&sort={sort}{cursor}")
                assert body["partial"] is False
                assert body["missing_partitions"] == []
                assert set(body["position"]) == {"0", "1", "2"}
                seen += [(row["window"]["start"], row["key"]) for row in body["rows"]]
                if body["next"] is None:
                    break
                cursor = f"&cursor={body['next']}"
            assert len(seen) == len(set(seen)) == 14
            assert seen == sorted(seen, reverse=sort.startswith("-"))


async def test_a_list_goes_on_where_all_that_is_left_lies_on_one_peer(
    cluster: Cluster, clients: list[Client]
) -> None:
    for index in range(10):
        cluster.put("users", f"x{index}", index, partition=2)
    for client in clients:
        for limit in (1, 3, 5, 10):
            keys: list[str] = []
            cursor = ""
            while True:
                body = await client.ok(f"/v1/tables/users/rows?prefix=x&limit={limit}{cursor}")
                keys += [row["key"] for row in body["rows"]]
                if body["next"] is None:
                    break
                cursor = f"&cursor={body['next']}"
            assert keys == [f"x{index}" for index in range(10)]


async def test_a_cursor_of_one_worker_goes_on_at_another(clients: list[Client]) -> None:
    first = await clients[0].ok("/v1/tables/users/rows?limit=3")
    second = await clients[1].ok(f"/v1/tables/users/rows?limit=10&cursor={first['next']}")
    assert [row["key"] for row in first["rows"] + second["rows"]] == NAMES


async def test_ndjson_merges_all_owners(clients: list[Client]) -> None:
    for path, count in (("/v1/tables/counts/rows?sort=-window", 14), ("/v1/tables/users/rows?sort=key", 7)):
        status, raw, response = await clients[1].get(path, Accept="application/x-ndjson")
        assert status == 200
        rows = [json.loads(line) for line in raw.splitlines()]
        assert len(rows) == count
        assert json.loads(response.headers["Streamflow-Completeness"])["missing_partitions"] == []
        order = [((row["window"] or {}).get("start", ""), row["key"]) for row in rows]
        assert order == sorted(order, reverse="-window" in path)


async def test_min_position_is_waited_for_at_the_owner(cluster: Cluster, clients: list[Client]) -> None:
    partition = partition_of("ann")
    reached = cluster.data["users"].positions[partition]
    asker = clients[(partition + 1) % 3]
    assert await asker.ok(f"/v1/tables/users/keys/ann?min_position={partition}:{reached}")
    path = f"/v1/tables/users/rows?min_position={partition}:{reached + 1}"
    await asker.problem(path, 503, "position-not-reached")


async def test_a_list_without_an_owner_is_partial_and_its_keys_are_unavailable(
    cluster: Cluster, clients: list[Client]
) -> None:
    await cluster.kill(2)
    body = await clients[0].ok("/v1/tables/users/rows")
    assert body["partial"] is True
    assert body["missing_partitions"] == [2]
    assert {row["partition"] for row in body["rows"]} == {0, 1}
    problem = await clients[0].problem(f"/v1/tables/users/keys/{HOMES[2]}", 503, "owner-unavailable")
    assert problem["missing_partitions"] == [2]
    _, _, response = await clients[0].get(f"/v1/tables/users/keys/{HOMES[2]}")
    assert response.headers["Retry-After"] == "1"
    # A key of another owner is answered, but nobody can vouch that none of its rows lie with the lost one.
    body = await clients[0].ok(f"/v1/tables/users/keys/{HOMES[1]}")
    assert (body["partial"], body["missing_partitions"]) == (True, [2])
    # A declared table has no scattered rows.
    assert (await clients[0].ok(f"/v1/tables/by_type/keys/{HOMES[1]}"))["partial"] is False
    assert (await clients[0].ok("/v1/tables"))["partial"] is True
    _, raw, response = await clients[0].get("/v1/tables/users/rows", Accept="application/x-ndjson")
    assert json.loads(response.headers["Streamflow-Completeness"])["missing_partitions"] == [2]
    assert raw


async def test_partitions_that_move_are_unavailable_not_absent(
    cluster: Cluster, clients: list[Client]
) -> None:
    cluster.workers[1].owned.clear()  # revoked; the group's view is the old one still
    for client in clients:
        await client.problem(f"/v1/tables/users/keys/{HOMES[1]}", 503, "owner-unavailable")
        assert (await client.ok("/v1/tables/users/rows"))["missing_partitions"] == [1]
    cluster.elect()  # nobody has it
    for client in clients:
        await client.problem(f"/v1/tables/users/keys/{HOMES[1]}", 503, "owner-unavailable")


async def test_a_peer_answers_from_its_own_rows_and_asks_nobody(
    cluster: Cluster, clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = {PEER_HEADER: "http://somebody"}
    await clients[0].problem(f"/v1/tables/users/keys/{HOMES[1]}", 503, "owner-unavailable", **mark)
    body = await clients[0].ok("/v1/tables/users/rows", **mark)
    assert body["missing_partitions"] == [1, 2]
    assert {row["partition"] for row in body["rows"]} == {0}
    assert (await clients[0].ok("/v1/tables/users", **mark))["missing_partitions"] == [1, 2]
    assert len((await clients[0].ok("/v1/status", **mark))["workers"]) == 1


async def test_two_workers_that_take_each_other_for_the_owner_do_not_loop(
    cluster: Cluster, clients: list[Client]
) -> None:
    for worker in cluster.workers:
        worker.owned.clear()
    await clients[0].problem(f"/v1/tables/users/keys/{HOMES[1]}", 503, "owner-unavailable")


async def test_scattered_rows_on_another_worker_are_found(cluster: Cluster, clients: list[Client]) -> None:
    name = HOMES[0]
    cluster.put("users", name, 99, partition=1)
    for client in clients:
        body = await client.problem(f"/v1/tables/users/keys/{name}", 409, "scattered-key")
        assert body["partitions"] == [0, 1]
        await client.problem(f"/v1/tables/users/keys/{name}/windows", 409, "scattered-key")


async def test_location_names_partition_and_owner(cluster: Cluster, clients: list[Client]) -> None:
    body = await clients[0].ok(f"/v1/tables/users/keys/{HOMES[2]}/location")
    assert body == {
        "key": HOMES[2],
        "partition": 2,
        "owner": cluster.workers[2].url,
        "scattered": [],
    }


async def test_tables_and_workers_are_summed_up_over_all(cluster: Cluster, clients: list[Client]) -> None:
    body = await clients[2].ok("/v1/tables/counts")
    assert body["rows"] == 14
    assert body["counters"] == {"late": 3}
    assert set(body["position"]) == {"0", "1", "2"}
    status = await clients[2].ok("/v1/status")
    assert [worker["url"] for worker in status["workers"]] == sorted(w.url for w in cluster.workers)
    assert sorted(p for worker in status["workers"] for p in worker["partitions"]["events"]) == [0, 1, 2]
    assert status["partial"] is False
    await cluster.kill(0)
    clients[1].served.clock.epoch_ms += 10_000
    body = await clients[1].ok("/v1/status")
    dead = [worker for worker in body["workers"] if not worker["reachable"]]
    assert [worker["partitions"] for worker in dead] == [{"events": [0]}]


class Strange:
    """A member that is no streamflow worker: says what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.answer: Any = lambda: web.json_response({})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        response: web.StreamResponse = self.answer()
        return response


@pytest.fixture
async def strange(cluster: Cluster) -> AsyncIterator[Strange]:
    stranger = Strange()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", stranger.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with cluster.run([0, 1]):
        cluster.members.append(Member("strange", url, frozenset({("events", 2)})))
        yield stranger
    await runner.cleanup()


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.json_response({"rows": 1}),
        lambda: web.json_response([]),
        lambda: web.json_response(None),
        lambda: web.json_response(
            {"rows": [{"key": 1}], "position": {}, "lag": {}, "missing_partitions": []}
        ),
        lambda: web.Response(text="<html>"),
        lambda: web.Response(status=500),
        lambda: web.HTTPFound("http://127.0.0.1:1/"),
        lambda: web.Response(status=401),
    ],
)
async def test_a_peer_that_answers_nonsense_counts_as_away(
    cluster: Cluster, strange: Strange, answer: Any
) -> None:
    strange.answer = answer
    async with aiohttp.ClientSession() as session:
        client = Client(session, cluster.workers[0])
        assert (await client.ok("/v1/tables/users/rows"))["missing_partitions"] == [2]
        assert (await client.ok("/v1/tables/users"))["missing_partitions"] == [2]
        status, raw, _ = await client.get("/v1/tables/users/rows", Accept="application/x-ndjson")
        assert status == 200
        assert b'"partition":2' not in raw
        assert (await client.ok("/v1/status"))["workers"]


async def test_callers_headers_never_reach_a_peer(cluster: Cluster, strange: Strange) -> None:
    async with aiohttp.ClientSession() as session:
        client = Client(session, cluster.workers[0])
        secret = {"Authorization": "Bearer callers", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4"}
        await client.get("/v1/tables/users/rows", **secret)
    assert strange.asked
    for request in strange.asked:
        assert not {"Authorization", "Cookie", "X-Forwarded-For"} & set(request.headers)
        assert request.headers[PEER_HEADER] == cluster.workers[0].url


async def test_a_worker_shows_its_peers_that_it_is_one() -> None:
    from dataclasses import replace

    cluster = Cluster(replace(SETTINGS, tokens=("shared", "old")))
    for name in NAMES:
        cluster.put("users", name, 1)
    async with cluster.run([0], [1, 2]) as workers, aiohttp.ClientSession() as session:
        client = Client(session, workers[0])
        body = await client.ok("/v1/tables/users/rows", Authorization="Bearer old")
        assert (body["partial"], len(body["rows"])) == (False, len(NAMES))
        await client.problem("/v1/tables/users/rows", 401, "unauthorized")


async def test_an_answer_cut_off_by_a_lost_peer_does_not_pass_as_whole(
    cluster: Cluster, strange: Strange
) -> None:
    def cut_off() -> web.StreamResponse:
        done = {"position": {}, "lag": {}, "missing_partitions": [], "partial": False}
        row = {"key": "zoe", "window": None, "value": 1, "partition": 2}
        body = json.dumps(row) + "\n" + json.dumps(row)[:20]
        return web.Response(text=body, headers={"Streamflow-Completeness": json.dumps(done)})

    strange.answer = cut_off
    async with aiohttp.ClientSession() as session:
        client = Client(session, cluster.workers[0])
        with pytest.raises(aiohttp.ClientError):
            await client.get("/v1/tables/users/rows", Accept="application/x-ndjson")


async def test_an_owner_that_does_not_know_its_tables_yet_never_makes_a_key_missing(
    cluster: Cluster, clients: list[Client]
) -> None:
    home = partition_of("ann")
    cluster.workers[home].forget_tables()
    asker = clients[(home + 1) % 3]
    for tail in ("", "/windows"):
        problem = await asker.problem(f"/v1/tables/counts/keys/ann{tail}", 503, "owner-unavailable")
        assert problem["retry"] is True
    assert (await asker.ok("/v1/tables/counts"))["missing_partitions"] == [home]
    assert (await asker.ok("/v1/tables/counts/rows"))["missing_partitions"] == [home]
    cluster.workers[home].know_tables()
    assert (await asker.ok("/v1/tables/counts/keys/ann"))["key"] == "ann"


async def test_a_404_of_a_peer_is_read_by_its_code(cluster: Cluster, clients: list[Client]) -> None:
    """An owner of another version of the app, which has no such table, says nothing about the key."""
    home = partition_of("ann")
    cluster.workers[home].tables.pop("users")
    await clients[(home + 1) % 3].problem("/v1/tables/users/keys/ann", 503, "owner-unavailable")


async def test_a_worker_of_another_app_at_the_address_of_a_peer_is_not_believed(
    cluster: Cluster, clients: list[Client]
) -> None:
    """The peer died, and another app with a table of the same name has its port now."""
    home = partition_of("ann")
    await cluster.kill(home)
    stranger = Cluster()
    stranger.put("users", "ann", "not ours")
    port = int(cluster.workers[home].url.rpartition(":")[2])
    settings = replace(SETTINGS, port=port, port_explicit=True)
    async with stranger.run([]):
        other = await stranger.add(range(3), settings, app_id="another")
        asker = clients[(home + 1) % 3]
        await asker.problem("/v1/tables/users/keys/ann", 503, "owner-unavailable")
        assert (await asker.ok("/v1/tables/users/rows"))["missing_partitions"] == [home]
        assert (await asker.ok("/v1/tables/users"))["missing_partitions"] == [home]
        status = await asker.ok("/v1/status")
        assert [w["reachable"] for w in status["workers"] if w["url"] == other.url] == [False]


async def test_a_token_and_the_peer_header_do_not_make_a_worker() -> None:
    cluster = Cluster(replace(SETTINGS, tokens=("right",)))
    for name in NAMES:
        cluster.put("users", name, 1)
    async with cluster.run([0], [1, 2]) as workers, aiohttp.ClientSession() as session:
        client = Client(session, workers[0])
        mark = {PEER_HEADER: workers[1].url, "Authorization": "Bearer right"}
        body = await client.ok("/v1/tables/users/rows", **mark)
        assert (body["partial"], len(body["rows"])) == (False, len(NAMES))


async def test_a_peer_answers_with_what_the_caller_may_read() -> None:
    """Also where it would let anybody else in, and where the URL asks for more."""
    mine = {name for name in NAMES if name < "c"}
    rights = ("* read:table:users:a*", "* read:table:users:b*", "* read:table:counts")
    cluster = Cluster(replace(SETTINGS, tokens=("right",), rights=rights))
    for name in NAMES:
        cluster.put("users", name, 1)
    async with cluster.run([0], [1], [2]) as workers, aiohttp.ClientSession() as session:
        for worker in workers:
            client, token = Client(session, worker), {"Authorization": "Bearer right"}
            seen: set[str] = set()
            tail = "?limit=1"
            while tail:
                body = await client.ok(f"/v1/tables/users/rows{tail}", **token)
                assert not body["partial"]
                seen |= {row["key"] for row in body["rows"]}
                tail = f"?limit=1&cursor={body['next']}" if body["next"] else ""
            assert seen == mine
            lines = await client.ok("/v1/tables/users/rows", **token, Accept="application/x-ndjson")
            assert lines.count(b'"key"') == len(mine)
            for name in NAMES:
                status, _, _ = await client.get(f"/v1/tables/users/keys/{name}", **token)
                assert status == (200 if name in mine else 403)
            table = await client.ok("/v1/tables/users", **token)
            assert (table["rows"], table["partial"], table["missing_partitions"]) == (None, False, [])
            assert (await client.ok("/v1/tables/counts", **token))["rows"] == 0
            async with connect(worker, headers=token) as live:
                await live.subscribe("all", "users")
                assert {key for _, key, _ in live.rows["all"]} == mine
                cluster.put("users", "gus", 2)
                cluster.put("users", "ann", 2)
                await live.hear_until_that(lambda: 2 in live.rows["all"].values())
                assert {key for _, key, _ in live.rows["all"]} == mine
