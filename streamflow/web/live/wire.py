"""WebSocket frames (RFC 6455): written whole, so that one serves every client, and read without a task.

What a client sends is read as it comes in: masked, bounded, text in UTF-8. A message may be compressed where
that was agreed on (RFC 7692), each by itself, so that a compressed frame serves every client as well.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from enum import IntEnum
from typing import Final

_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TAIL: Final = b"\x00\x00\xff\xff"
"""How a flushed stretch of deflate ends; left out of a message."""
_FINAL: Final = 0x80
_COMPRESSED: Final = 0x40
_CONTROL_BYTES_MAX: Final = 125
DEFLATE_BYTES_MIN: Final = 128
"""Smaller messages go as they are, whatever was agreed on."""
_LEVEL: Final = 1
_OFFER: Final = re.compile(r"[^,]+")
DEFLATE: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


class Op(IntEnum):
    """What a frame is."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class WireError(Exception):
    """The connection must end with this close code of the standard's."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def accept_key(key: str | None) -> str | None:
    """``Sec-WebSocket-Accept`` for a client's key; ``None`` for what is no key."""
    try:
        if key is None or len(base64.b64decode(key, validate=True)) != 16:
            return None
    except (binascii.Error, ValueError):
        return None
    return base64.b64encode(hashlib.sha1(key.encode() + _MAGIC, usedforsecurity=False).digest()).decode()


def agrees_to_deflate(offers: str) -> bool:
    """Does ``Sec-WebSocket-Extensions`` offer a compression that `DEFLATE` answers?"""
    for offer in _OFFER.findall(offers):
        name, *parameters = (part.strip().lower() for part in offer.split(";"))
        if name == "permessage-deflate" and not any(
            parameter.partition("=")[0].strip() == "server_max_window_bits" and "15" not in parameter
            for parameter in parameters
        ):
            return True
    return False


def _head(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")


def frame(payload: bytes, op: Op = Op.TEXT) -> bytes:
    """One whole message."""
    return _head(_FINAL | op, len(payload)) + payload


def deflated_frame(payload: bytes) -> bytes:
    """One whole text message, compressed where that is worth it."""
    if len(payload) < DEFLATE_BYTES_MIN:
        return frame(payload)
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
    packed = packed[: -len(_TAIL)]
    return _head(_FINAL | _COMPRESSED | Op.TEXT, len(packed)) + packed


def close_frame(code: int, reason: str) -> bytes:
    """``reason`` is cut to what fits, between two characters."""
    text = reason.encode()[: _CONTROL_BYTES_MAX - 2].decode(errors="ignore").encode()
    return frame(code.to_bytes(2, "big") + text, Op.CLOSE)


class FrameReader:
    """What one client sends. Its memory is bounded by ``bytes_max``, that of a message."""

    __slots__ = ("_buffer", "_bytes_max", "_deflates", "_is_packed", "_parts", "_size")

    def __init__(self, bytes_max: int, *, deflates: bool = False) -> None:
        self._bytes_max = bytes_max
        self._deflates = deflates
        self._buffer = b""
        self._parts: list[bytes] | None = None  # of the message that is on its way
        self._size = 0
        self._is_packed = False

    def feed(self, data: bytes) -> list[tuple[Op, bytes]]:
        """The messages and control frames that are complete now. Raises WireError."""
        buffer = self._buffer + data if self._buffer else data
        found: list[tuple[Op, bytes]] = []
        at = 0
        while (head := self._read_head(buffer, at)) is not None:
            begins, size = head
            if len(buffer) < begins + 4 + size:
                break
            mask = buffer[begins : begins + 4]
            payload = _unmask(buffer[begins + 4 : begins + 4 + size], mask)
            whole = self._take(buffer[at], payload)
            at = begins + 4 + size
            if whole is not None:
                found.append(whole)
                if whole[0] is Op.CLOSE:
                    self._buffer = b""
                    return found
        self._buffer = bytes(buffer[at:])
        return found

    def _read_head(self, buffer: bytes, at: int) -> tuple[int, int] | None:
        """Where the mask begins, and the size of the payload; ``None`` while they have not come."""
        if len(buffer) < at + 2:
            return None
        first, second = buffer[at], buffer[at + 1]
        op = first & 0x0F
        self._check(first, op)
        if not second & 0x80:
            raise WireError(1002, "frames of clients are masked")
        size, begins = second & 0x7F, at + 2
        if op >= Op.CLOSE and (size > _CONTROL_BYTES_MAX or not first & _FINAL):
            raise WireError(1002, "a control frame is short, and whole")
        if size >= 126:
            wide = 2 if size == 126 else 8
            if len(buffer) < begins + wide:
                return None
            size = int.from_bytes(buffer[begins : begins + wide], "big")
            begins += wide
        if op < Op.CLOSE and self._size + size > self._bytes_max:
            raise WireError(1009, f"a message has at most {self._bytes_max} bytes")
        return begins, size

    def _check(self, first: int, op: int) -> None:
        is_start = op in (Op.TEXT, Op.BINARY)
        if op not in Op.__members__.values():
            raise WireError(1002, f"there are no frames of kind {op}")
        if first & 0x30 or (first & _COMPRESSED and not (self._deflates and is_start)):
            raise WireError(1002, "a reserved bit is set")
        if is_start and self._parts is not None:
            raise WireError(1002, "a message begins within another")
        if op == Op.CONTINUATION and self._parts is None:
            raise WireError(1002, "nothing is to be continued")

    def _take(self, first: int, payload: bytes) -> tuple[Op, bytes] | None:
        """The message or control frame that is whole with this frame."""
        op = Op(first & 0x0F)
        if op >= Op.CLOSE:
            return op, payload
        if op is Op.BINARY:
            raise WireError(4400, "messages are text")
        if op is Op.TEXT:
            self._parts, self._is_packed = [], bool(first & _COMPRESSED)
        assert self._parts is not None
        self._parts.append(payload)
        self._size += len(payload)
        if len(self._parts) > 1_000:
            raise WireError(1009, "a message has at most 1000 frames")
        if not first & _FINAL:
            return None
        whole, self._parts, self._size = b"".join(self._parts), None, 0
        return Op.TEXT, self._inflate(whole) if self._is_packed else whole

    def _inflate(self, packed: bytes) -> bytes:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            whole = inflate.decompress(packed + _TAIL, self._bytes_max + 1)
        except zlib.error:
            raise WireError(1007, "a message can't be inflated") from None
        if len(whole) > self._bytes_max:
            raise WireError(1009, f"a message has at most {self._bytes_max} bytes")
        return whole


def _unmask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    if not size:
        return b""
    pattern = mask * (size // 4 + 1)
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pattern[:size], "big")).to_bytes(size, "big")


def close_code(payload: bytes) -> int:
    """The code to answer a close frame with. Raises WireError."""
    if not payload:
        return 1000
    code = int.from_bytes(payload[:2], "big")
    known = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
    if len(payload) == 1 or not (known or 3000 <= code <= 4999):
        raise WireError(1002, "there is no such close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise WireError(1007, "a reason is text in UTF-8") from None
    return code
