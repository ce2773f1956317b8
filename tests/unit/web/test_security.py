"""Addresses, tokens, names, origins, headers."""

from __future__ import annotations

import socket
from dataclasses import replace

import aiohttp
import pytest

from streamflow.errors import ConfigurationError
from streamflow.web import WebServer, WebSettings
from tests.support.web_fakes import SETTINGS, Cluster
from tests.unit.web.http.test_api import Client

TOKENS = replace(SETTINGS, tokens=("right", "also-right"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_another_address_than_loopback_needs_tokens_or_permission(host: str) -> None:
    with pytest.raises(ConfigurationError, match="without authentication"):
        WebServer(WebSettings(host=host))
    WebServer(WebSettings(host=host, tokens=("t",)))
    WebServer(WebSettings(host=host, allow_insecure=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9", "::1"])
def test_loopback_needs_none(host: str) -> None:
    WebServer(WebSettings(host=host))


@pytest.mark.parametrize("token", ["", "a b\n", "ü"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError, match="token"):
        WebServer(WebSettings(tokens=(token,)))


def test_a_busy_port_is_an_error_if_asked_for_and_else_the_next_is_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(ConfigurationError, match=str(port)):
            WebServer(WebSettings(port=port, port_explicit=True)).bind()
        server = WebServer(WebSettings(port=port))
        url = server.bind()
        assert url.startswith("http://127.0.0.1:")
        assert url != f"http://127.0.0.1:{port}"
        assert f"web port {port} is busy: using {url.rpartition(':')[2]}" in caplog.text
        server.release()


def test_a_wildcard_advertises_a_name_that_peers_can_call() -> None:
    server = WebServer(WebSettings(host="0.0.0.0", port=0, allow_insecure=True))
    assert socket.gethostname() in server.bind()
    server.release()
    server = WebServer(WebSettings(port=0, advertised_url="https://worker-1.example.org"))
    assert server.bind() == "https://worker-1.example.org"
    server.release()


async def test_a_bound_server_that_never_starts_can_be_stopped() -> None:
    server = WebServer(SETTINGS)
    server.bind()
    await server.stop()
    await server.stop()


@pytest.mark.parametrize("path", ["/v1/tables", "/v1/status", "/metrics", "/v1/openapi.json", "/v1/none"])
async def test_with_tokens_only_their_bearers_are_answered(path: str) -> None:
    async with Cluster(TOKENS).run() as (served,), aiohttp.ClientSession() as session:
        client = Client(session, served)
        for value in (None, "Bearer wrong", "Basic right", "right", "Bearer", "Bearer right2", "Bearer righ"):
            headers = {} if value is None else {"Authorization": value}
            await client.problem(path, 401, "unauthorized", **headers)
        _, _, response = await client.get(path)
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        for token in TOKENS.tokens:
            status, _, _ = await client.get(path, Authorization=f"Bearer {token}")
            assert status in (200, 404)


async def test_probes_and_the_empty_page_are_open_and_tell_no_details() -> None:
    async with Cluster(TOKENS).run() as (served,), aiohttp.ClientSession() as session:
        client = Client(session, served)
        served.error = "password wrong at broker-7"
        status, body, _ = await client.get("/healthz")
        assert (status, body) == (503, {"status": "failed"})
        status, body, _ = await client.get("/healthz", Authorization="Bearer right")
        assert body["error"] == "password wrong at broker-7"
        assert (await client.get("/readyz"))[0] == 200
        assert (await client.get("/"))[0] == 200


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.evil.org:6066", "evil.org:6066"])
async def test_a_foreign_name_that_resolves_to_us_is_refused(host: str) -> None:
    async with Cluster().run() as (served,), aiohttp.ClientSession() as session:
        client = Client(session, served)
        await client.problem("/v1/tables", 403, "host-not-allowed", Host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "[::1]:6066", "worker", "known.example.org"])
async def test_addresses_plain_names_and_allowed_names_are_taken(host: str) -> None:
    settings = replace(SETTINGS, allowed_hosts=("known.example.org",))
    async with Cluster(settings).run() as (served,), aiohttp.ClientSession() as session:
        assert await Client(session, served).ok("/v1/tables", Host=host)


async def test_every_answer_has_strict_headers() -> None:
    async with Cluster().run() as (served,), aiohttp.ClientSession() as session:
        client = Client(session, served)
        for path in ("/", "/static/console/main.js", "/v1/tables", "/v1/none", "/metrics", "/static/none"):
            _, _, response = await client.get(path)
            headers = response.headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert "Access-Control-Allow-Origin" not in headers
            assert "aiohttp" not in headers["Server"]


async def test_other_origins_are_let_in_by_name_only() -> None:
    settings = replace(SETTINGS, allowed_origins=("https://shop.example.org",))
    async with Cluster(settings).run() as (served,), aiohttp.ClientSession() as session:
        client = Client(session, served)
        _, _, response = await client.get("/v1/tables", Origin="https://shop.example.org")
        assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example.org"
        _, _, response = await client.get("/v1/tables", Origin="https://evil.example.org")
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "Origin" in response.headers["Vary"]
        async with session.options(
            served.url + "/v1/tables", headers={"Origin": "https://shop.example.org"}
        ) as preflight:
            assert preflight.status == 204
            assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]


async def test_not_ready_is_served_at_once_and_says_so() -> None:
    async with Cluster().run([]) as (served,), aiohttp.ClientSession() as session:
        served.is_ready = False
        client = Client(session, served)
        await client.problem("/readyz", 503, "not-ready")
        body = await client.ok("/v1/tables/users/rows")
        assert body["missing_partitions"] == [0, 1, 2]
