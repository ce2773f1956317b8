"""TLS of the server, of its clients' certificates, and between workers; handshakes that don't come."""

from __future__ import annotations

import asyncio
import pathlib
import ssl
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from streamflow.errors import ConfigurationError
from streamflow.web import WebServer, WebSettings, tls
from streamflow.web.security import PEER_HEADER
from tests.support.certificates import Authority
from tests.support.web_fakes import SETTINGS, Cluster, FakeServed, partition_of
from tests.unit.web.http.test_api import NAMES
from tests.unit.web.live.test_hub import connect


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def settings(authority: Authority) -> WebSettings:
    own = str(authority.certificate("127.0.0.1"))
    return replace(SETTINGS, ssl_cert_file=own, ssl_ca_file=str(authority.file))


def client_context(authority: Authority, own: pathlib.Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if own is not None:
        context.load_cert_chain(own)
    return context


async def names(served: FakeServed, context: ssl.SSLContext, **headers: str) -> set[str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.get(f"{served.url}/v1/tables/users/rows", headers=headers) as response,
    ):
        body = await response.json()
        assert response.status == 200, body
        return {row["key"] for row in body["rows"]}


def filled(settings: WebSettings) -> Cluster:
    cluster = Cluster(settings)
    for name in NAMES:
        cluster.put("users", name, 1)
    return cluster


async def test_workers_serve_and_ask_each_other_over_tls(settings: WebSettings, authority: Authority) -> None:
    cluster = filled(replace(settings, tokens=("right",)))
    async with cluster.run([0], [1, 2]) as workers:
        context, token = client_context(authority), {"Authorization": "Bearer right"}
        for served in workers:
            assert served.url.startswith("https://127.0.0.1:")
            assert await names(served, context, **token) == set(NAMES)
            async with connect(served, ssl=context, headers=token) as live:
                await live.subscribe("s", "users")
                assert {key for _, key, _ in live.rows["s"]} == set(NAMES)
        async with aiohttp.ClientSession() as session:
            for url in (workers[0].url, workers[0].url.replace("https:", "http:")):
                with pytest.raises(aiohttp.ClientError):
                    await session.get(url)


async def test_a_context_of_the_apps_own_is_taken(settings: WebSettings, authority: Authority) -> None:
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own.load_cert_chain(settings.ssl_cert_file)
    async with filled(replace(settings, ssl_cert_file="", ssl_context=own)).run([0], [1, 2]) as workers:
        assert await names(workers[0], client_context(authority)) == set(NAMES)


async def test_a_workers_certificate_is_its_proof(settings: WebSettings, authority: Authority) -> None:
    """No token and no secret is known to these workers; an outsider's certificate is of another host."""
    more: dict[str, Any] = {
        "ssl_client_ca_file": str(authority.file),
        "tokens": ("scrypt:2:1:1:aaaa:" + "a" * 43,),
    }
    cluster = filled(replace(settings, **more))
    async with cluster.run([0], [1, 2]) as workers:
        worker = client_context(authority, pathlib.Path(settings.ssl_cert_file))
        other = client_context(authority, authority.certificate("shop.example.org"))
        own = {name for name in NAMES if partition_of(name) == 0}
        assert await names(workers[0], worker, **{PEER_HEADER: workers[1].url}) == own
        for context, url in (
            (worker, "https://127.0.0.1:1"),
            (worker, workers[0].url),
            (other, workers[1].url),
            (client_context(authority), workers[1].url),
        ):
            with pytest.raises(AssertionError, match="unauthorized"):
                await names(workers[0], context, **{PEER_HEADER: url})


async def test_who_must_show_a_certificate_and_has_none_is_not_let_in(
    settings: WebSettings, authority: Authority, tmp_path: pathlib.Path
) -> None:
    more: dict[str, Any] = {"ssl_client_ca_file": str(authority.file), "ssl_client_required": True}
    stranger = Authority(tmp_path, "stranger").certificate("127.0.0.1")
    async with filled(replace(settings, **more)).run([0], [1, 2]) as workers:
        for context in (client_context(authority), client_context(authority, stranger)):
            with pytest.raises((aiohttp.ClientError, OSError)):
                await names(workers[0], context)
        own = client_context(authority, authority.certificate("client.example.org"))
        assert await names(workers[0], own) == set(NAMES)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00"])
async def test_a_handshake_that_does_not_come_ends(settings: WebSettings, said: bytes) -> None:
    async with filled(replace(settings, header_timeout_s=0.2)).run() as (served,):
        reader, writer = await raw(served)
        writer.write(said)
        async with asyncio.timeout(10):
            assert not (await reader.read()).startswith(b"HTTP")
        writer.close()


async def raw(served: FakeServed) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(served.url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def test_handshakes_that_do_not_come_make_room(settings: WebSettings, authority: Authority) -> None:
    async with filled(replace(settings, connections_max=5)).run() as (served,):
        silent = [await raw(served) for _ in range(30)]
        assert await names(served, client_context(authority)) == set(NAMES)
        for _, writer in silent:
            writer.close()


def test_names_of_certificates() -> None:
    some = {"subjectAltName": (("DNS", "a.example.org"), ("DNS", "*.pods.local"), ("IP Address", "10.0.0.1"))}
    for host in ("a.example.org", "A.Example.org", "w-1.pods.local", "10.0.0.1"):
        assert tls.covers(some, host)
    for host in ("b.example.org", "pods.local", "x.w-1.pods.local", "10.0.0.2", "*.pods.local.evil", "local"):
        assert not tls.covers(some, host)
    assert not tls.covers({}, "a.example.org")


@pytest.mark.parametrize(
    "changes",
    [
        {"ssl_cert_file": "/no/such/file"},
        {"ssl_cert_file": ""},
        {"ssl_client_required": True},
        {"advertised_url": "http://worker-1:6066"},
        {"ssl_ca_file": "/no/such/file"},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: WebSettings, changes: dict[str, Any]) -> None:
    more = {"ssl_key_file": settings.ssl_cert_file, **changes}
    with pytest.raises(ConfigurationError, match="web_"):
        WebServer(replace(settings, **more))
