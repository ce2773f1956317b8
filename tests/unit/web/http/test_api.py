"""HTTP: rows, keys, lists, errors. Peers are in test_web_peers."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jsonschema
import pytest

from streamflow.query.row_query import SORTS
from streamflow.query.rows import Row
from tests.support.web_fakes import PARTITIONS, SIZE_MS, Cluster, FakeReader, FakeServed, partition_of

NAMES = ["ann", "bob", "cyd", "dan", "eve", "fay", "gus"]


class Client:
    """Asks one worker."""

    def __init__(self, session: aiohttp.ClientSession, served: FakeServed) -> None:
        self.session = session
        self.served = served

    async def get(self, path: str, **headers: str) -> tuple[int, Any, aiohttp.ClientResponse]:
        async with self.session.get(self.url(path), headers=headers) as response:
            raw = await response.read()
        is_json = "json" in response.content_type and "ndjson" not in response.content_type
        return response.status, json.loads(raw) if is_json and raw else raw, response

    def url(self, path: str) -> Any:
        from yarl import URL

        return URL(self.served.url + path, encoded=True)

    async def ok(self, path: str, **headers: str) -> Any:
        status, body, _ = await self.get(path, **headers)
        assert status == 200, body
        return body

    async def problem(self, path: str, status: int, code: str, **headers: str) -> Any:
        got, body, response = await self.get(path, **headers)
        assert (got, body["code"]) == (status, code), body
        assert response.content_type == "application/problem+json"
        assert body["type"] == f"urn:streamflow:problem:{code}"
        assert body["status"] == status
        assert body["title"]
        assert body["detail"]
        return body


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    for index, name in enumerate(NAMES):
        for window in range(3):
            state: Any = "open" if window == 2 else "closed"
            cluster.put("counts", name, index + window, start_ms=window * SIZE_MS, state=state)
        cluster.put("users", name, {"seen": index})
    for window in range(3):
        cluster.put("totals", None, {"total_events": window}, start_ms=window * SIZE_MS)
    return cluster


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with cluster.run() as (served,), aiohttp.ClientSession() as session:
        yield Client(session, served)


async def test_a_key_answers_the_row_of_its_newest_window_with_position_and_lag(client: Client) -> None:
    body = await client.ok("/v1/tables/counts/keys/bob")
    assert body["key"] == "bob"
    assert body["value"] == 3
    assert body["window"] == {
        "start": "1970-01-01T00:00:20Z",
        "end": "1970-01-01T00:00:30Z",
        "state": "open",
    }
    assert body["partition"] == partition_of("bob")
    assert body["position"][str(body["partition"])] == "9" or int(body["position"]["0"]) >= 0
    assert all(isinstance(offset, str) for offset in body["position"].values())
    assert body["lag"] == {"0": 0, "1": 0, "2": 0}
    assert body["partial"] is False


async def test_at_picks_the_window_that_holds_that_time(client: Client) -> None:
    body = await client.ok("/v1/tables/counts/keys/bob?at=1970-01-01T00:00:12Z")
    assert body["value"] == 2
    body = await client.ok("/v1/tables/counts/keys/bob?at=9999")
    assert body["value"] == 1
    await client.problem("/v1/tables/counts/keys/bob?at=yesterday", 400, "bad-parameter")
    await client.problem("/v1/tables/counts/keys/bob?at=1970-01-01T00:00:12", 400, "bad-parameter")
    await client.problem("/v1/tables/users/keys/bob?at=0", 400, "bad-parameter")
    await client.problem("/v1/tables/counts/keys/bob?at=2020-01-01T00:00:00Z", 404, "no-such-key")


async def test_windows_of_a_key_come_oldest_first(client: Client) -> None:
    body = await client.ok("/v1/tables/counts/keys/ann/windows")
    assert [row["value"] for row in body["rows"]] == [0, 1, 2]
    assert body["next"] is None
    await client.problem("/v1/tables/counts/keys/nobody/windows", 404, "no-such-key")


async def test_windows_of_a_key_are_a_list_as_others_are(client: Client) -> None:
    path = "/v1/tables/counts/keys/ann/windows"
    seen: list[int] = []
    tail = "?limit=1&sort=-window"
    while True:
        body = await client.ok(path + tail)
        seen += [row["value"] for row in body["rows"]]
        if body["next"] is None:
            break
        tail = f"?limit=1&sort=-window&cursor={body['next']}"
    assert seen == [2, 1, 0]
    body = await client.ok(f"{path}?start={SIZE_MS}&end={2 * SIZE_MS}")
    assert [row["value"] for row in body["rows"]] == [1]
    assert (await client.ok(f"{path}?start={90 * SIZE_MS}"))["rows"] == []  # the key is there all the same
    await client.problem(f"{path}?sort=key", 400, "bad-parameter")
    first = await client.ok(f"{path}?limit=1")
    await client.problem(f"/v1/tables/counts/keys/bob/windows?cursor={first['next']}", 400, "bad-cursor")


async def test_a_table_without_windows_has_rows_without_window(client: Client) -> None:
    body = await client.ok("/v1/tables/users/keys/ann")
    assert body["window"] is None
    assert body["value"] == {"seen": 0}


@pytest.mark.parametrize(
    "spelling, key",
    [
        ("a%2Fb", "a/b"),
        ("a%2Fwindows", "a/windows"),
        ("100%25", "100%"),
        ("%2525", "%25"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("%E2%82%AC", "€"),
        ("%3Fx%3D1%23", "?x=1#"),
        ("", ""),
        ("windows", "windows"),
        ("%22quoted%22", '"quoted"'),
    ],
)
async def test_a_key_is_percent_decoded_once(
    cluster: Cluster, client: Client, spelling: str, key: str
) -> None:
    cluster.put("users", key, "here")
    body = await client.ok(f"/v1/tables/users/keys/{spelling}")
    assert (body["key"], body["value"]) == (key, "here")


async def test_a_key_can_be_given_as_bytes(cluster: Cluster, client: Client) -> None:
    cluster.put("users", "a/ü?", 1)
    for encoded in (base64.b64encode("a/ü?".encode()), base64.urlsafe_b64encode("a/ü?".encode())):
        for text in (encoded.decode(), encoded.decode().rstrip("=")):
            body = await client.ok(f"/v1/tables/users/keys/-?key_b64={text}")
            assert body["key"] == "a/ü?"
    await client.problem("/v1/tables/users/keys/-?key_b64=%C3", 400, "bad-key")


async def test_what_is_no_key_is_a_bad_request(client: Client) -> None:
    await client.problem("/v1/tables/users/keys/%FF", 400, "bad-key")
    body = await client.problem("/v1/tables/users/keys/!x", 400, "bad-key")
    assert "exclamation" in body["detail"]


async def test_what_is_missing_is_a_problem(client: Client) -> None:
    await client.problem("/v1/tables/counts/keys/nobody", 404, "no-such-key")
    body = await client.problem("/v1/tables/nothing", 404, "no-such-table")
    assert "counts" in body["tables"]
    await client.problem("/v1/tables/nothing/rows", 404, "no-such-table")
    await client.problem("/v1/tables/nothing/keys/a", 404, "no-such-table")
    await client.problem("/v1/nothing", 404, "not-found")
    await client.problem("/static/../secret", 404, "not-found")


async def test_another_method_is_refused_and_the_right_one_named(client: Client) -> None:
    async with client.session.post(client.url("/v1/tables"), data=b"{}") as response:
        assert response.status == 405
        assert response.content_type == "application/problem+json"
        assert "GET" in response.headers["Allow"]


async def test_an_unexpected_error_is_a_problem_that_tells_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: FakeReader, key: Any, at_ms: int | None = None) -> Row | None:
        raise RuntimeError("secret")

    monkeypatch.setattr(FakeReader, "get", broken)
    body = await client.problem("/v1/tables/users/keys/ann", 500, "internal-error")
    assert "secret" not in json.dumps(body)
    assert "secret" in caplog.text


async def test_a_scattered_key_is_a_conflict_that_names_the_partitions(
    cluster: Cluster, client: Client
) -> None:
    elsewhere = (partition_of("ann") + 1) % 3
    cluster.put("users", "ann", {"seen": 9}, partition=elsewhere)
    for path in ("keys/ann", "keys/ann/windows"):
        body = await client.problem(f"/v1/tables/users/{path}", 409, "scattered-key")
        assert body["partitions"] == sorted([partition_of("ann"), elsewhere])
    rows = (await client.ok("/v1/tables/users/rows?prefix=ann"))["rows"]
    assert len(rows) == 2


async def test_rows_without_key_are_found_by_their_window(client: Client) -> None:
    body = await client.ok("/v1/tables/totals/rows?start=1970-01-01T00:00:10Z&end=1970-01-01T00:00:20Z")
    assert [(row["key"], row["value"]) for row in body["rows"]] == [(None, {"total_events": 1})]
    await client.problem("/v1/tables/totals/keys/x", 404, "no-such-key")


@pytest.mark.parametrize("sort", SORTS)
async def test_pages_follow_each_other_without_gap_or_repeat(
    cluster: Cluster, client: Client, sort: str
) -> None:
    seen: list[tuple[str, str]] = []
    cursor = ""
    for _ in range(20):
        body = await client.ok(f"/v1/tables/counts/rows?limit=4&sort={sort}{cursor}")
        assert len(body["rows"]) <= 4
        seen += [(row["window"]["start"], row["key"]) for row in body["rows"]]
        if body["next"] is None:
            break
        cursor = f"&cursor={body['next']}"
    order = [(w, k) for w, k in seen] if sort.endswith("window") else [(k, w) for w, k in seen]
    assert order == sorted(order, reverse=sort.startswith("-"))
    assert sorted(seen) == sorted(
        (f"1970-01-01T00:00:{window}0Z".replace(":00Z", ":00Z"), name)
        for window in range(3)
        for name in NAMES
    )
    assert len(set(seen)) == len(seen) == 21


async def test_a_page_goes_on_behind_its_cursor_when_rows_come_before_it(
    cluster: Cluster, client: Client
) -> None:
    first = await client.ok("/v1/tables/users/rows?limit=3")
    cluster.put("users", "aaa", 1)
    second = await client.ok(f"/v1/tables/users/rows?limit=3&cursor={first['next']}")
    assert [row["key"] for row in first["rows"] + second["rows"]] == NAMES[:6]


async def test_lists_filter_by_prefix_state_and_window(client: Client) -> None:
    rows = (await client.ok("/v1/tables/counts/rows?prefix=a"))["rows"]
    assert {row["key"] for row in rows} == {"ann"}
    rows = (await client.ok("/v1/tables/counts/rows?state=open"))["rows"]
    assert {row["window"]["start"] for row in rows} == {"1970-01-01T00:00:20Z"}
    rows = (await client.ok("/v1/tables/counts/rows?state=closed"))["rows"]
    assert len(rows) == 14
    rows = (await client.ok("/v1/tables/counts/rows?start=10000&end=20000"))["rows"]
    assert {row["window"]["start"] for row in rows} == {"1970-01-01T00:00:10Z"}
    rows = (await client.ok("/v1/tables/counts/rows?start=1970-01-01T02:00:10%2B02:00&end=20000"))["rows"]
    assert len(rows) == 7


@pytest.mark.parametrize(
    "parameters",
    [
        "limit=0", "limit=1001", "limit=x", "limit=-1", "sort=-", "state=done", "start=soon",
        "partitions=9", "partitions=x", "min_position=1", "min_position=a:b", "stat=open",
        "limit=1&limit=2", "start=99999999999999999999999999T",
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_named(client: Client, parameters: str) -> None:
    body = await client.problem(f"/v1/tables/counts/rows?{parameters}", 400, "bad-parameter")
    assert body["parameter"] == parameters.split("=", maxsplit=1)[0]


async def test_only_cursors_of_this_list_are_taken(client: Client) -> None:
    cursor = (await client.ok("/v1/tables/counts/rows?limit=2"))["next"]
    forged = base64.urlsafe_b64encode(b'[1,"x",{},[],"0"]').decode().rstrip("=")
    for bad in ("x", "e30", "%00", forged, cursor[:-3]):
        await client.problem(f"/v1/tables/counts/rows?cursor={bad}", 400, "bad-cursor")
    await client.problem(f"/v1/tables/counts/rows?prefix=a&cursor={cursor}", 400, "bad-cursor")
    await client.problem(f"/v1/tables/users/rows?cursor={cursor}", 400, "bad-cursor")


async def test_ndjson_streams_every_row_in_order(client: Client) -> None:
    status, raw, response = await client.get(
        "/v1/tables/counts/rows?sort=-window", Accept="application/x-ndjson"
    )
    assert status == 200
    assert response.content_type == "application/x-ndjson"
    rows = [json.loads(line) for line in raw.splitlines()]
    order = [(row["window"]["start"], row["key"]) for row in rows]
    assert order == sorted(order, reverse=True)
    assert len(rows) == 21
    completeness = json.loads(response.headers["Streamflow-Completeness"])
    assert completeness["partial"] is False
    _, raw, _ = await client.get("/v1/tables/counts/rows?limit=5", Accept="application/x-ndjson")
    assert len(raw.splitlines()) == 5


async def test_an_unchanged_answer_is_304(cluster: Cluster, client: Client) -> None:
    _, _, first = await client.get("/v1/tables/counts/rows")
    tag = first.headers["ETag"]
    status, body, second = await client.get("/v1/tables/counts/rows", **{"If-None-Match": f'"x", W/{tag}'})
    assert (status, body, second.headers["ETag"]) == (304, b"", tag)
    cluster.put("counts", "ann", 99, start_ms=0)
    status, _, third = await client.get("/v1/tables/counts/rows", **{"If-None-Match": tag})
    assert status == 200
    assert third.headers["ETag"] != tag


async def test_min_position_waits_and_gives_up_with_retry_after(cluster: Cluster, client: Client) -> None:
    import asyncio

    partition = partition_of("ann")
    wanted = cluster.data["users"].positions[partition] + 1
    path = f"/v1/tables/users/keys/ann?min_position={partition}:{wanted}"
    body = await client.problem(path, 503, "position-not-reached")
    assert body["position"][str(partition)] == str(wanted - 1)
    _, _, response = await client.get(path)
    assert response.headers["Retry-After"] == "1"
    asked = asyncio.create_task(client.ok(path))
    await asyncio.sleep(0.05)
    cluster.put("users", "ann", "new")
    assert (await asked)["value"] == "new"


async def test_numbers_beyond_64_bits_stay_whole(cluster: Cluster, client: Client) -> None:
    cluster.put("users", "big", 2**70)
    assert (await client.ok("/v1/tables/users/keys/big"))["value"] == 2**70
    cluster.data["users"].positions[0] = 2**60
    assert (await client.ok("/v1/tables/users"))["position"]["0"] == str(2**60)


async def test_tables_tell_what_they_are(client: Client) -> None:
    body = await client.ok("/v1/tables")
    tables = {table["name"]: table for table in body["tables"]}
    assert list(tables) == ["by_type", "counts", "totals", "users"]
    counts = tables["counts"]
    assert counts["rows"] == 21
    assert counts["window"] == {
        "kind": "tumbling",
        "size_ms": SIZE_MS,
        "grace_ms": 0,
        "retain_ms": 86_400_000,
    }
    assert counts["watermark"] == "1970-01-01T00:00:20Z"
    assert tables["users"]["window"] is None
    assert (await client.ok("/v1/tables/counts")) == counts


async def test_health_readiness_and_metrics(client: Client) -> None:
    assert (await client.ok("/healthz"))["status"] == "ok"
    assert (await client.ok("/readyz"))["status"] == "ready"
    client.served.status = "recovering"
    assert (await client.ok("/healthz"))["status"] == "recovering"
    client.served.is_ready = False
    client.served.error = "the broker is away"
    body = await client.problem("/readyz", 503, "not-ready")
    assert body["detail"]
    status, body, _ = await client.get("/healthz")
    assert (status, body["error"]) == (503, "the broker is away")
    status, text, response = await client.get("/metrics")
    assert status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"# TYPE streamflow_records_total counter" in text
    _, text, response = await client.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert text.endswith(b"# EOF\n")
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")


async def test_a_partition_that_no_worker_has_shows_its_lag_at_each(client: Client) -> None:
    first = client.served.cluster.members[0]
    client.served.cluster.members = [first]
    _, text, _ = await client.get("/metrics")
    mine = {partition for topic, partition in first.partitions}
    for partition in range(PARTITIONS):
        line = f'streamflow_unowned_lag_records{{topic="events",partition="{partition}"}} 3.0'
        assert (line.encode() in text) == (partition not in mine)


async def test_answers_are_what_the_openapi_document_says(cluster: Cluster, client: Client) -> None:
    document = await client.ok("/v1/openapi.json")
    assert document["openapi"] == "3.1.0"
    paths = {
        "/v1/tables": "/v1/tables",
        "/v1/tables/{table}": "/v1/tables/counts",
        "/v1/tables/{table}/rows": "/v1/tables/counts/rows?limit=3",
        "/v1/tables/{table}/keys/{key}": "/v1/tables/counts/keys/ann",
        "/v1/tables/{table}/keys/{key}/windows": "/v1/tables/counts/keys/ann/windows",
        "/v1/tables/{table}/keys/{key}/location": "/v1/tables/counts/keys/ann/location",
        "/v1/status": "/v1/status",
        "/healthz": "/healthz",
        "/readyz": "/readyz",
    }
    for path, example in paths.items():
        operation = document["paths"][path]["get"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        whole = {**schema, "components": document["components"]}
        jsonschema.Draft202012Validator.check_schema(whole)
        jsonschema.validate(await client.ok(example), whole, cls=jsonschema.Draft202012Validator)
    problem = {"$ref": "#/components/schemas/Problem", "components": document["components"]}
    _, body, _ = await client.get("/v1/tables/none")
    jsonschema.validate(body, problem, cls=jsonschema.Draft202012Validator)
    names = {name for path in document["paths"] for name in path.split("/") if name.startswith("{")}
    assert names == {"{table}", "{key}", "{topic}", "{id}"}


async def test_head_answers_like_get_without_a_body(client: Client) -> None:
    async with client.session.head(client.url("/v1/tables")) as response:
        assert response.status == 200
        assert await response.read() == b""
        assert "ETag" in response.headers


@pytest.mark.parametrize("path", ["", "/counts", "/counts/rows", "/counts/keys/ann", "/counts/changes"])
async def test_a_worker_that_does_not_know_its_tables_yet_asks_to_come_again(
    client: Client, path: str
) -> None:
    client.served.forget_tables()
    problem = await client.problem(f"/v1/tables{path}", 503, "not-ready")
    assert problem["retry"] is True
    _, _, response = await client.get(f"/v1/tables{path}")
    assert response.headers["Retry-After"] == "1"
