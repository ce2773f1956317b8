"""The WebSocket on one worker: messages, snapshots, changes, resuming, slow clients, close codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from streamflow.query.rows import Row, RowChange
from streamflow.web.messages import SUBPROTOCOL
from tests.support.told import as_declared
from tests.support.web_fakes import SETTINGS, SIZE_MS, Cluster, FakeServed, partition_of, until


class Live:
    """A client that folds what it is told, as a browser would."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.rows: dict[str, dict[tuple[int, Any, str | None], Any]] = {}  # subscription -> row -> value
        self.last: dict[str, dict[str, Any]] = {}  # subscription -> newest message with a cursor
        self.said: list[dict[str, Any]] = []

    async def say(self, kind: str, **members: Any) -> None:
        await self.socket.send_str(json.dumps({"t": kind, **members}))

    async def hear(self) -> dict[str, Any]:
        received = await self.socket.receive(timeout=5)
        assert received.type is aiohttp.WSMsgType.TEXT, (received, self.socket.close_code)
        said: dict[str, Any] = as_declared(json.loads(received.data))
        self.said.append(said)
        self._fold(said)
        return said

    def _fold(self, said: dict[str, Any]) -> None:
        sub_id = said.get("id", "")
        rows = self.rows.setdefault(sub_id, {})
        if "cursor" in said:
            self.last[sub_id] = said
        if said["t"] == "reset":
            rows.clear()
        elif said["t"] in ("snapshot", "changes"):
            for row in said["rows"]:
                place = (row["partition"], row["key"], (row["window"] or {}).get("start"))
                if row.get("op", "upsert") == "upsert":
                    rows[place] = row["value"]
                else:
                    rows.pop(place, None)

    async def hear_until(self, kind: str, sub_id: str | None = None) -> dict[str, Any]:
        while True:
            said = await self.hear()
            if said["t"] == kind and sub_id in (None, said.get("id")):
                return said

    async def hear_until_that(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(8):
            while not condition():
                await self.hear()

    async def subscribe(self, sub_id: str, table: str, **members: Any) -> dict[str, Any]:
        await self.say("subscribe", id=sub_id, table=table, **members)
        return await self.hear_until("synced", sub_id)

    async def closed(self) -> int:
        """The close code; whatever is said before is heard."""
        async with asyncio.timeout(8):
            while True:
                received = await self.socket.receive()
                if received.type is aiohttp.WSMsgType.TEXT:
                    self.said.append(as_declared(json.loads(received.data)))
                    self._fold(self.said[-1])
                else:
                    assert self.socket.close_code is not None
                    return self.socket.close_code


@asynccontextmanager
async def connect(served: FakeServed, *, init: bool = True, **options: Any) -> AsyncIterator[Live]:
    options.setdefault("protocols", (SUBPROTOCOL,))
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(served.url + "/v1/ws", **options) as socket,
    ):
        live = Live(socket)
        if init:
            await live.say("init")
            assert (await live.hear())["t"] == "ack"
        yield live


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    for index in range(12):
        cluster.put("counts", f"k{index}", index, start_ms=SIZE_MS)
        cluster.put("users", f"k{index}", index)
    return cluster


@pytest.fixture
async def served(cluster: Cluster) -> AsyncIterator[FakeServed]:
    async with cluster.run() as (worker,):
        yield worker


def truth(cluster: Cluster, table: str) -> dict[tuple[int, Any, str | None], Any]:
    from streamflow.clock import rfc3339

    return {
        (partition, key, None if start is None else rfc3339(start)): value
        for (partition, key, start), value in cluster.table(table).items()
    }


async def test_a_snapshot_folded_with_changes_is_the_table_at_its_position(
    cluster: Cluster, served: FakeServed
) -> None:
    async with connect(served) as live:
        await live.say("subscribe", id="s", table="counts")
        first = await live.hear()
        assert first["t"] == "subscribed"
        assert first["recovered"] is False
        assert first["position"] == cluster.position("counts")
        assert (await live.hear())["t"] == "snapshot"
        synced = await live.hear()
        assert (synced["t"], synced["position"]) == ("synced", cluster.position("counts"))
        assert live.rows["s"] == truth(cluster, "counts")
        for index in range(20):
            cluster.put("counts", f"k{index}", 100 + index, start_ms=2 * SIZE_MS)
        cluster.put("counts", "k3", None, start_ms=SIZE_MS, op="delete")
        cluster.put("counts", "k4", None, start_ms=SIZE_MS, op="expire")
        await live.hear_until_that(lambda: live.last["s"]["position"] == cluster.position("counts"))
        assert live.rows["s"] == truth(cluster, "counts")
        change = live.said[-1]["rows"][-1]
        assert change["op"] == "expire"
        assert change["value"] is None


