"""Tokens of which the settings hold hashes, and what wrong ones cost."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import aiohttp
import pytest

from streamflow.errors import ConfigurationError
from streamflow.testing.clock import ManualClock
from streamflow.web import WebServer, WebSettings
from streamflow.web import guesses as guesses_module
from streamflow.web.guesses import FREE, Guesses, network
from streamflow.web.tokens import HashedToken, KnownTokens, make
from tests.support.web_fakes import SETTINGS, Cluster
from tests.unit.web.http.test_api import Client
from tests.unit.web.live.test_hub import connect

TOKEN, ENTRY = make("reports")


def test_an_entry_holds_no_token_and_reads_back() -> None:
    assert TOKEN not in ENTRY
    assert TOKEN.rpartition("_")[2] not in ENTRY
    assert HashedToken.of(ENTRY).text == ENTRY
    assert HashedToken.of(ENTRY).name == "reports"
    assert HashedToken.of(ENTRY).is_of(TOKEN)
    assert not HashedToken.of(ENTRY).is_of(TOKEN + "x")
    assert make()[0] != make()[0]
    assert "digest" not in repr(HashedToken.of(ENTRY))
    assert ENTRY not in repr(WebSettings(tokens=(ENTRY,)))


@pytest.mark.parametrize(
    "entry",
    [
        "scrypt:",
        "scrypt:16384:8:5:salt",
        "scrypt:16384:8:5:salt:",
        "scrypt:16384:8:5:salt:YWJj",
        "scrypt:16385:8:5:salt:" + "a" * 43,
        "scrypt:1073741824:8:1:salt:" + "a" * 43,
        "scrypt:16384:8:0:salt:" + "a" * 43,
        pytest.param(ENTRY + ":more", id="more than there is"),  # a salt is another in each process
    ],
)
def test_an_entry_that_is_none_ends_the_start_and_is_not_told(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=r"web_tokens|scrypt") as told:
        WebServer(WebSettings(tokens=(entry,)))
    assert "salt:" not in str(told.value)


@pytest.mark.parametrize("name", ["", "a b", "a=b", "x" * 65, "*"])
def test_names_are_those_that_rules_can_have(name: str) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        make(name)


async def test_plain_hashed_and_chosen_tokens_are_known_by_their_names() -> None:
    chosen, chosen_entry = make("old", "a token from before")
    assert chosen == "a token from before"
    known = KnownTokens(["plain", ENTRY, chosen_entry])
    assert await known.name_of("plain") == "a-token"
    assert known.remembered(TOKEN) is None
    assert await known.name_of(TOKEN) == "reports"
    assert known.remembered(TOKEN) == "reports"
    assert await known.name_of(chosen) == "old"
    assert await known.name_of("another") is None
    assert await known.name_of(TOKEN[:-1] + "?") is None
    assert await known.name_of("sf_0000000000000000_" + "a" * 43) is None  # no hash is computed


async def test_a_worker_takes_tokens_by_their_hashes_and_gives_them_their_rights() -> None:
    rights = ("reports read:table:users", "* read:app")
    cluster = Cluster(replace(SETTINGS, tokens=(ENTRY, "plain"), rights=rights))
    async with cluster.run() as (served,), aiohttp.ClientSession() as session:
        client = Client(session, served)
        assert await client.ok("/v1/tables/users/rows", Authorization=f"Bearer {TOKEN}")
        assert await client.ok("/v1/status", Authorization=f"Bearer {TOKEN}")
        await client.problem("/v1/tables/counts/rows", 403, "forbidden", Authorization=f"Bearer {TOKEN}")
        await client.problem("/v1/tables/users/rows", 403, "forbidden", Authorization="Bearer plain")
        await client.problem("/v1/status", 401, "unauthorized", Authorization=f"Bearer {TOKEN}x")
        await client.problem("/v1/status", 401, "unauthorized", Authorization=f"Bearer {ENTRY}")


async def test_wrong_tokens_make_an_address_wait_longer_and_longer() -> None:
    clock = ManualClock()
    guesses = Guesses(clock)
    for _ in range(FREE):
        assert not guesses.wrong("10.0.0.1")
        assert guesses.wait_s("10.0.0.1") == 0
    assert guesses.wrong("10.0.0.1")
    waits = []
    for _ in range(9):
        waits.append(guesses.wait_s("10.0.0.1"))
        guesses.wrong("10.0.0.1")
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert guesses.wait_s("10.0.0.2") == 0
    await clock.advance(59_000)
    assert guesses.wait_s("10.0.0.1") == 1
    await clock.advance(1_000)
    assert guesses.wait_s("10.0.0.1") == 0
    guesses.wrong("10.0.0.1")
    assert guesses.wait_s("10.0.0.1") == 60
    await clock.advance(60_000 + 600_000)
    assert not guesses.wrong("10.0.0.1")
    assert guesses.wait_s("10.0.0.1") == 0


def test_what_was_right_is_taken_back() -> None:
    guesses = Guesses(ManualClock())
    for _ in range(FREE):
        guesses.wrong("::1")
    for _ in range(3):
        guesses.wrong("::1")
        guesses.take_back("::1")
        assert guesses.wait_s("::1") == 0
    guesses.take_back("never seen")


def test_guesses_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses_module, "ADDRESSES_MAX", 100)
    guesses = Guesses(ManualClock())
    for number in range(1_000):
        guesses.wrong(f"10.0.{number // 250}.{number % 250}")
    assert len(guesses) == 100
    for number in range(1_000):
        guesses.wrong(f"2001:db8::{number:x}")
    assert guesses.wait_s("2001:db8::ffff") > 0  # one machine has all of a /64
    assert len(guesses) == 100
    assert network("::ffff:10.0.0.1") == network("10.0.0.1")
    assert network(None) == ""


async def test_who_guesses_waits_and_who_is_known_does_not() -> None:
    cluster = Cluster(replace(SETTINGS, tokens=("right", "never-shown")))
    async with cluster.run() as (served,), aiohttp.ClientSession() as session:
        client = Client(session, served)
        assert await client.ok("/v1/tables", Authorization="Bearer right")
        for number in range(FREE + 1):
            await client.problem("/v1/tables", 401, "unauthorized", Authorization=f"Bearer {number}")
        status, body, response = await client.get("/v1/tables", Authorization="Bearer guess")
        assert (status, body["code"]) == (429, "too-many-guesses")
        assert int(response.headers["Retry-After"]) >= 1
        await client.problem("/healthz", 429, "too-many-guesses", Authorization="Bearer guess")
        # One that has not been seen might be the next guess.
        await client.problem("/v1/tables", 429, "too-many-guesses", Authorization="Bearer never-shown")
        async with connect(served, init=False) as live:
            await live.say("init", token="guess")
            assert await live.closed() == 4429
        assert await client.ok("/v1/tables", Authorization="Bearer right")
        await client.problem("/v1/tables", 401, "unauthorized")
        assert (await client.get("/healthz"))[0] == 200


async def test_many_at_once_with_a_right_token_are_no_guesses() -> None:
    cluster = Cluster(replace(SETTINGS, tokens=(ENTRY,)))
    async with cluster.run() as (served,), aiohttp.ClientSession() as session:
        client = Client(session, served)
        asked = (client.get("/v1/tables", Authorization=f"Bearer {TOKEN}") for _ in range(20))
        assert {status for status, _, _ in await asyncio.gather(*asked)} == {200}
        wrong = (client.get("/v1/tables", Authorization=f"Bearer {TOKEN}{n}") for n in range(20))
        statuses = [status for status, _, _ in await asyncio.gather(*wrong)]
        assert statuses.count(401) == FREE + 1
        assert statuses.count(429) == 20 - FREE - 1
