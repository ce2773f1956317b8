"""Strangers' requests and messages: whatever they are, the worker answers as it says, and goes on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import aiohttp
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

from streamflow.settings import version
from streamflow.web.http import openapi
from streamflow.web.http.routes import ROUTES
from streamflow.web.messages import SUBPROTOCOL, Close
from tests.support.web_fakes import SETTINGS, SIZE_MS, Cluster

Answer = TypeVar("Answer")

QUICK = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,  # in CI the same each time; a round of one's own: --hypothesis-seed
    database=None,
    suppress_health_check=list(HealthCheck),
)
NOT_HERE = frozenset(
    {"changes", "events", "dead_letters", "dead_letter", "dead_letter_replay", "dead_letter_drop"}
)
"""A stream has no end, and these workers have no dead letters."""
HELD_TO = (
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
)
CLOSES = {int(code) for code in Close} | {1000, 1002, 1003, 1007, 1009}
"""What a client may be told that does not keep to the protocol: by us, or by RFC 6455."""


@dataclass
class Elsewhere:
    """Two workers with a loop of their own, in a thread: what asks them may wait."""

    url: str
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)


def filled() -> Cluster:
    cluster = Cluster(replace(SETTINGS, min_position_wait_s=0.01, ws_init_timeout_s=2.0))
    for number in range(30):
        cluster.put("users", f"k{number}", {"seen": number})
        cluster.put("counts", f"k{number}", number, start_ms=number % 3 * SIZE_MS)
    return cluster


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    running = filled().run([0], [1, 2])
    workers = asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result(30)
    yield Elsewhere(workers[0].url, loop)
    asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


SCHEMA = schemathesis.openapi.from_dict(openapi.document(version()))


@pytest.mark.parametrize("route", [r for r in ROUTES if r.name not in NOT_HERE], ids=lambda route: route.name)
@pytest.mark.filterwarnings("ignore")  # schemathesis tells what it can't make of a schema
def test_what_the_description_allows_is_answered_as_it_says(elsewhere: Elsewhere, route: Any) -> None:
    operation = SCHEMA[route.path][route.method.upper()]

    @QUICK
    @given(operation.as_strategy())
    def ask(case: Any) -> None:
        if "table" in case.path_parameters:
            # A random name is no table: every second one is.
            case.path_parameters["table"] = ("users", "counts", "none")[len(str(case.query)) % 3]
        answer = case.call(base_url=elsewhere.url, timeout=20)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        assert answer.status_code != 503 or "retry-after" in answer.headers
        case.validate_response(answer, checks=list(HELD_TO))

    ask()


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
SUBSCRIBE = st.fixed_dictionaries(
    {"t": st.just("subscribe"), "id": st.sampled_from(["a", "b", "c"]) | st.text(max_size=5)},
    optional={
        "table": st.sampled_from(["users", "counts", "totals", "none"]),
        "topic": st.sampled_from(["events", "none"]),
        "where": st.sampled_from(["value > 1", "a in ['b']"]) | st.text(max_size=10),
        "key": ANY_JSON,
        "keys": st.lists(ANY_JSON, max_size=3),
        "prefix": st.text(max_size=5) | ANY_JSON,
        "window": st.sampled_from(["current", "closed", "all", "no"]),
        "snapshot": st.booleans(),
        "since": st.none() | st.text(max_size=30) | st.sampled_from(["0~", "0~0:7", "0~0:0,9:1"]),
        "mode": st.sampled_from(["all", "latest"]),
        "max_hz": st.floats(allow_nan=False, allow_infinity=False),
    },
)
OTHERS = st.fixed_dictionaries(
    {"t": st.sampled_from(["init", "unsubscribe", "ping", "publish", ""])},
    optional={
        "id": st.sampled_from(["a", "b"]) | ANY_JSON,
        "token": ANY_JSON,
        "topic": st.sampled_from(["events", "none"]),
        "value": ANY_JSON,
        "key": ANY_JSON,
        "headers": ANY_JSON,
    },
)
FRAMES = st.lists(
    (SUBSCRIBE | OTHERS | ANY_JSON).map(json.dumps) | st.text(max_size=40) | st.binary(max_size=40),
    max_size=6,
)


@QUICK
@given(FRAMES, st.booleans())
def test_whatever_a_client_says_the_connection_ends_as_documented_or_goes_on(
    elsewhere: Elsewhere, frames: list[str | bytes], greets: bool
) -> None:
    elsewhere.run(converse(elsewhere.url, frames, greets=greets))


async def converse(url: str, frames: list[str | bytes], *, greets: bool) -> None:
    """Says all of it, and a ping at the end: a pong comes, or one of the documented codes."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url + "/v1/ws", protocols=(SUBPROTOCOL,)) as socket,
    ):
        if greets:
            await socket.send_str('{"t":"init"}')
        for frame in (*frames, '{"t":"ping"}'):
            try:
                await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))
            except ConnectionError:
                break
        async with asyncio.timeout(20):
            while True:
                received = await socket.receive()
                if received.type is not aiohttp.WSMsgType.TEXT:
                    assert socket.close_code in CLOSES, (socket.close_code, received)
                    break
                if json.loads(received.data)["t"] == "pong":
                    break
        async with session.get(url + "/healthz") as response:
            assert response.status == 200


@QUICK
@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_whatever_bytes_come_the_worker_goes_on(elsewhere: Elsewhere, raw: bytes, upgraded: bool) -> None:
    elsewhere.run(throw(elsewhere.url, raw, upgraded=upgraded))


UPGRADE = (
    "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
).encode()


async def throw(url: str, raw: bytes, *, upgraded: bool) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write((UPGRADE if upgraded else b"") + raw)
    writer.write_eof()
    async with asyncio.timeout(20):
        try:
            said = await reader.read()
        except ConnectionError:
            said = b""
    writer.close()
    assert not said.startswith(b"HTTP/1.1 5"), (raw, said)
    async with aiohttp.ClientSession() as session, session.get(url + "/healthz") as response:
        assert response.status == 200