async def test_a_table_without_windows_is_live_too(cluster: Cluster, served: FakeServed) -> None:
    async with connect(served) as live:
        await live.subscribe("u", "users")
        cluster.put("users", "new", {"n": 1})
        said = await live.hear_until("changes")
        assert said["rows"] == [
            {
                "op": "upsert",
                "key": "new",
                "window": None,
                "value": {"n": 1},
                "partition": partition_of("new"),
            }
        ]
        assert said["skipped"] == 0
        assert live.rows["u"] == truth(cluster, "users")


async def test_a_large_snapshot_comes_in_chunks(cluster: Cluster) -> None:
    async with cluster.with_settings(ws_snapshot_chunk_rows=5).run() as (served,), connect(served) as live:
        await live.subscribe("s", "counts")
        chunks = [said for said in live.said if said["t"] == "snapshot"]
        assert [len(chunk["rows"]) for chunk in chunks] == [5, 5, 2]
        assert [chunk["more"] for chunk in chunks] == [True, True, False]


async def test_without_a_snapshot_only_changes_come(cluster: Cluster, served: FakeServed) -> None:
    async with connect(served) as live:
        await live.subscribe("s", "users", snapshot=False)
        assert not [said for said in live.said if said["t"] == "snapshot"]
        cluster.put("users", "k1", 5)
        assert len((await live.hear_until("changes"))["rows"]) == 1


async def test_filters_pick_keys_and_prefixes(cluster: Cluster, served: FakeServed) -> None:
    async with connect(served) as live:
        await live.subscribe("one", "users", key="k1")
        await live.subscribe("two", "users", keys=["k1", "k2", "nobody"])
        await live.subscribe("pre", "users", prefix="k1")
        assert {key for _, key, _ in live.rows["one"]} == {"k1"}
        assert {key for _, key, _ in live.rows["two"]} == {"k1", "k2"}
        assert {key for _, key, _ in live.rows["pre"]} == {"k1", "k10", "k11"}
        cluster.put("users", "k2", 22)
        cluster.put("users", "k1", 11)
        await live.hear_until_that(
            lambda: all(11 in live.rows[view].values() for view in ("one", "two", "pre"))
        )
        assert sorted(live.rows["two"].values()) == [11, 22]
        assert not [
            s
            for s in live.said
            if s.get("id") == "one" and s["t"] == "changes" and s["rows"][0]["key"] == "k2"
        ]


async def test_a_view_of_current_windows_loses_those_that_close(cluster: Cluster, served: FakeServed) -> None:
    async with connect(served) as live:
        await live.subscribe("now", "counts", window="current")
        await live.subscribe("done", "counts", window="closed")
        assert len(live.rows["now"]) == 12
        assert live.rows["done"] == {}
        cluster.put("counts", "k5", 50, start_ms=SIZE_MS, state="closed")
        await live.hear_until_that(lambda: len(live.rows["now"]) == 11 and len(live.rows["done"]) == 1)
        cluster.put("counts", "k5", 51, start_ms=SIZE_MS, state="revised")
        await live.hear_until_that(lambda: 51 in live.rows["done"].values())
        assert len(live.rows["now"]) == 11


async def test_a_client_resumes_where_it_was(cluster: Cluster, served: FakeServed) -> None:
    async with connect(served) as live:
        await live.subscribe("s", "counts")
        cursor = live.last["s"]["cursor"]
        rows = live.rows["s"]
    for index in range(30):
        cluster.put("counts", f"k{index % 7}", 1_000 + index, start_ms=SIZE_MS)
    async with connect(served) as live:
        live.rows["s"] = rows
        await live.subscribe("s", "counts", since=cursor)
        assert [said["recovered"] for said in live.said if said["t"] == "subscribed"] == [True]
        assert not [said for said in live.said if said["t"] in ("snapshot", "reset")]
        assert live.rows["s"] == truth(cluster, "counts")
        cluster.put("counts", "k1", 7, start_ms=SIZE_MS)
        await live.hear_until("changes")
        assert live.rows["s"] == truth(cluster, "counts")


