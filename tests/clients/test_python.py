"""`streamflow.client`: what it shows is the table, whatever happens to workers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from streamflow.client import (
    Client,
    ClientError,
    LiveTable,
    OutcomeUnknown,
    Partial,
    Place,
    Row,
    Unreachable,
)
from streamflow.client.blocking import Client as BlockingClient
from streamflow.clock import EPOCH
from streamflow.errors import ConfigurationError
from tests.clients.conftest import BROKER_AWAY, NOT_READY, PUBLISHED, answering
from tests.support.web_fakes import SIZE_MS, Cluster, FakeServed, until


def at(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


def client_of(workers: list[FakeServed], **options: Any) -> Client:
    return Client([worker.url for worker in workers], **options)


def rows_of(table: LiveTable) -> dict[tuple[int, Any, int | None], Any]:
    rows = list(table.rows())
    found = {
        (
            row.partition,
            row.key,
            None if row.window is None else int(row.start.timestamp() * 1_000),
        ): row.value
        for row in rows
    }
    assert len(found) == len(rows) == table.row_count
    return found


async def agrees(table: LiveTable, cluster: Cluster) -> None:
    """Waits until the table is live at the cluster's position; then it is the cluster's table."""
    name = table.table
    await until(lambda: table.state == "live" and table.position == cluster.position(name), 15.0)
    assert rows_of(table) == cluster.table(name)


async def test_a_key_a_list_and_a_key_that_is_not_there(cluster: Cluster) -> None:
    async with cluster.run([0], [1, 2]) as workers, client_of(workers) as client:
        row = await client.get("counts", "k3")
        assert isinstance(row, Row)
        assert (row.key, row.value, row.start) == ("k3", 203, at(2 * SIZE_MS))
        found = await client.get("counts", "k3", at=at(1))
        assert found is not None
        assert found.value == 3
        assert await client.get("counts", "nobody") is None
        keys = [row.key async for row in client.rows("counts", limit=5, prefix="k1")]
        assert keys == ["k1", "k10", "k11"] * 3
        assert [row.value for row in await client.windows("counts", "k4").to_list()] == [4, 104, 204]
        late = await client.rows("counts", start=at(2 * SIZE_MS)).to_dicts()
        assert late[0] == {
            "key": "k0",
            "window_start": at(2 * SIZE_MS),
            "window_end": at(3 * SIZE_MS),
            "window_state": "open",
            "value": 200,
        }
        assert len(late) == 12
        assert [table["name"] for table in await client.tables()] == sorted(cluster.data)
        assert (await client.table("users"))["rows"] == 12
        with pytest.raises(ClientError) as caught:
            await client.rows("counts", state="beauty").to_list()
        assert (caught.value.code, caught.value.status, caught.value.retry) == ("bad-parameter", 400, False)
        assert caught.value.details["parameter"] == "state"
        with pytest.raises(ClientError, match="no-such-table"):
            await client.get("none", "x")


async def test_keys_that_are_hard_to_spell(cluster: Cluster) -> None:
    keys = [".", "..", "a/b", "%2F", "", "ü ?#&", "+"]
    for index, key in enumerate(keys):
        cluster.put("users", key, f"v{index}")
    async with cluster.run([0], [1, 2]) as workers, client_of(workers) as client:
        for index, key in enumerate(keys):
            found = await client.get("users", key)
            assert found is not None
            assert (found.key, found.value) == (key, f"v{index}")


async def test_a_live_table_is_a_mapping_and_follows(cluster: Cluster) -> None:
    async with cluster.run([0], [1, 2]) as workers, client_of(workers) as client:
        async with client.live("counts") as table:
            await agrees(table, cluster)
            assert len(table) == 12
            assert (table["k3"], table.get("nobody"), "k3" in table, "x" in table) == (203, None, True, False)
            assert [row.value for row in table.windows("k3")] == [3, 103, 203]
            first = table.row("k3", at(0))
            assert first is not None
            assert first.value == 3
            assert sorted(table) == sorted({key for _, key, _ in cluster.table("counts")})
            changes = table.changes()
            cluster.put("counts", "k3", 999, start_ms=2 * SIZE_MS)
            cluster.put("counts", "new", 1, start_ms=SIZE_MS)
            cluster.put("counts", "k0", None, start_ms=0, op="expire")
            told = [await anext(changes) for _ in range(3)]
            assert sorted((c.op, c.key, c.value) for c in told) == [
                ("expire", "k0", None),
                ("upsert", "k3", 999),
                ("upsert", "new", 1),
            ]
            await agrees(table, cluster)
            assert table["k3"] == 999
            assert table.age_s is not None
        assert table.state == "closed"
        with pytest.raises(StopAsyncIteration):
            await anext(changes)


async def test_filters_share_one_connection_and_end_alone(cluster: Cluster) -> None:
    async with cluster.run() as workers, client_of(workers) as client:
        some, prefixed = client.live("users", keys=["k1", "k2"]), client.live("users", prefix="k1")
        await some.ready(5)
        await prefixed.ready(5)
        assert sorted(some) == ["k1", "k2"]
        assert sorted(prefixed) == ["k1", "k10", "k11"]
        assert workers[0].metrics.ws_connections.value == 1
        await some.close()
        cluster.put("users", "k1", "after")
        await until(lambda: prefixed["k1"] == "after")
        assert some["k1"] == 1


async def test_its_worker_goes_and_another_takes_over(cluster: Cluster) -> None:
    cluster.settings = replace(cluster.settings, ws_reconnect_ms=50)
    async with (
        cluster.run([0, 1], [2]) as workers,
        client_of(workers) as client,
        client.live("counts") as table,
    ):
        await agrees(table, cluster)
        await cluster.kill(0)
        workers[1].owned |= {0, 1}
        workers[1].generations += 1
        cluster.workers.pop(0)
        cluster.elect()
        for index in range(20):
            cluster.put("counts", f"k{index}", 5_000 + index, start_ms=2 * SIZE_MS)
        await agrees(table, cluster)
        found = await client.get("counts", "k3")
        assert found is not None
        assert found.value == 5_003


async def test_what_is_different_after_a_restart_is_told_in_one_step(cluster: Cluster) -> None:
    cluster.settings = replace(cluster.settings, ws_reconnect_ms=50)
    async with cluster.run() as workers, client_of(workers) as client, client.live("users") as table:
        changes = table.changes()
        await cluster.kill(0)
        await until(lambda: table.state == "stale")
        assert len(table) == 12  # what was shown stays, as stale
        assert table.reason is not None
        cluster.put("users", "k0", None, op="delete")
        cluster.put("users", "k1", "changed")
        port = int(workers[0].url.rpartition(":")[2])
        cluster.workers.clear()
        await cluster.add(range(3), replace(cluster.settings, port=port, port_explicit=True))
        await agrees(table, cluster)
        told = [await anext(changes) for _ in range(2)]
        assert [(c.op, c.key, c.value) for c in told] == [
            ("delete", "k0", None),
            ("upsert", "k1", "changed"),
        ]


async def test_a_connection_that_breaks_is_resumed(cluster: Cluster) -> None:
    async with (
        cluster.run() as workers,
        client_of(workers) as client,
        client.live("users", mode="all") as table,
    ):
        changes = table.changes()
        for count in range(3):
            for session in list(cluster.hubs[0].sessions):
                session.fail(1011, "torn")  # type: ignore[arg-type]
            cluster.put("users", "k1", f"missed {count}")
            assert (await anext(changes)).value == f"missed {count}"
        await agrees(table, cluster)


async def test_partitions_without_an_owner_are_stale_and_named(cluster: Cluster) -> None:
    async with (
        cluster.run([0], [1, 2]) as workers,
        client_of(workers[:1], patience_s=0) as client,
        client.live("users") as table,
    ):
        await cluster.kill(1)
        await until(lambda: table.state == "stale" and table.missing == (1, 2))
        assert table.reason is not None
        assert table.reason.code == "rebalancing"
        assert rows_of(table) == cluster.table("users")
        with pytest.raises(Partial) as caught:
            await client.rows("users").to_list()
        assert caught.value.details["missing_partitions"] == [1, 2]
        some = await client.rows("users", partial=True).to_list()
        assert {row.partition for row in some} == {0}
        workers[0].owned |= {1, 2}
        workers[0].generations += 1
        cluster.put("users", "k3", "here")
        await agrees(table, cluster)


async def test_a_worker_that_does_not_know_its_tables_yet_is_asked_again(cluster: Cluster) -> None:
    async with cluster.run() as workers, client_of(workers) as client:
        workers[0].forget_tables()
        table = client.live("users")
        await until(lambda: table.reason is not None and table.reason.code == "not-ready")
        asked = asyncio.create_task(client.get("users", "k1"))
        workers[0].know_tables()
        await agrees(table, cluster)
        found = await asked
        assert found is not None
        assert found.value == 1


async def test_what_can_not_be_had_raises_its_code(cluster: Cluster) -> None:
    cluster.settings = replace(cluster.settings, ws_snapshot_rows_max=5)
    async with cluster.run() as workers, client_of(workers) as client:
        for table, code in (("none", "no-such-table"), ("users", "snapshot-too-large")):
            with pytest.raises(ClientError) as caught:
                async with client.live(table):
                    pass
            assert caught.value.code == code
        assert client.state == "live"
        if "topics" not in client.features:
            with pytest.raises(ClientError, match="not-supported"):
                await client.topic("events").ready()
        if "publish" not in client.features:
            with pytest.raises(ClientError, match="not-supported"):
                await client.publish("events", {"a": 1})


async def test_a_token_is_fetched_each_time(cluster: Cluster) -> None:
    cluster.settings = replace(cluster.settings, tokens=("secret",))
    tokens = ["wrong"]

    async def token() -> str:
        return tokens[-1]

    async with cluster.run() as workers:
        async with client_of(workers, token=token) as client:
            with pytest.raises(ClientError) as caught:
                await client.tables()
            assert (caught.value.code, caught.value.status) == ("unauthorized", 401)
            with pytest.raises(ClientError, match="unauthorized"):
                await client.live("users").ready(5)
        tokens.append("secret")
        async with client_of(workers, token=token) as client, client.live("users") as table:
            assert len(await client.tables()) == 4
            await agrees(table, cluster)


async def test_nobody_answers(cluster: Cluster) -> None:
    async with cluster.run() as workers:
        url = workers[0].url
    async with Client([url, url], patience_s=0.3) as client:
        with pytest.raises(Unreachable):
            await client.tables()
        with pytest.raises(Unreachable):
            await client.send("events", {"a": 1})
        with pytest.raises(TimeoutError):
            await client.live("users").ready(0.3)
    for wrong in ([], "localhost:6066", ["ftp://x"]):
        with pytest.raises(ConfigurationError):
            Client(wrong)


async def test_what_may_have_been_written_is_not_sent_again() -> None:
    answers = (NOT_READY, PUBLISHED, BROKER_AWAY, PUBLISHED)
    async with answering(*answers) as (url, keys), Client(url) as client:
        assert await client.send("events", {"a": 1}, key="ann") == Place(2, "7")
        assert keys[0] == keys[1]
        with pytest.raises(OutcomeUnknown) as caught:
            await client.send_many("events", [{"key": "ann", "value": 1}], idempotency_key="mine")
        assert (caught.value.code, caught.value.retry, len(keys)) == ("broker-unavailable", True, 3)
        places = await client.send_many("events", [{"value": 1}], idempotency_key="mine")
        assert (places, keys[2:]) == ([Place(2, "7")], ["mine", "mine"])


async def test_keys_of_any_kind(cluster: Cluster) -> None:
    keys: list[Any] = [2**60 + 1, 2**60 + 2, ["a", 1], {"b": 1, "a": 2}, None, True]
    for index, key in enumerate(keys):
        cluster.put("users", key if not isinstance(key, list | dict) else json.dumps(key), index)
    async with cluster.run() as workers, client_of(workers) as client, client.live("users") as table:
        assert (table[2**60 + 1], table[2**60 + 2], table[None], table[True]) == (0, 1, 4, 5)
        with pytest.raises(KeyError):
            table[object()]


async def test_a_slow_reader_gets_the_newest_of_each_row(cluster: Cluster) -> None:
    async with cluster.run() as workers, client_of(workers) as client, client.live("users") as table:
        changes = table.changes()
        for count in range(500):
            cluster.put("users", f"k{count % 3}", count)
        await agrees(table, cluster)
        told = [await anext(changes) for _ in range(3)]
        assert sorted((c.key, c.value) for c in told) == [("k0", 498), ("k1", 499), ("k2", 497)]


def in_thread(function: Callable[[], Any]) -> Awaitable[Any]:
    return asyncio.to_thread(function)


async def test_the_blocking_twin(cluster: Cluster) -> None:
    async with cluster.run([0], [1, 2]) as workers:
        urls = [worker.url for worker in workers]
        with await in_thread(lambda: BlockingClient(urls)) as client:

            def asks() -> None:
                found = client.get("counts", "k3")
                assert found is not None
                assert found.value == 203
                assert [row.key for row in client.rows("users", limit=5)] == sorted(
                    f"k{n}" for n in range(12)
                )
                assert len(client.windows("counts", "k1").to_dicts()) == 3
                assert len(client.tables()) == 4
                assert client.json("/readyz") == {"status": "ready"}
                with pytest.raises(ClientError, match="no-such-table"):
                    client.get("none", "x")

            await in_thread(asks)
            table = await in_thread(lambda: client.live("users").ready(5))
            changes = table.changes(timeout_s=0.5)
            cluster.put("users", "k1", "told")
            told = await in_thread(lambda: list(changes))
            assert [(c.key, c.value) for c in told] == [("k1", "told")]

            def looks() -> None:
                assert (table["k1"], len(table), "k2" in table, table.state) == ("told", 12, True, "live")
                assert dict(table) == {row.key: row.value for row in table.rows()}
                table.close()
                assert table.state == "closed"

            await in_thread(looks)
            await in_thread(client.close)
            with pytest.raises(Exception, match="closed"):
                await in_thread(client.tables)


def test_rows_become_frames_and_what_is_missing_is_named() -> None:
    program = """
