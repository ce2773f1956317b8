"""JSON Web Tokens: whose they are, for whom, until when, and what they may."""

from __future__ import annotations

import json
import pathlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from streamflow.clock import SystemClock
from streamflow.errors import ConfigurationError
from streamflow.testing.clock import ManualClock
from streamflow.web import WebServer, WebSettings, jwt_tokens
from streamflow.web.jwt_tokens import JwtTokens
from tests.support.web_fakes import SETTINGS, Cluster
from tests.unit.web.http.test_api import Client
from tests.unit.web.live.test_hub import connect

RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
EC = ec.generate_private_key(ec.SECP256R1())
STRANGER = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
ISSUER, US = "https://login.example.org/", "streamflow"


def public(key: Any, key_id: str, **more: str) -> dict[str, Any]:
    algorithm: Any = jwt.algorithms.RSAAlgorithm if hasattr(key, "decrypt") else jwt.algorithms.ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig", **more}


def key_set(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": keys})


def signed(key: Any = RSA, algorithm: str = "RS256", key_id: str | None = "one", **claims: Any) -> str:
    now_s = SystemClock().now_ms() // 1_000
    said = {"iss": ISSUER, "aud": US, "exp": now_s + 600, "sub": "ann", **claims}
    said = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(said, key, algorithm=algorithm, headers={} if key_id is None else {"kid": key_id})


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> WebSettings:
    place = tmp_path / "keys.json"
    place.write_text(key_set(public(RSA, "one"), public(EC, "two", alg="ES256")))
    return replace(SETTINGS, jwt_issuer=ISSUER, jwt_audience=(US, "other"), jwt_keys=str(place))


async def test_a_token_of_the_issuer_for_us_is_taken(settings: WebSettings) -> None:
    tokens = JwtTokens(settings, SystemClock())
    for token in (signed(), signed(EC, "ES256", "two"), signed(key_id=None), signed(aud=["x", "other"])):
        assert tokens.looks_like_one(token)
        claims = await tokens.claims(token)
        assert claims is not None
        assert claims.said["sub"] == "ann"


async def test_another_token_is_not(settings: WebSettings) -> None:
    tokens = JwtTokens(settings, SystemClock())
    now_s = SystemClock().now_ms() // 1_000
    public_pem = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head, body, tail = signed().split(".")
    changed = f"{head}.{body[:-2]}AA.{tail}"
    none = jwt.encode({"iss": ISSUER, "aud": US, "exp": now_s + 60}, "", algorithm="none")
    secret = jwt.encode({"iss": ISSUER, "aud": US, "exp": now_s + 60}, "x" * 32, algorithm="HS256")
    wrong = {
        "issuer": signed(iss="https://evil.example.org/"),
        "no issuer": signed(iss=None),
        "audience": signed(aud="another"),
        "no audience": signed(aud=None),
        "expired": signed(exp=now_s - 60),
        "no end": signed(exp=None),
        "end of another kind": signed(exp="9999999999"),
        "not yet": signed(nbf=now_s + 600),
        "key": signed(STRANGER),
        "unknown key": signed(STRANGER, key_id="three"),
        "key of another algorithm": signed(RSA, "PS256", "two"),
        "changed": changed,
        "none": none,
        "secret": secret,
        "cut off": f"{head}.{body}.",
        "no json": "eyJ.eyJ.eyJ",
    }
    for case, token in wrong.items():
        assert await tokens.claims(token) is None, case
    assert public_pem  # what a token of HS256 would be signed with, if that were taken
    assert await tokens.claims(signed(exp=now_s - 10)) is not None  # clocks differ a little


def write(settings: WebSettings, text: str) -> None:
    pathlib.Path(settings.jwt_keys).write_text(text)


async def test_keys_are_read_anew_for_one_that_is_not_known_but_not_for_everybody(
    settings: WebSettings,
) -> None:
    clock = ManualClock(SystemClock().now_ms())
    tokens = JwtTokens(settings, clock)
    assert await tokens.claims(signed(STRANGER, key_id="new")) is None
    write(settings, key_set(public(STRANGER, "new")))
    assert await tokens.claims(signed(STRANGER, key_id="new")) is None
    await clock.advance(jwt_tokens.ASKED_AGAIN_MS)
    assert await tokens.claims(signed(STRANGER, key_id="new")) is not None
    # What can't be read for a while does not lock everybody out.
    write(settings, "{")
    await clock.advance(jwt_tokens.KEPT_MS)
    assert await tokens.claims(signed(STRANGER, key_id="new", exp=2**33)) is not None


@pytest.fixture
async def issuer() -> AsyncIterator[tuple[str, list[Any]]]:
    """An address of keys, and what it answers, one after the other."""
    answers: list[Any] = []

    async def keys(_: web.Request) -> web.StreamResponse:
        answer: web.StreamResponse = answers.pop(0)
        return answer

    app = web.Application()
    app.router.add_get("/keys", keys)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/keys", answers
    await runner.cleanup()


async def test_keys_come_from_an_address_too(settings: WebSettings, issuer: tuple[str, list[Any]]) -> None:
    place, answers = issuer
    answers.append(web.Response(status=302, headers={"Location": "http://evil.example.org"}))
    answers.append(web.Response(text=key_set(public(RSA, "one"))))
    cluster = Cluster(replace(settings, jwt_keys=place))
    async with cluster.run() as (served,), aiohttp.ClientSession() as session:
        client = Client(session, served)
        await client.problem("/v1/tables", 503, "not-ready", Authorization=f"Bearer {signed()}")
        assert len(answers) == 1
    cluster = Cluster(replace(settings, jwt_keys=place))
    async with cluster.run() as (served,), aiohttp.ClientSession() as session:
        assert await Client(session, served).ok("/v1/tables", Authorization=f"Bearer {signed()}")


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"jwt_issuer": ""}, "web_jwt_issuer"),
        ({"jwt_audience": ()}, "web_jwt_audience"),
        ({"jwt_keys": "http://login.example.org/keys"}, "https"),
        ({"jwt_keys": "ftp://login.example.org/keys"}, "no file"),
        ({"jwt_keys": "/no/such/file"}, "can't be read"),
        ({"jwt_algorithms": ("none",)}, "none"),
        ({"jwt_algorithms": ("RS255",)}, "RS255"),
    ],
)
def test_settings_that_would_let_others_in_are_refused(
    settings: WebSettings, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        WebServer(replace(settings, **changes))
    WebServer(replace(settings, host="0.0.0.0"))  # it is authentication


async def test_each_sees_the_own_rows(settings: WebSettings) -> None:
    rights = ("* read:table:users:{sub}", "role=ops read", "* read:table:totals")
    cluster = Cluster(replace(settings, rights=rights, peer_secret="known to all workers"))
    for name in ("ann", "bob", "annabel"):
        cluster.put("users", name, 1)
    async with cluster.run([0], [1, 2]) as (served, _), aiohttp.ClientSession() as session:
        client = Client(session, served)

        async def seen(**claims: Any) -> set[str]:
            body = await client.ok("/v1/tables/users/rows", Authorization=f"Bearer {signed(**claims)}")
            return {row["key"] for row in body["rows"]}

        assert await seen() == {"ann"}
        assert await seen(sub="bob") == {"bob"}
        assert await seen(sub="*") == set()
        assert await seen(role=["dev", "ops"]) == {"ann", "bob", "annabel"}
        assert await seen(scope="openid read:table:users:b*") == {"ann", "bob"}
        await client.problem(
            "/v1/tables/users/rows", 403, "forbidden", Authorization=f"Bearer {signed(sub=None)}"
        )


async def test_a_subscription_ends_with_its_token(settings: WebSettings) -> None:
    async with (
        Cluster(replace(settings, jwt_leeway_s=0.0)).run() as (served,),
        connect(served, init=False) as live,
    ):
        await live.say("init", token=signed(exp=served.clock.now_ms() / 1_000 + 0.5))
        assert (await live.hear())["t"] == "ack"
        await live.subscribe("s", "users")
        assert await live.closed() == 4401