@pytest.mark.parametrize("case", ["too-old", "foreign", "other-filter", "nonsense", "future"])
async def test_a_cursor_that_is_not_known_means_reset_and_snapshot(cluster: Cluster, case: str) -> None:
    async with cluster.with_settings(ws_history_changes_max=10).run() as (served,):
        async with connect(served) as live:
            await live.subscribe("s", "counts")
            cursor: str = live.last["s"]["cursor"]
        if case == "too-old":
            for index in range(11):
                cluster.put("counts", "k1", index, start_ms=SIZE_MS)
        feed, seq, view = cursor.split(".")
        since = {
            "foreign": f"00000000.{seq}.{view}",
            "nonsense": "what?",
            "future": f"{feed}.{int(seq) + 1}.{view}",
        }.get(case, cursor)
        async with connect(served) as live:
            prefix = {"prefix": "k"} if case == "other-filter" else {}
            await live.subscribe("s", "counts", since=since, **prefix)
            assert [said["t"] for said in live.said[1:]] == ["subscribed", "reset", "snapshot", "synced"]
            assert live.said[1]["recovered"] is False
            assert live.said[2]["reason"] == "cursor-expired"
            assert live.rows["s"] == truth(cluster, "counts")


async def test_progress_tells_positions_that_move_without_changes(
    cluster: Cluster, served: FakeServed
) -> None:
    async with connect(served) as live:
        await live.subscribe("s", "users", key="nobody")
        cluster.put("users", "k1", 5)
        said = await live.hear_until("progress")
        while said["position"] != cluster.position("users"):
            said = await live.hear_until("progress")
        cluster.data["users"].positions[2] += 7
        cluster.data["users"].watermark_ms = 12_345
        while (
            said["position"] != cluster.position("users") or said["watermark"] != "1970-01-01T00:00:12.345Z"
        ):
            said = await live.hear_until("progress")


async def test_ping_unsubscribe_and_errors_of_one_subscription(cluster: Cluster, served: FakeServed) -> None:
    async with connect(served) as live:
        await live.say("ping")
        assert (await live.hear())["t"] == "pong"
        await live.say("subscribe", id="x", table="nothing")
        said = await live.hear()
        assert (said["t"], said["id"], said["code"], said["retry"]) == ("error", "x", "no-such-table", False)
        await live.say("subscribe", id="x", table="users", key="a", prefix="b")
        assert (await live.hear())["code"] == "bad-subscription"
        await live.subscribe("x", "users")
        await live.say("unsubscribe", id="x")
        await live.say("unsubscribe", id="never")
        await live.say("ping")
        await live.hear_until("pong")
        cluster.put("users", "k1", 6)
        await live.subscribe("x", "users")  # the id is free again
        assert live.rows["x"] == truth(cluster, "users")


async def test_a_worker_that_does_not_know_its_tables_yet_says_retry(served: FakeServed) -> None:
    served.forget_tables()
    async with connect(served) as live:
        await live.say("subscribe", id="x", table="users")
        said = await live.hear()
        assert (said["t"], said["id"], said["code"], said["retry"]) == ("error", "x", "not-ready", True)
        served.know_tables()
        await live.subscribe("x", "users")


async def test_a_snapshot_beyond_the_limit_is_refused(cluster: Cluster) -> None:
    async with cluster.with_settings(ws_snapshot_rows_max=5).run() as (served,), connect(served) as live:
        await live.say("subscribe", id="s", table="users")
        said = await live.hear_until("error")
        assert said["code"] == "snapshot-too-large"
        await live.subscribe("s", "users", key="k1")


async def test_subscriptions_are_limited(cluster: Cluster) -> None:
    async with cluster.with_settings(ws_subscriptions_max=2).run() as (served,), connect(served) as live:
        await live.subscribe("a", "users")
        await live.subscribe("b", "users")
        await live.say("subscribe", id="c", table="users")
        assert (await live.hear_until("error"))["code"] == "too-many-subscriptions"


