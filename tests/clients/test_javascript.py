"""streamflow-client.js in Node and in Chromium: what it shows is the table, whatever happens to workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from streamflow.clock import rfc3339
from tests.browser.chrome import Chromium
from tests.clients import DOCS
from tests.clients.conftest import BROKER_AWAY, NOT_READY, PUBLISHED, answering, site
from tests.clients.node import Script, find_node, node
from tests.support.documents import blocks_of
from tests.support.server import free_ports
from tests.support.web_fakes import SIZE_MS, Cluster, FakeServed


async def load(script: Script, workers: Sequence[FakeServed], options: str = "{}") -> None:
    """Makes ``client``."""
    urls = json.dumps([worker.url for worker in workers])
    await script.ask(f"(globalThis.client = new lib.Client({urls}, {options}), 0)")


async def live(script: Script, table: str, options: str = "{}", name: str = "table") -> None:
    """A live table, whose ``changes`` and ``states`` are written down."""
    await script.ask(
        f"((table) => {{ globalThis.{name} = table; table.seen = []; table.states = [];"
        "table.addEventListener('change', ({ detail }) => table.seen.push(detail));"
        "table.addEventListener('state', ({ detail }) => table.states.push(detail.state));"
        f"}})(client.live('{table}', {options}))"
    )


async def rows(script: Script, name: str = "table") -> dict[tuple[int, Any, str | None], Any]:
    listed = await script.ask(f"[...{name}.rows()]")
    found = {(r["partition"], r["key"], r["window"] and r["window"]["start"]): r["value"] for r in listed}
    assert len(found) == len(listed) == await script.ask(f"{name}.rowCount")
    return found


def truth(cluster: Cluster, table: str) -> dict[tuple[int, Any, str | None], Any]:
    return {
        (partition, key, None if start is None else rfc3339(start)): value
        for (partition, key, start), value in cluster.table(table).items()
    }


async def agrees(script: Script, cluster: Cluster, table: str, name: str = "table") -> None:
    """Waits until the table is live at the cluster's position; then it is the cluster's table."""
    position = json.dumps(cluster.position(table))
    await script.until(
        f"{name}.state === 'live' && JSON.stringify({name}.position) === JSON.stringify({position})"
    )
    assert await rows(script, name) == truth(cluster, table)


async def test_a_key_a_list_and_a_key_that_is_not_there(script: Script, cluster: Cluster) -> None:
    async with cluster.run([0], [1, 2]) as workers:
        await load(script, workers)
        row = await script.ask("client.get('counts', 'k3')")
        assert (row["value"], row["window"]["start"]) == (203, rfc3339(2 * SIZE_MS))
        assert (await script.ask("client.get('counts', 'k3', {at: new Date(1)})"))["value"] == 3
        assert await script.ask("client.get('counts', 'nobody')") is None
        listed = await script.ask("client.rows('counts', {limit: 5, prefix: 'k1'}).toArray()")
        assert [row["key"] for row in listed] == ["k1", "k10", "k11"] * 3
        values = "for await (const row of client.windows('counts', 'k4')) found.push(row.value)"
        assert await script.ask(f"(async (found) => {{ {values}; return found; }})([])") == [4, 104, 204]
        assert [t["name"] for t in await script.ask("client.tables()")] == sorted(cluster.data)
        refused = "client.rows('counts', {state: 'beauty'}).toArray()"
        facts = ".catch((e) => [e.code, e.status, e.retry, e.details.parameter])"
        assert await script.ask(refused + facts) == ["bad-parameter", 400, False, "state"]
        assert await script.ask("client.get('none', 'x').catch((e) => e.code)") == "no-such-table"


async def test_keys_that_no_path_can_hold(script: Script, cluster: Cluster) -> None:
    keys = [".", "..", "a/b", "%2F", "", "ü ?#&", "+"]
    for index, key in enumerate(keys):
        cluster.put("users", key, f"v{index}")
    async with cluster.run() as workers:
        await load(script, workers)
        for index, key in enumerate(keys):
            found = await script.ask(f"client.get('users', {json.dumps(key)})")
            assert (found["key"], found["value"]) == (key, f"v{index}")


async def test_a_live_table_is_a_map_and_follows(script: Script, cluster: Cluster) -> None:
    async with cluster.run([0], [1, 2]) as workers:
        await load(script, workers)
        await live(script, "counts")
        await agrees(script, cluster, "counts")
        assert await script.ask("table.size") == 12
        assert await script.ask("table.get('k3')") == 203
        assert await script.ask(f"table.get('k3', '{rfc3339(0)}')") == 3
        assert await script.ask("table.windows('k3').map((row) => row.value)") == [3, 103, 203]
        assert await script.ask("[...table].every(([key, value]) => table.has(key) && value >= 200)")
        assert await script.ask("[table.has('nobody'), table.get('nobody') === undefined]") == [False, True]
        assert await script.ask("table.seen.length === 1 && table.seen[0].isSnapshot")
        cluster.put("counts", "k3", 999, start_ms=2 * SIZE_MS)
        cluster.put("counts", "new", 1, start_ms=SIZE_MS)
        cluster.put("counts", "k0", None, start_ms=0, op="expire")
        await agrees(script, cluster, "counts")
        assert await script.ask("table.get('k3')") == 999
        told = await script.ask(
            "table.seen.slice(1).flatMap((e) => e.changes).map((c) => [c.op, c.key, c.value])"
        )
        assert sorted(told) == [["expire", "k0", None], ["upsert", "k3", 999], ["upsert", "new", 1]]
        assert await script.ask("table.states") == ["live"]
        assert await script.ask("table.ageMs") < 10_000


async def test_filters_and_several_tables_share_one_connection(script: Script, cluster: Cluster) -> None:
    async with cluster.run() as workers:
        await load(script, workers)
        await live(script, "users", "{keys: ['k1', 'k2']}", "some")
        await live(script, "users", "{prefix: 'k1'}", "prefixed")
        await live(script, "counts", name="counts")
        for name in ("some", "prefixed", "counts"):
            await script.until(f"{name}.state === 'live'")
        assert await script.ask("[...some.keys()].sort()") == ["k1", "k2"]
        assert await script.ask("[...prefixed.keys()].sort()") == ["k1", "k10", "k11"]
        assert workers[0].metrics.ws_connections.value == 1
        await script.ask("some.close()")
        cluster.put("users", "k1", "after")
        await script.until("prefixed.get('k1') === 'after'")
        assert await script.ask("[some.state, some.reason.code, some.get('k1')]") == ["closed", "closed", 1]


async def test_its_worker_goes_and_another_takes_over(script: Script, cluster: Cluster) -> None:
    cluster.settings = replace(cluster.settings, ws_reconnect_ms=50)
    async with cluster.run([0, 1], [2]) as workers:
        await load(script, workers)
        await live(script, "counts")
        await agrees(script, cluster, "counts")
        await cluster.kill(0)
        workers[1].owned |= {0, 1}
        workers[1].generations += 1
        cluster.workers.pop(0)
        cluster.elect()
        for index in range(20):
            cluster.put("counts", f"k{index}", 5_000 + index, start_ms=2 * SIZE_MS)
        await agrees(script, cluster, "counts")
        states = await script.ask("table.states")
        assert states[0] == states[-1] == "live"
        assert "stale" in states
        assert (await script.ask("client.get('counts', 'k3')"))["value"] == 5_003


async def test_a_row_that_went_while_nobody_listened_is_gone(script: Script, cluster: Cluster) -> None:
    cluster.settings = replace(cluster.settings, ws_reconnect_ms=50)
    async with cluster.run() as workers:
        await load(script, workers)
        await live(script, "users")
        await agrees(script, cluster, "users")
        await cluster.kill(0)
        await script.until("table.state === 'stale'")
        assert await script.ask("table.size") == 12  # what was shown stays, as stale
        cluster.put("users", "k0", None, op="delete")
        cluster.put("users", "k1", "changed")
        port = int(workers[0].url.rpartition(":")[2])
        cluster.workers.clear()
        await cluster.add(range(3), replace(cluster.settings, port=port, port_explicit=True))
        await agrees(script, cluster, "users")
        # One step, of what is different only.
        last = await script.ask("table.seen.at(-1)")
        assert last["isSnapshot"]
        assert sorted((c["op"], c["key"]) for c in last["changes"]) == [("delete", "k0"), ("upsert", "k1")]


async def test_a_connection_that_breaks_is_resumed_without_a_snapshot(
    script: Script, cluster: Cluster
) -> None:
    async with cluster.run() as workers:
        await load(script, workers)
        await live(script, "users")
        await agrees(script, cluster, "users")
        for count in range(3):
            for session in list(cluster.hubs[0].sessions):
                session.fail(1011, "torn")  # type: ignore[arg-type]
            cluster.put("users", "k1", f"missed {count}")
            await agrees(script, cluster, "users")
        assert await script.ask("table.seen.filter((e) => e.isSnapshot).length") == 1


async def test_partitions_without_an_owner_are_stale_and_named(script: Script, cluster: Cluster) -> None:
    async with cluster.run([0], [1, 2]) as workers:
        await load(script, workers[:1])
        await live(script, "users")
        await agrees(script, cluster, "users")
        await cluster.kill(1)
        await script.until("table.state === 'stale' && table.missing.join() === '1,2'")
        assert await script.ask("table.reason.code") == "rebalancing"
        assert await rows(script) == truth(cluster, "users")
        refused = "client.rows('users', {patienceMs: 0}).toArray()"
        facts = ".catch((e) => [e.code, e.retry, e.details.missing_partitions])"
        assert await script.ask(refused + facts) == ["partial", True, [1, 2]]
        some = await script.ask("client.rows('users', {partial: true}).toArray()")
        assert {row["partition"] for row in some} == {0}
        workers[0].owned |= {1, 2}
        workers[0].generations += 1
        cluster.put("users", "k3", "here")
        await agrees(script, cluster, "users")


async def test_a_worker_that_does_not_know_its_tables_yet_is_asked_again(
    script: Script, cluster: Cluster
) -> None:
    async with cluster.run() as workers:
        workers[0].forget_tables()
        await load(script, workers)
        await live(script, "users")
        await script.until("table.reason?.code === 'not-ready'")
        assert await script.ask("table.state") == "connecting"
        asked = asyncio.create_task(script.ask("client.get('users', 'k1')"))
        workers[0].know_tables()
        await agrees(script, cluster, "users")
        assert (await asked)["value"] == 1


async def test_what_can_not_be_had_is_closed_with_its_reason(script: Script, cluster: Cluster) -> None:
    cluster.settings = replace(cluster.settings, ws_snapshot_rows_max=5)
    async with cluster.run() as workers:
        await load(script, workers)
        for table, options, code in (
            ("none", "{}", "no-such-table"),
            ("users", "{}", "snapshot-too-large"),
            ("users", "{key: 'a', prefix: 'b'}", "bad-subscription"),
        ):
            await live(script, table, options)
            assert await script.ask("table.ready().catch((e) => e.code)") == code
            assert await script.ask("[table.state, table.reason.code]") == ["closed", code]
        assert await script.ask("client.state") == "live"
        topic = "client.topic('events').ready().catch((e) => e.code)"
        assert await script.ask("client.features.has('topics')") or await script.ask(topic) == "not-supported"


async def test_a_token_is_fetched_for_each_connection(script: Script, cluster: Cluster) -> None:
    cluster.settings = replace(cluster.settings, tokens=("secret",))
    async with cluster.run() as workers:
        await script.ask("(globalThis.token = 'wrong', 0)")
        await load(script, workers, "{token: async () => token}")
        await script.ask(
            "(globalThis.told = 0, client.addEventListener('unauthorized', () => { told += 1; }), 0)"
        )
        await live(script, "users")
        await script.until("table.state === 'closed'")
        assert await script.ask("[table.reason.code, client.state, told]") == ["unauthorized", "closed", 1]
        assert await script.ask("client.tables().catch((e) => [e.code, e.status])") == ["unauthorized", 401]
        await script.ask("(globalThis.token = 'secret', client.connect(), 0)")
        await agrees(script, cluster, "users")
        assert len(await script.ask("client.tables()")) == 4


async def test_whole_numbers_of_any_size_stay_whole(script: Script, cluster: Cluster) -> None:
    keys = [1_152_921_504_606_846_976 + n for n in range(4)]  # as floats they are all the same
    for key in keys:
        cluster.put("users", key, {"n": key, "s": str(key), "f": 0.1234567890123456789})
    async with cluster.run() as workers:
        await load(script, workers)
        await live(script, "users")
        await script.until("table.state === 'live'")
        assert await script.ask("table.size") == 12 + 4
        for key in keys:
            found = await script.ask(
                f"[table.get({key}n).n === {key}n, table.get({key}n).s, typeof table.get({key}n).f]"
            )
            assert found == [True, str(key), "number"]
        await live(script, "users", f"{{key: {keys[2]}n}}", "one")
        await script.until("one.state === 'live'")
        assert await script.ask("[one.size, String([...one.keys()][0])]") == [1, str(keys[2])]


async def test_changes_alone_without_rows(script: Script, cluster: Cluster) -> None:
    async with cluster.run() as workers:
        await load(script, workers)
        await live(script, "users", "{snapshot: false}")
        await script.until("table.state === 'live'")
        cluster.put("users", "k1", "told")
        await script.until("table.seen.length === 1")
        assert await script.ask("[table.size, table.seen[0].changes[0].value]") == [0, "told"]


async def test_what_may_have_been_written_is_not_sent_again() -> None:
    command = find_node()
    if command is None:
        pytest.skip("no node of version 20 or newer on this machine")
    async with answering(NOT_READY, PUBLISHED, BROKER_AWAY) as (url, keys), node(command) as script:
        await script.ask(f"(globalThis.client = new lib.Client('{url}'), 0)")
        place = {"partition": 2, "offset": "7"}
        assert await script.ask("client.send('events', {key: 'ann', value: {a: 1}})") == [place]
        assert keys[0] == keys[1]
        failed = "client.send('events', [{value: 1}]).catch((e) => [e.code, e.isUnknown])"
        assert await script.ask(failed) == ["broker-unavailable", True]
        assert len(keys) == 3


async def test_the_page_of_the_documents_shows_live_rows(chromium: Chromium) -> None:
    document = (DOCS / "how-to" / "connect-a-browser.md").read_text(encoding="utf-8")
    [block] = [block.text for block in blocks_of(document) if block.language == "html"]
    cluster = Cluster()
    port = free_ports(1)[0]
    settings = replace(cluster.settings, port=port, port_explicit=True)
    text = block.replace("127.0.0.1:6066", f"127.0.0.1:{port}").replace("events_by_type", "counts")
    async with site(text) as origin, chromium.page() as page:
        cluster.settings = replace(settings, allowed_origins=(origin,))
        async with cluster.run():
            await page.open(origin)
            await page.until("document.getElementById('state').textContent === 'live'")
            cluster.put("counts", "click", 7, start_ms=SIZE_MS)
            await page.until("document.getElementById('rows').textContent === 'click: 7'")
            await cluster.kill(0)
            await page.until("document.getElementById('state').textContent.startsWith('stale as of')")
            assert await page.ask("document.getElementById('rows').textContent") == "click: 7"
