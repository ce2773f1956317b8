"""WebSocket frames: what is read, in whatever pieces it comes, and what ends a connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.web.live.wire import (
    FrameReader,
    Op,
    WireError,
    accept_key,
    agrees_to_deflate,
    close_code,
    close_frame,
    deflated_frame,
    frame,
)
from tests.support.web_fakes import Cluster
from tests.unit.web.live.test_hub import connect

MASK = b"\x01\x80\xff\x37"


def masked(op: int, payload: bytes, *, final: bool = True, packed: bool = False) -> bytes:
    """A frame as a client sends it."""
    first = op | (0x80 if final else 0) | (0x40 if packed else 0)
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + MASK + bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


def test_the_key_of_the_rfc_is_accepted_as_there() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("key", [None, "", "short", "é", "dGhlIHNhbXBsZSBub25jZQ"])
def test_what_is_no_key_is_not_accepted(key: str | None) -> None:
    assert accept_key(key) is None


@given(st.lists(st.tuples(st.binary(max_size=300), st.integers(1, 4)), max_size=8), st.data())
def test_messages_are_read_whole_in_whatever_pieces_they_come(
    messages: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    raw, expected = b"", []
    for payload, parts in messages:
        cuts = sorted(data.draw(st.integers(0, len(payload))) for _ in range(parts - 1))
        pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for at, piece in enumerate(pieces):
            raw += masked(Op.TEXT if at == 0 else Op.CONTINUATION, piece, final=at == len(pieces) - 1)
            if data.draw(st.booleans()):
                raw += masked(Op.PING, b"p")
                expected.append((Op.PING, b"p"))
        expected.append((Op.TEXT, payload))
    reader = FrameReader(1_000)
    found = []
    while raw:
        size = data.draw(st.integers(1, len(raw)))
        found += reader.feed(raw[:size])
        raw = raw[size:]
    assert sorted(found) == sorted(expected)
    assert [payload for op, payload in found if op is Op.TEXT] == [payload for payload, _ in messages]


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_an_end(raw: bytes) -> None:
    for deflates in (False, True):
        reader = FrameReader(100, deflates=deflates)
        with contextlib.suppress(WireError):
            for _, payload in reader.feed(raw):
                assert len(payload) <= 125


@pytest.mark.parametrize(
    "raw, code",
    [
        (b"\x81\x01a", 1002),  # not masked
        (masked(Op.TEXT, b"a" * 101), 1009),
        (masked(Op.TEXT, b"a" * 60, final=False) + masked(Op.CONTINUATION, b"a" * 60), 1009),
        (masked(Op.CONTINUATION, b"a"), 1002),
        (masked(Op.TEXT, b"a", final=False) + masked(Op.TEXT, b"a"), 1002),
        (masked(3, b"a"), 1002),
        (masked(Op.PING, b"a", final=False), 1002),
        (masked(Op.PING, b"a" * 126), 1002),
        (masked(Op.TEXT, b"a", packed=True), 1002),  # nobody agreed on it
        (masked(Op.BINARY, b"a"), 4400),
        (bytes((0x81, 0xFF)) + (1 << 62).to_bytes(8, "big"), 1009),  # before any of it has come
        (masked(Op.TEXT, b"", final=False) + masked(Op.CONTINUATION, b"", final=False) * 1_000, 1009),
    ],
)
def test_what_no_client_may_send_ends_the_connection(raw: bytes, code: int) -> None:
    with pytest.raises(WireError) as caught:
        FrameReader(100).feed(raw)
    assert caught.value.code == code


def test_a_compressed_message_is_read_and_bounded() -> None:
    def packed(payload: bytes) -> bytes:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        raw = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
        return masked(Op.TEXT, raw[:-4], packed=True)

    reader = FrameReader(1_000, deflates=True)
    assert reader.feed(packed(b"a" * 1_000) + packed(b"b")) == [(Op.TEXT, b"a" * 1_000), (Op.TEXT, b"b")]
    with pytest.raises(WireError, match="1000 bytes"):
        reader.feed(packed(b"a" * 1_000_000))
    with pytest.raises(WireError, match="inflated"):
        FrameReader(1_000, deflates=True).feed(masked(Op.TEXT, b"\xff\xff\xff", packed=True))


@given(st.binary(max_size=70_000))
def test_a_frame_says_how_long_it_is(payload: bytes) -> None:
    whole = frame(payload)
    assert whole.endswith(payload)
    head = whole[: len(whole) - len(payload)]
    size = head[1] if len(head) == 2 else int.from_bytes(head[2:], "big")
    assert (head[0], size) == (0x81, len(payload))


def test_a_small_message_is_not_compressed_and_a_large_one_is() -> None:
    assert deflated_frame(b"x") == frame(b"x")
    assert len(deflated_frame(b"x" * 10_000)) < 100


@pytest.mark.parametrize(
    "offers, agrees",
    [
        ("", False),
        ("permessage-deflate", True),
        ("x-other, permessage-deflate; client_max_window_bits", True),
        ("permessage-deflate; server_max_window_bits=10", False),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", True),
        ("permessage-deflate-not", False),
    ],
)
def test_compression_is_agreed_on_as_it_is_offered(offers: str, agrees: bool) -> None:
    assert agrees_to_deflate(offers) is agrees


@pytest.mark.parametrize("payload", [b"\x03", b"\x00\x00", b"\x03\xec", b"\x03\xee", b"\x03\xe8\xff"])
def test_a_bad_close_frame_is_no_close(payload: bytes) -> None:
    with pytest.raises(WireError):
        close_code(payload)


def test_a_reason_is_cut_between_two_characters() -> None:
    assert close_frame(1_000, "ü" * 100)[4:].decode() == "ü" * 61


@pytest.mark.parametrize("asks", [True, False])
async def test_messages_are_compressed_where_that_is_asked_for(asks: bool) -> None:
    cluster = Cluster()
    cluster.put("users", "k", "x" * 10_000)
    async with cluster.run() as (served,), aiohttp.ClientSession() as session:
        url = served.url + "/v1/ws" + ("?compress=deflate" if asks else "")
        async with session.ws_connect(url, protocols=("streamflow.v1+json",), compress=15) as socket:
            assert bool(socket.compress) is asks
            await socket.send_str(json.dumps({"t": "init"}))
            # A long message is compressed by the client, too.
            await socket.send_str(json.dumps({"t": "subscribe", "id": "i" * 120, "table": "users"}))
            said = [json.loads(await socket.receive_str()) for _ in range(4)]
            assert [each["t"] for each in said] == ["ack", "subscribed", "snapshot", "synced"]
            assert said[2]["rows"][0]["value"] == "x" * 10_000
            cluster.put("users", "k", "y" * 10_000)
            assert json.loads(await socket.receive_str())["rows"][0]["value"] == "y" * 10_000


async def test_what_comes_with_the_handshake_is_heard_and_a_close_is_answered() -> None:
    async with Cluster().run() as (served,):
        host, _, port = served.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Protocol: streamflow.v1+json\r\n\r\n"
            + masked(Op.TEXT, b'{"t":"init"}')
            + masked(Op.CLOSE, (1_000).to_bytes(2, "big"))
        )
        async with asyncio.timeout(5):
            said = await reader.read()
        head, _, rest = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert b"Transfer-Encoding" not in head
        assert b'"t":"ack"' in rest
        assert rest.endswith(close_frame(1_000, ""))
        writer.close()


async def test_a_client_that_does_not_answer_is_given_up() -> None:
    cluster = Cluster().with_settings(ws_heartbeat_s=0.2)
    gone = (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    async with cluster.run() as (served,), connect(served, autoping=False) as silent, connect(served) as live:
        listening = asyncio.create_task(live.hear_until("pong"))  # who reads answers, and stays
        assert (await silent.socket.receive(timeout=5)).type is aiohttp.WSMsgType.PING
        assert (await silent.socket.receive(timeout=5)).type in gone
        await live.say("ping")
        await listening