@pytest.mark.parametrize(
    "frame, code",
    [
        ('{"t":"ping"}', 4400),
        ('{"t":"subscribe","id":"a","table":"users"}', 4400),
        ("not json", 4400),
        ("[]", 4400),
        ('{"t":"nothing"}', 4400),
        ('{"id":"a"}', 4400),
        (b"bytes", 4400),
    ],
)
async def test_a_bad_first_message_ends_the_connection(
    served: FakeServed, frame: str | bytes, code: int
) -> None:
    async with connect(served, init=False) as live:
        await (live.socket.send_str(frame) if isinstance(frame, str) else live.socket.send_bytes(frame))
        assert await live.closed() == code


@pytest.mark.parametrize(
    "message",
    [
        {"t": "init"},
        {"t": "subscribe", "id": "a"},
        {"t": "subscribe", "id": 1, "table": "users"},
        {"t": "subscribe", "id": "", "table": "users"},
        {"t": "subscribe", "id": "a", "table": "users", "mode": "some"},
        {"t": "subscribe", "id": "a", "table": "users", "window": "old"},
        {"t": "subscribe", "id": "a", "table": "users", "max_hz": 0},
        {"t": "subscribe", "id": "a", "table": "users", "keys": []},
        {"t": "what"},
    ],
)
async def test_a_bad_message_ends_the_connection(served: FakeServed, message: dict[str, Any]) -> None:
    async with connect(served) as live:
        await live.socket.send_str(json.dumps(message))
        assert await live.closed() == 4400


async def test_an_id_in_use_ends_the_connection(served: FakeServed) -> None:
    async with connect(served) as live:
        await live.subscribe("a", "users")
        await live.say("subscribe", id="a", table="users")
        assert await live.closed() == 4409


async def test_a_silent_client_is_let_go(cluster: Cluster) -> None:
    impatient = cluster.with_settings(ws_init_timeout_s=0.05)
    async with impatient.run() as (served,), connect(served, init=False) as live:
        assert await live.closed() == 4408


async def test_the_subprotocol_must_be_ours(served: FakeServed) -> None:
    for protocols in ((), ("graphql-ws",)):
        async with connect(served, init=False, protocols=protocols) as live:
            assert await live.closed() == 4406


async def test_pages_of_other_origins_are_refused(cluster: Cluster) -> None:
    settings = replace(SETTINGS, allowed_origins=("https://ok.example.org",))
    cluster.settings = settings
    async with cluster.run() as (served,):
        for origin in ("https://evil.example.org", "null", "http://127.0.0.1:1"):
            async with connect(served, init=False, origin=origin) as live:
                assert await live.closed() == 4403
        for origin in (served.url, "https://ok.example.org"):
            async with connect(served, origin=origin):
                pass


async def test_tokens_come_with_init_or_in_the_header(cluster: Cluster) -> None:
    async with cluster.with_settings(tokens=("right",)).run() as (served,):
        for token in ({}, {"token": "wrong"}, {"token": None}):
            async with connect(served, init=False) as live:
                await live.say("init", **token)
                assert await live.closed() == 4401
        async with connect(served, init=False) as live:
            await live.say("init", token="right")
            assert (await live.hear())["t"] == "ack"
        async with connect(served, headers={"Authorization": "Bearer right"}):
            pass


async def test_connections_messages_and_sizes_are_limited(cluster: Cluster) -> None:
    settings = {"ws_connections_max": 1, "ws_messages_per_s_max": 5.0, "ws_message_bytes_max": 1_000}
    async with cluster.with_settings(**settings).run() as (served,):
        async with connect(served) as live:
            async with connect(served, init=False) as second:
                assert await second.closed() == 4429
            with_retries = asyncio.create_task(live.closed())
            for _ in range(30):
                await live.say("ping")
            assert await with_retries == 4429
        await until(lambda: served.metrics.ws_connections.value == 0)
        async with connect(served) as live:
            await live.say("subscribe", id="a", table="x" * 2_000)
            assert await live.closed() == 1009


async def test_a_request_that_is_no_websocket_is_a_problem(served: FakeServed) -> None:
    async with aiohttp.ClientSession() as session, session.get(served.url + "/v1/ws") as response:
        assert response.status == 426
        assert response.content_type == "application/problem+json"


async def test_a_worker_that_stops_asks_its_clients_to_come_back(cluster: Cluster) -> None:
    async with cluster.run() as (served,), connect(served) as live:
        await live.subscribe("s", "users")
        stopping = asyncio.create_task(cluster.servers[0].stop())
        said = await live.hear_until("draining")
        assert said["reconnect_in_ms"] > 0
        assert await live.closed() == 1012
        await stopping


