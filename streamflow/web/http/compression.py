"""Answers in gzip or zstd, where the client takes them: piece by piece, so that no long one is a stop."""

from __future__ import annotations

import zlib
from typing import Any, Final, Protocol

import cramjam
from aiohttp import web

LEAST_BYTES: Final = 1_024
PIECE_BYTES: Final = 64 * 1024
GZIP_LEVEL: Final = 4
ZSTD_LEVEL: Final = 1


class _Encoder(Protocol):
    def piece(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class _Plain:
    def piece(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        self._made = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)

    def piece(self, data: bytes) -> bytes:
        return self._made.compress(data)

    def end(self) -> bytes:
        return self._made.flush()


class _Zstd:
    def __init__(self) -> None:
        self._made: Any = cramjam.zstd.Compressor(ZSTD_LEVEL)

    def piece(self, data: bytes) -> bytes:
        self._made.compress(data)
        return bytes(self._made.flush())

    def end(self) -> bytes:
        return bytes(self._made.finish())


ENCODERS: Final[dict[str, type[_Encoder]]] = {"zstd": _Zstd, "gzip": _Gzip}
"""The one that we would take comes first."""


class Compressed:
    """One answer. ``name`` is the encoding, empty for none; ``headers`` say so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.headers = {"Vary": "Accept-Encoding", **({"Content-Encoding": name} if name else {})}
        self._encoder: _Encoder = ENCODERS[name]() if name else _Plain()

    @classmethod
    def of(cls, request: web.BaseRequest, size: int = LEAST_BYTES) -> Compressed:
        """As the client takes it best; what is small stays as it is."""
        return cls(chosen(request.headers.get("Accept-Encoding", "")) if size >= LEAST_BYTES else "")

    def piece(self, data: bytes) -> bytes:
        return self._encoder.piece(data) if data else b""

    def end(self) -> bytes:
        return self._encoder.end()


def chosen(accepts: str) -> str:
    """The encoding that ``Accept-Encoding`` likes best among ours; empty: none. ``*`` asks for nothing."""
    weights = {name: weight for name, weight in map(weighed, accepts.lower().split(",")) if weight > 0}
    return max((name for name in ENCODERS if name in weights), key=weights.__getitem__, default="")


def weighed(item: str) -> tuple[str, float]:
    """``name;q=0.5`` as its name and weight; 0 for a weight that is none."""
    name, *options = (part.strip() for part in item.split(";"))
    for option in options:
        key, _, text = option.partition("=")
        if key.strip() == "q":
            try:
                weight = float(text)
            except ValueError:
                return name, 0.0
            return name, weight if 0 <= weight <= 1 else 0.0
    return name, 1.0