import sys
sys.modules["polars"] = None
from streamflow.client import Row
from streamflow.client.frames import to_polars
"""
    done = subprocess.run(
        [sys.executable, "-c", program + "to_polars([])"], capture_output=True, text=True, check=False
    )
    assert "ImportError: to_polars() needs polars, which is not installed: pip install polars" in done.stderr


@pytest.mark.parametrize("name", ["pandas", "polars", "pyarrow"])
def test_frames(name: str) -> None:
    pytest.importorskip(name)
    from streamflow.client import frames

    rows = [Row("ann", 1, None, 0), Row("bob", {"n": 2, "by": {"x": 1}}, None, 0), Row(None, None, None, 1)]
    assert frames.to_dicts(rows)[1] == {"key": "bob", "value": None, "n": 2, "by": {"x": 1}}
    frame = {"pandas": frames.to_pandas, "polars": frames.to_polars, "pyarrow": frames.to_arrow}[name](rows)
    columns = frame.column_names if name == "pyarrow" else list(frame.columns)
    assert columns == ["key", "value", "n", "by"]
    assert len(frame) == 3


def test_the_client_imports_light() -> None:
    program = """
import sys
import streamflow.client, streamflow.client.blocking
heavy = {"faust", "mode", "numpy", "aiokafka", "redis", "orjson", "rich", "click", "datasketches"}
assert not heavy & {name.partition(".")[0] for name in sys.modules}, heavy & set(sys.modules)
ours = {name for name in sys.modules if name.startswith("streamflow.")}
rest = {name for name in ours if name.split(".")[1] != "client"}
assert rest <= {"streamflow.errors", "streamflow.clock"}, rest
import streamflow
assert streamflow.client.Client is __import__("streamflow.client").client.Client
assert "faust" not in sys.modules
from streamflow import App
import faust
assert issubclass(App, faust.App)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "first",
    [
        "streamflow.app",
        "streamflow.types",
        "streamflow.web",
        "streamflow.tables.table",
        "streamflow.partitioner",
    ],
)
def test_whichever_module_is_imported_first_is_the_same(first: str) -> None:
    program = f"""
import importlib, sys
module = importlib.import_module({first!r})
import streamflow
assert module is sys.modules[{first!r}]
at = streamflow
for name in {first!r}.split(".")[1:]:
    at = getattr(at, name)
assert at is module, (at, module)
from streamflow.app import App
from streamflow import *
assert App is streamflow.App is streamflow.app.App and streamflow.__version__
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_hands_out_all_its_names() -> None:
    import streamflow
    from streamflow.app import names

    assert streamflow.__all__ == names.__all__
    assert all(getattr(streamflow, name) is getattr(names, name) for name in streamflow.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = streamflow.nothing  # type: ignore[attr-defined]