async def test_max_hz_bounds_the_messages_and_keeps_the_latest(cluster: Cluster, served: FakeServed) -> None:
    async with connect(served) as live:
        await live.subscribe("s", "users", max_hz=10)
        await live.subscribe("every", "users", max_hz=10, mode="all")
        for index in range(50):
            cluster.put("users", "k1", index)
            await asyncio.sleep(0.004)
        await live.hear_until_that(lambda: live.rows["s"] == live.rows["every"] == truth(cluster, "users"))
        messages = [said for said in live.said if said["t"] == "changes" and said["id"] == "s"]
        assert 2 <= len(messages) <= 6
        assert sum(len(said["rows"]) for said in messages) == len(messages)
        assert sum(said["skipped"] for said in messages) == 50 - len(messages)
        every = [
            row
            for said in live.said
            if said["t"] == "changes" and said["id"] == "every"
            for row in said["rows"]
        ]
        assert [row["value"] for row in every] == list(range(50))


def big_changes(cluster: Cluster, count: int) -> list[RowChange]:
    row = Row("k1", None, None, None, "x" * 10_000, partition_of("k1"))
    return [RowChange("upsert", replace(row, value=f"{index} {row.value}")) for index in range(count)]


async def test_a_slow_client_gets_the_latest_and_is_told_what_was_skipped(
    cluster: Cluster, served: FakeServed
) -> None:
    async with connect(served) as live:
        await live.subscribe("s", "users", mode="latest")
        for change in big_changes(cluster, 2_000):  # 20 MB, without reading any of it
            cluster.checkpoint("users", change.row.partition, [change])
            await asyncio.sleep(0)
        await live.hear_until_that(lambda: live.rows["s"] == truth(cluster, "users"))
        messages = [said for said in live.said if said["t"] == "changes"]
        assert len(messages) < 2_000
        assert (
            sum(said["skipped"] for said in messages) + sum(len(said["rows"]) for said in messages) == 2_000
        )
        assert live.last["s"]["position"] == cluster.position("users")
        assert served.metrics.ws_skipped_changes_total.value > 0


async def test_a_slow_client_that_wants_all_is_closed(cluster: Cluster) -> None:
    async with cluster.with_settings(ws_queue_frames_max=100).run() as (served,), connect(served) as live:
        await live.subscribe("s", "users", mode="all")
        for change in big_changes(cluster, 3_000):
            cluster.checkpoint("users", change.row.partition, [change])
            await asyncio.sleep(0)
        assert await live.closed() in (4508, 1006)
        assert served.metrics.ws_slow_disconnects_total.value == 1
        await until(lambda: served.metrics.ws_connections.value == 0)


async def test_a_client_too_far_behind_starts_again(cluster: Cluster) -> None:
    async with cluster.with_settings(ws_pending_rows_max=50).run() as (served,), connect(served) as live:
        await live.subscribe("s", "users", mode="latest")
        for index in range(1_500):
            cluster.put("users", f"n{index}", "x" * 10_000)
            if index % 10 == 0:
                await asyncio.sleep(0)
        await live.hear_until_that(lambda: live.rows["s"] == truth(cluster, "users"))
        assert "too-far-behind" in [said.get("reason") for said in live.said]


async def test_rows_restored_behind_the_hubs_back_mean_reset_and_snapshot(
    cluster: Cluster, served: FakeServed
) -> None:
    async with connect(served) as live:
        await live.subscribe("s", "users")
        cluster.data["users"].rows[partition_of("k1")].clear()
        cluster.data["users"].positions[0] += 100
        served.generations += 1
        said = await live.hear_until("reset")
        assert said["reason"] == "rebalanced"
        await live.hear_until("synced")
        assert live.rows["s"] == truth(cluster, "users")
        assert live.last["s"]["position"] == cluster.position("users")


