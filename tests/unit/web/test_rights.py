"""Who may do what: rights as they are written, and as the endpoints hold to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from streamflow.errors import ConfigurationError
from streamflow.web import WebServer, WebSettings
from streamflow.web.problems import Problem
from streamflow.web.rights import ALL_KEYS, NO_KEYS, Caller, Rule, caller_of, grants_for, grants_in
from tests.support.web_fakes import SETTINGS, Cluster
from tests.unit.web.http.test_api import Client


def caller(*rights: str, is_foreign: bool = False, **claims: object) -> Caller:
    return Caller("test", grants_in(list(rights), claims), is_known=True, is_foreign=is_foreign)


def test_a_right_without_limits_is_for_all_of_its_kind_and_no_other() -> None:
    reader = caller("read")
    assert reader.may("read", "table", "orders")
    assert reader.may("read", "topic", "clicks", "any key")
    assert reader.may("read", "app", "shop")
    assert not reader.may("publish", "topic", "clicks")
    assert not reader.may("admin", "app", "shop")
    assert not caller("admin").may("read", "table", "orders")
    assert not caller().may_some("read", "table", "orders")


def test_a_right_may_be_limited_to_a_kind_a_name_and_the_beginning_of_names() -> None:
    some = caller("read:table", "publish:topic:clicks", "read:topic:shop.*")
    assert some.may("read", "table", "any")
    assert not some.may("read", "app", "shop")
    assert some.may("publish", "topic", "clicks")
    assert not some.may("publish", "topic", "clicks2")
    assert some.may("read", "topic", "shop.orders")
    assert not some.may("read", "topic", "shop")


def test_a_right_for_some_keys_is_none_for_the_whole() -> None:
    some = caller("read:table:orders:user:7", "read:table:orders:eu/*")
    assert not some.may("read", "table", "orders")
    assert some.may_some("read", "table", "orders")
    assert some.may("read", "table", "orders", "user:7")
    assert not some.may("read", "table", "orders", "user:71")
    assert some.may("read", "table", "orders", "eu/9")
    limits = some.keys("read", "table", "orders")
    assert [key for key in ("user:7", "eu/1", "us/1", None, 7) if limits.allows(key)] == ["user:7", "eu/1"]
    assert some.keys("read", "table", "others") == NO_KEYS
    assert caller("read", "read:table:orders:x").keys("read", "table", "orders") == ALL_KEYS
    assert caller("read:table:orders:*").may("read", "table", "orders")


def test_claims_fill_a_key_and_are_never_a_pattern() -> None:
    right = "read:table:orders:user/{sub}/*"
    assert caller(right, sub="ann").may("read", "table", "orders", "user/ann/1")
    assert not caller(right, sub="ann").may("read", "table", "orders", "user/annabel/1")
    assert caller(right, sub=7).may("read", "table", "orders", "user/7/1")
    assert not caller("read:table:orders:{sub}", sub="*").may("read", "table", "orders", "ann")
    assert not caller("read:table:orders:{sub}", sub="{role}", role="x").may("read", "table", "orders", "x")


@pytest.mark.parametrize("claims", [{}, {"sub": ""}, {"sub": None}, {"sub": ["a"]}, {"sub": True}])
def test_a_missing_claim_opens_nothing(claims: dict[str, Any]) -> None:
    assert not caller("read:table:orders:{sub}/*", **claims).may_some("read", "table", "orders")


@pytest.mark.parametrize(
    "right",
    [
        "",
        "write",
        "read:",
        "read:tables",
        "read:table:",
        "read:table:orders:",
        "Read",
        "read:table:o:u{sub}*",
    ],
)
def test_what_is_no_right_is_refused_when_the_worker_starts(right: str) -> None:
    with pytest.raises(ConfigurationError, match="web_rights"):
        WebServer(WebSettings(rights=(f"* {right}",)))
    with pytest.raises(ConfigurationError, match="web_rights"):
        Rule.of(right)


def test_rules_pick_by_name_and_by_claim() -> None:
    rules = [
        Rule.of(text)
        for text in (
            "* read:app",
            "shop read:table",
            "role=ops admin",
            "sub=ann publish",
            "nothing=None read",
        )
    ]
    given = {grant.right for grant in grants_for(rules, "shop", {})}
    assert given == {"read"}
    assert {g.right for g in grants_for(rules, "sub=ann", {"sub": "ann"})} == {"read", "publish"}
    assert {g.right for g in grants_for(rules, "x", {"role": ["dev", "ops"]})} == {"read", "admin"}
    assert len(grants_for(rules, "x", {"role": "dev"})) == 1


def test_a_claim_may_hold_rights_among_other_words() -> None:
    assert [g.right for g in grants_in("openid read:table:orders profile publish:topic:chat", {})] == [
        "read",
        "publish",
    ]
    assert [g.right for g in grants_in(["admin:app", 7, "email"], {})] == ["admin"]
    assert grants_in({"read": True}, {}) == ()


def test_a_page_of_another_origin_changes_nothing() -> None:
    some = caller("read", "publish", "admin", is_foreign=True)
    assert some.may("read", "table", "orders")
    with pytest.raises(Problem, match="another origin"):
        some.require("publish", "topic", "clicks")
    with pytest.raises(Problem, match="another origin"):
        some.require_some("admin", "table", "orders")


def test_whom_no_middleware_has_seen_is_nobody() -> None:
    request = make_mocked_request("GET", "/")
    assert not caller_of(request).is_known
    with pytest.raises(Problem, match="read:table:orders"):
        caller_of(request).require("read", "table", "orders")
    with pytest.raises(Problem, match=r"admin:app is needed"):
        caller_of(request).require("admin", "app", "shop")


LIMITED = replace(SETTINGS, rights=("* read:table:users", "* read:table:counts:ann"))


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(LIMITED)
    for name in ("ann", "bob"):
        cluster.put("counts", name, 1, start_ms=0)
        cluster.put("users", name, {"seen": 1})
    return cluster


async def test_endpoints_answer_what_the_caller_may_read(cluster: Cluster) -> None:
    async with cluster.run() as (served,), aiohttp.ClientSession() as session:
        client = Client(session, served)
        assert len((await client.ok("/v1/tables/users/rows"))["rows"]) == 2
        assert (await client.ok("/v1/tables/counts/keys/ann"))["value"] == 1
        assert (await client.ok("/v1/tables/counts/keys/ann/windows"))["rows"]
        assert (await client.ok("/v1/tables/counts/keys/ann/location"))["owner"] == served.url
        for path in (
            "/v1/tables/counts/keys/bob",
            "/v1/tables/counts/keys/nobody",
            "/v1/tables/counts/keys/bob/windows",
            "/v1/tables/counts/keys/bob/location",
            "/v1/tables/totals",
            "/v1/tables/totals/rows",
            "/v1/tables/totals/late",
            "/v1/tables/totals/changes",
            "/v1/tables/never_was/rows",
            "/v1/status",
            "/metrics",
        ):
            body = await client.problem(path, 403, "forbidden")
            assert "never_was" not in str(body.get("tables"))
        assert "users" in [table["name"] for table in (await client.ok("/v1/tables"))["tables"]]
        assert "totals" not in str(await client.ok("/v1/tables"))
        assert await client.ok("/v1/openapi.json")


@pytest.mark.parametrize("rights, status", [(SETTINGS.rights, 200), (("* read",), 403)])
async def test_late_events_are_applied_by_whom_that_is_allowed(rights: tuple[str, ...], status: int) -> None:
    cluster = Cluster(replace(SETTINGS, rights=rights))
    async with cluster.run() as (served,), aiohttp.ClientSession() as session:
        response = await session.post(served.url + "/v1/tables/by_type/late")
        body = await response.json()
        assert response.status == status, body
        assert status == 200 or "admin:table:by_type" in body["detail"]


async def test_a_page_of_the_app_sees_the_caller() -> None:
    seen: list[Caller] = []

    async def page(request: web.Request) -> web.Response:
        seen.append(caller_of(request))
        return web.Response()

    def extend(app: web.Application) -> None:
        app.router.add_get("/mine", page)

    cluster = Cluster()
    server = WebServer(SETTINGS)
    async with cluster.run() as (served,), aiohttp.ClientSession() as session:
        served.url = server.bind()
        await server.start(served, extend)
        async with session.get(served.url + "/mine") as response:
            assert response.status == 200
        await server.stop()
    assert seen[0].may("read", "table", "users")
