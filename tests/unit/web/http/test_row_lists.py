"""What lists can be asked for: keys, tests, sorts by value, fields, counts, formats. One worker and two."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import cramjam
import pyarrow
import pytest

from tests.support.web_fakes import SIZE_MS, Cluster, FakeServed, partition_of

USERS: dict[str, Any] = {
    f"u{n:02}": {"total": (n * 7) % 30, "type": "ab"[n % 2], "data": {"n": n}} for n in range(30)
}
ROWS = "/v1/tables/users/rows"


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    for name, value in USERS.items():
        cluster.put("users", name, value)
        for window in range(3):
            state: Any = "open" if window == 2 else "closed"
            cluster.put("counts", name, int(name[1:]) + window, start_ms=window * SIZE_MS, state=state)
    return cluster


@pytest.fixture(params=["one worker", "two workers"])
async def worker(cluster: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[FakeServed]:
    owned = [{0, 1, 2}] if request.param == "one worker" else [{0}, {1, 2}]
    async with cluster.run(*owned) as workers:
        yield workers[0]


async def get(served: FakeServed, path: str, **headers: str) -> tuple[int, Any, bytes]:
    from yarl import URL

    async with aiohttp.ClientSession(auto_decompress=False) as http:
        url = URL(served.url + path, encoded=True)
        async with http.get(url, headers={"Accept-Encoding": "identity", **headers}) as answer:
            return answer.status, answer.headers, await answer.read()


async def ok(served: FakeServed, path: str) -> Any:
    status, _, raw = await get(served, path)
    assert status == 200, raw
    return json.loads(raw)


async def keys(served: FakeServed, tail: str) -> list[str]:
    return [row["key"] for row in (await ok(served, f"{ROWS}?sort=key&{tail}"))["rows"]]


async def test_keys_are_picked_one_by_one_and_between_two(worker: FakeServed) -> None:
    assert await keys(worker, "keys=u03&keys=u17&keys=nobody") == ["u03", "u17"]
    assert await keys(worker, "key_from=u05&key_to=u08") == ["u05", "u06", "u07"]
    assert await keys(worker, "within=prefix:u0&within=key:u11&key_from=u08") == ["u08", "u09", "u11"]


async def test_values_are_tested_as_aggregates_test_events(worker: FakeServed) -> None:
    wanted = sorted(k for k, v in USERS.items() if v["total"] >= 25 and v["type"] == "a")
    tests = "&".join(f"where={quote(test)}" for test in ("total >= 25", "type == 'a'"))
    assert await keys(worker, tests) == wanted
    assert await keys(worker, f"where={quote('value.data.n in [3, 4]')}") == ["u03", "u04"]


async def test_rows_are_sorted_by_a_value_page_by_page(worker: FakeServed) -> None:
    for sort in ("total", "-total", "data.n", "-value.data.n"):
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            tail = f"&cursor={cursor}" if cursor else ""
            page = await ok(worker, f"{ROWS}?sort={sort}&limit=7{tail}")
            assert page["pinned"]
            found += [row["key"] for row in page["rows"]]
            cursor = page["next"]
        by = (lambda v: v["total"]) if "total" in sort else (lambda v: v["data"]["n"])
        order = sorted(USERS, key=lambda name: (by(USERS[name]), name), reverse=sort.startswith("-"))
        assert found == order


async def test_what_has_no_such_value_comes_last_whichever_way(cluster: Cluster, worker: FakeServed) -> None:
    cluster.put("users", "none", {"other": 1})
    for sort in ("total", "-total"):
        assert (await ok(worker, f"{ROWS}?sort={sort}"))["rows"][-1]["key"] == "none"


async def test_fields_are_chosen_of_values(worker: FakeServed) -> None:
    body = await ok(worker, f"{ROWS}?keys=u05&fields=total,data.n,nothing")
    assert body["rows"][0]["value"] == {"total": 5, "data.n": 5}
    body = await ok(worker, "/v1/tables/users/keys/u05?fields=type")
    assert body["value"] == {"type": "b"}


async def test_a_count_is_a_number_of_all_owners(worker: FakeServed) -> None:
    body = await ok(worker, f"{ROWS}?count=only")
    assert (body["count"], body["partial"], "rows" in body) == (30, False, False)
    assert (await ok(worker, f"{ROWS}?count=only&where=total%20%3C%203"))["count"] == 3
    assert (await ok(worker, "/v1/tables/counts/rows?count=only&state=open&key_from=u10"))["count"] == 20
    assert (await ok(worker, "/v1/tables/counts/keys/u05/windows?count=only"))["count"] == 3


async def test_at_picks_the_windows_that_hold_a_time(worker: FakeServed) -> None:
    body = await ok(worker, f"/v1/tables/counts/rows?at={SIZE_MS + 5}&keys=u05&keys=u06")
    assert [(row["key"], row["value"]) for row in body["rows"]] == [("u05", 6), ("u06", 7)]
    body = await ok(worker, f"/v1/tables/counts/keys/u05/windows?at={SIZE_MS}")
    assert [row["value"] for row in body["rows"]] == [6]


async def test_windows_of_a_key_are_filtered_and_sorted_by_value(worker: FakeServed) -> None:
    path = "/v1/tables/counts/keys/u05/windows?sort=-value&limit=2"
    page = await ok(worker, path)
    assert [row["value"] for row in page["rows"]] == [7, 6]
    rest = await ok(worker, f"{path}&cursor={page['next']}")
    assert [row["value"] for row in rest["rows"]] == [5]
    page = await ok(worker, "/v1/tables/counts/keys/u05/windows?where=value%20!=%206")
    assert [row["value"] for row in page["rows"]] == [5, 7]


@pytest.mark.parametrize(
    "tail, parameter",
    [
        ("key_from=!x", "key_from"), ("keys=!x", "keys"), ("within=u0", "within"), ("count=yes", "count"),
        ("where=a%20b", "where"), ("where=total%20>", "where"), ("where=a%0Ab", "where"), ("where=", "where"),
        ("where=" + "x" * 600, "where"), ("fields=", "fields"), ("fields=a..b", "fields"), ("sort=-", "sort"),
        ("sort=--key", "sort"), ("stale=yes", "stale"), ("at=5", "at"), ("count=only&limit=5", "limit"),
        ("count=only&sort=key", "sort"), ("where=total%20in%203", "where"),
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_named_with_what_is_allowed(
    worker: FakeServed, tail: str, parameter: str
) -> None:
    status, _, raw = await get(worker, f"{ROWS}?{tail}")
    body = json.loads(raw)
    assert (status, body["code"], body["parameter"]) == (400, "bad-parameter", parameter), body


async def test_a_name_that_is_not_declared_is_told_with_those_that_are(
    worker: FakeServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.web_fakes.FakeReader.value_names", ("total", "type"))
    for tail in ("sort=totl", "where=totl%20>%201", "fields=totl"):
        status, _, raw = await get(worker, f"{ROWS}?{tail}")
        assert status == 400
        assert "total, type" in json.loads(raw)["detail"]
    assert (await get(worker, f"{ROWS}?sort=value"))[0] == 400


@pytest.mark.parametrize("value", [[1, "x", ""], [3, 5, ""], [True, 1, ""], ["a"], {}, [3, None, ""], 7])
async def test_a_cursor_of_a_value_that_no_list_gave_is_refused(worker: FakeServed, value: Any) -> None:
    import base64

    page = await ok(worker, f"{ROWS}?sort=total&limit=1")
    parts = json.loads(base64.urlsafe_b64decode(page["next"] + "=="))
    parts[6] = value
    cursor = base64.urlsafe_b64encode(json.dumps(parts).encode()).rstrip(b"=").decode()
    status, _, raw = await get(worker, f"{ROWS}?sort=total&limit=1&cursor={cursor}")
    assert (status, json.loads(raw)["code"]) == (400, "bad-cursor")


async def test_a_page_that_shows_a_later_table_than_the_one_before_says_so(
    cluster: Cluster, worker: FakeServed
) -> None:
    page = await ok(worker, f"{ROWS}?sort=key&limit=5")
    again = f"{ROWS}?sort=key&limit=5&cursor={page['next']}"
    assert (await ok(worker, again))["pinned"]
    cluster.put("users", "u99", {"total": 1})
    later = await ok(worker, again)
    assert not later["pinned"]
    after = await ok(worker, f"{ROWS}?sort=key&limit=5&cursor={later['next']}")
    assert not after["pinned"]  # it stays so


# -- formats ---------------------------------------------------------------------------------------


async def test_csv_has_a_column_for_each_member(worker: FakeServed) -> None:
    status, headers, raw = await get(worker, f"{ROWS}?sort=key", Accept="text/csv")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/csv")
    lines = list(csv.DictReader(io.StringIO(raw.decode())))
    assert len(lines) == 30
    assert lines[5] == {
        "key": "u05", "partition": str(partition_of("u05")), "total": "5", "type": "b", "data": '{"n":5}',
        "rest": "",
    }  # fmt: skip
    _, _, raw = await get(worker, "/v1/tables/counts/keys/u05/windows", Accept="text/csv")
    lines = list(csv.DictReader(io.StringIO(raw.decode())))
    assert [line["value"] for line in lines] == ["5", "6", "7"]
    assert lines[2]["window_start"] == "1970-01-01T00:00:20Z"
    assert lines[2]["window_state"] == "open"


async def test_arrow_has_typed_columns(cluster: Cluster, worker: FakeServed) -> None:
    accept = "application/vnd.apache.arrow.stream"
    status, headers, raw = await get(worker, f"{ROWS}?sort=key&fields=total,data.n,type", Accept=accept)
    assert (status, headers["Content-Type"]) == (200, accept)
    table = pyarrow.ipc.open_stream(raw).read_all()
    assert {field.name: str(field.type) for field in table.schema} == {
        "key": "string", "partition": "int32", "total": "int64", "data.n": "int64", "type": "string",
        "rest": "string",
    }  # fmt: skip
    assert table.column("total").to_pylist() == [value["total"] for value in USERS.values()]
    _, _, raw = await get(worker, "/v1/tables/counts/rows?limit=4", Accept=accept)
    table = pyarrow.ipc.open_stream(raw).read_all()
    assert (table.num_rows, str(table.schema.field("window_start").type)) == (4, "timestamp[ms, tz=UTC]")
    assert table.column_names[-1] == "value"  # all of a page fits: it has no rest


async def test_what_does_not_fit_its_column_is_not_lost(
    cluster: Cluster, worker: FakeServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamflow.web.http.formats.Tabular.first_rows", 30)
    monkeypatch.setattr("streamflow.web.http.row_streams.CHUNK_ROWS", 30)
    cluster.put("users", "v1", {"total": 1.5, "new": [1]})
    cluster.put("users", "v2", "a text")
    accept = "application/vnd.apache.arrow.stream"
    _, _, raw = await get(worker, f"{ROWS}?sort=key", Accept=accept)
    first, second = pyarrow.ipc.open_stream(raw).read_all().to_pylist()[-2:]
    assert (first["total"], json.loads(first["rest"])) == (None, {"total": 1.5, "new": [1]})
    assert json.loads(second["rest"]) == {"value": "a text"}


async def test_an_empty_list_has_columns_too(worker: FakeServed) -> None:
    _, _, raw = await get(worker, f"{ROWS}?keys=nobody", Accept="text/csv")
    assert raw == b"key,partition,value\r\n"
    _, _, raw = await get(worker, f"{ROWS}?keys=nobody", Accept="application/vnd.apache.arrow.stream")
    assert pyarrow.ipc.open_stream(raw).read_all().num_rows == 0


async def test_arrow_without_pyarrow_is_not_acceptable(
    worker: FakeServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, raw = await get(worker, ROWS, Accept="application/vnd.apache.arrow.stream")
    body = json.loads(raw)
    assert (status, body["code"]) == (406, "not-acceptable")
    assert "pip install pyarrow" in body["detail"]


async def test_accept_chooses_by_weight(worker: FakeServed) -> None:
    for accept, kind in {
        "text/html": "application/json", "*/*": "application/json",
        "text/csv;q=0.5, application/json": "application/json",
        "text/csv, application/json;q=0.5": "text/csv", "application/x-ndjson;q=x": "application/json",
    }.items():  # fmt: skip
        _, headers, _ = await get(worker, ROWS, Accept=accept)
        assert headers["Content-Type"].split(";")[0] == kind, accept


async def test_a_stream_by_value_needs_a_limit(worker: FakeServed) -> None:
    status, _, raw = await get(worker, f"{ROWS}?sort=total", Accept="text/csv")
    assert (status, json.loads(raw)["parameter"]) == (400, "limit")
    _, _, raw = await get(worker, f"{ROWS}?sort=-total&limit=3", Accept="application/x-ndjson")
    assert [json.loads(line)["value"]["total"] for line in raw.splitlines()] == [29, 28, 27]


async def test_streams_take_the_filters_too(worker: FakeServed) -> None:
    _, _, raw = await get(worker, f"{ROWS}?where=total%20<%203&fields=total", Accept="application/x-ndjson")
    assert sorted(json.loads(line)["value"]["total"] for line in raw.splitlines()) == [0, 1, 2]
    status, _, raw = await get(worker, "/v1/tables/counts/keys/nobody/windows", Accept="text/csv")
    assert (status, json.loads(raw)["code"]) == (404, "no-such-key")


async def test_lists_are_compressed_as_the_client_takes_it(worker: FakeServed) -> None:
    _, _, plain = await get(worker, ROWS)
    _, headers, raw = await get(worker, ROWS, **{"Accept-Encoding": "gzip, br"})
    assert (headers["Content-Encoding"], gzip.decompress(raw)) == ("gzip", plain)
    assert "Accept-Encoding" in headers["Vary"]
    assert len(raw) < len(plain)
    _, headers, raw = await get(worker, ROWS, **{"Accept-Encoding": "zstd, gzip;q=0.9"})
    assert (headers["Content-Encoding"], bytes(cramjam.zstd.decompress(raw))) == ("zstd", plain)
    for accepts in ("identity", "gzip;q=0", "*", ""):
        _, headers, raw = await get(worker, ROWS, **{"Accept-Encoding": accepts})
        assert ("Content-Encoding" in headers, raw) == (False, plain)
    ndjson = {"Accept": "application/x-ndjson"}
    _, _, lines = await get(worker, ROWS, **ndjson)
    _, headers, raw = await get(worker, ROWS, **ndjson, **{"Accept-Encoding": "gzip"})
    assert (headers["Content-Encoding"], gzip.decompress(raw)) == ("gzip", lines)
    _, headers, raw = await get(worker, ROWS, **ndjson, **{"Accept-Encoding": "zstd"})
    assert bytes(cramjam.zstd.decompress(raw)) == lines


async def test_an_unchanged_compressed_answer_is_304(worker: FakeServed) -> None:
    _, headers, _ = await get(worker, ROWS, **{"Accept-Encoding": "gzip"})
    for accepts in ("gzip", "zstd", "identity"):
        again = {"Accept-Encoding": accepts, "If-None-Match": headers["ETag"]}
        assert (await get(worker, ROWS, **again))[0] == 304


# -- stale -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keeper", [0, 2])
async def test_a_standby_answers_for_a_killed_owner_where_stale_rows_will_do(
    cluster: Cluster, keeper: int
) -> None:
    """``keeper``: the worker that is asked, or a third one."""
    async with cluster.run({0}, {1}, {2}) as workers:
        await cluster.kill(1)
        workers[keeper].standbys = {1}
        mine = sorted(key for key in USERS if partition_of(key) == 1)
        asked = workers[0]
        path = f"/v1/tables/users/keys/{mine[0]}"
        assert (await get(asked, path))[0] == 503
        body = await ok(asked, f"{path}?stale=ok")
        assert body["value"] == USERS[mine[0]]
        note = body["stale"]["1"]
        assert (note["worker"], note["age_s"], note["lag"]) == (workers[keeper].url, 1.5, {"1": None})
        assert note["position"] == {"1": str(cluster.data["users"].positions[1])}
        assert (await get(asked, "/v1/tables/users/keys/nobody-7?stale=ok"))[0] == 404
        page = await ok(asked, f"{ROWS}?stale=ok&sort=key")
        assert [row["key"] for row in page["rows"]] == sorted(USERS)
        assert (page["partial"], list(page["stale"]), page["pinned"]) == (False, ["1"], False)
        assert (await ok(asked, ROWS))["missing_partitions"] == [1]
        assert "stale" not in await ok(asked, ROWS)
        assert (await ok(asked, f"{ROWS}?stale=ok&count=only"))["count"] == 30
        windows = await ok(asked, f"/v1/tables/counts/keys/{mine[0]}/windows?stale=ok")
        assert len(windows["rows"]) == 3
        accept = {"Accept": "application/x-ndjson"}
        _, headers, raw = await get(asked, f"{ROWS}?stale=ok&sort=key", **accept)
        assert [json.loads(line)["key"] for line in raw.splitlines()] == sorted(USERS)
        assert list(json.loads(headers["Streamflow-Completeness"])["stale"]) == ["1"]
        _, _, raw = await get(asked, f"/v1/tables/counts/keys/{mine[0]}/windows?stale=ok", **accept)
        assert len(raw.splitlines()) == 3


async def test_where_nobody_keeps_it_stale_rows_are_missing_too(cluster: Cluster) -> None:
    async with cluster.run({0}, {1, 2}) as workers:
        await cluster.kill(1)
        body = await ok(workers[0], f"{ROWS}?stale=ok")
        assert (body["missing_partitions"], body["stale"]) == ([1, 2], {})
        key = next(key for key in USERS if partition_of(key) == 1)
        assert (await get(workers[0], f"/v1/tables/users/keys/{key}?stale=ok"))[0] == 503