async def test_a_rebalance_in_steps_is_one_reset(cluster: Cluster, served: FakeServed) -> None:
    async with connect(served) as live:
        await live.subscribe("s", "users")
        for partition in (0, 1, 2):
            served.owned.discard(partition)
            served.generations += 1
        cluster.elect()
        await live.hear_until("rebalancing")
        for partition in (0, 1, 2):  # each comes back by itself
            cluster.data["users"].positions[partition] += 1
            served.owned.add(partition)
            served.generations += 1
            cluster.elect()
            await asyncio.sleep(0.06)
        for _ in range(3):  # and some rows only come to be whole
            served.generations += 1
            await asyncio.sleep(0.12)
        await live.hear_until("synced")
        await asyncio.sleep(0.4)
        await live.say("ping")
        await live.hear_until("pong")
        assert [said["t"] for said in live.said].count("reset") == 1
        assert live.rows["s"] == truth(cluster, "users")


async def test_partitions_without_owner_are_told_and_the_rest_is_shown_anew_when_they_are_back(
    cluster: Cluster, served: FakeServed
) -> None:
    async with connect(served) as live:
        await live.subscribe("s", "users")
        served.owned.discard(1)
        cluster.elect()
        assert (await live.hear_until("rebalancing"))["partitions"] == [1]
        cluster.put("users", "k5", "elsewhere", partition=1)
        cluster.put("users", "k1", "here", partition=0)
        served.owned.add(1)
        cluster.elect()
        await live.hear_until("reset")
        await live.hear_until("synced")
        assert live.rows["s"] == truth(cluster, "users")


async def test_frames_of_equal_subscriptions_are_encoded_once(
    cluster: Cluster, served: FakeServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamflow.web import encoding

    calls = 0
    real = encoding.row_object

    def counting(row: Row) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        return real(row)

    async with connect(served) as one, connect(served) as two, connect(served) as three:
        await one.subscribe("s", "users")
        await two.subscribe("s", "users")
        await three.subscribe("other", "users", prefix="k")
        monkeypatch.setattr(encoding, "row_object", counting)
        cluster.put("users", "k1", "new")
        for live in (one, two, three):
            await live.hear_until("changes")
    assert calls == 1


async def test_a_history_without_watchers_is_dropped_after_a_while(cluster: Cluster) -> None:
    async with cluster.with_settings(ws_linger_s=0.2).run() as (served,):
        async with connect(served) as live:
            await live.subscribe("s", "users")
            cursor = live.last["s"]["cursor"]
        await asyncio.sleep(0.5)
        async with connect(served) as live:
            await live.subscribe("s", "users", since=cursor)
            assert "reset" in [said["t"] for said in live.said]


async def test_a_large_checkpoint_is_split_and_its_position_comes_with_its_last_message(
    cluster: Cluster, served: FakeServed
) -> None:
    async with connect(served) as live, connect(served) as other:
        await live.subscribe("s", "users", mode="all")
        before = live.last["s"]["position"]
        cursor = live.last["s"]["cursor"]
        rows = [Row(f"n{index}", None, None, None, "x" * 1_000, 0) for index in range(1_000)]
        cluster.checkpoint("users", 0, [RowChange("upsert", row) for row in rows])
        messages = [await live.hear_until("changes") for _ in range(4)]
        while messages[-1].get("more"):
            messages.append(await live.hear_until("changes"))
        assert len(messages) >= 4
        assert all((said["position"], said["cursor"]) == (before, cursor) for said in messages[:-1])
        assert messages[-1]["position"] == cluster.position("users")
        assert live.rows["s"] == truth(cluster, "users")
        other.rows["s"] = {}
        await other.subscribe("s", "users", since=messages[0]["cursor"])
        assert len(other.rows["s"]) == 1_000


async def test_a_subscription_takes_the_right_to_read_all_that_it_wants() -> None:
    cluster = Cluster(replace(SETTINGS, rights=("* read:table:users:ann",)))
    cluster.put("users", "ann", 1)
    cluster.put("users", "bob", 1)
    async with cluster.run() as (served,), connect(served) as live:
        refused: list[dict[str, Any]] = [
            {"table": "counts"},
            {"table": "never_was"},
            {"table": "users", "key": "bob"},
            {"table": "users", "keys": ["ann", "bob"]},
        ]
        for number, wanted in enumerate(refused):
            await live.say("subscribe", id=str(number), **wanted)
            said = await live.hear_until("error")
            assert (said["id"], said["code"], said["retry"]) == (str(number), "forbidden", False)
        await live.say("subscribe", id="mine", table="users", key="ann")
        assert [row["key"] for row in (await live.hear_until("snapshot"))["rows"]] == ["ann"]
