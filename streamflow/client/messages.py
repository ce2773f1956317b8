"""Rows, and what workers say of them over HTTP and WebSocket, decoded and checked in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from streamflow.client.errors import ClientError

SUBPROTOCOL: Final = "streamflow.v1+json"
NEVER: Final = datetime.min.replace(tzinfo=UTC)

Position = dict[str, str]
"""Source partition -> the next offset to be taken, decimal strings as in JSON."""
Operation = Literal["upsert", "delete", "expire"]
State = Literal["connecting", "live", "stale", "closed"]
"""``stale``: what is shown was right a while ago; it comes back by itself. ``closed``: it does not."""


class Window(Struct, frozen=True):
    """From ``start`` to before ``end``, UTC; ``None`` for a time that no calendar has."""

    start: datetime | None
    end: datetime | None
    state: str


class Row(Struct, frozen=True):
    """``key`` and ``value`` as JSON has them; ``window`` is ``None`` in tables without windows."""

    key: Any
    value: Any
    window: Window | None
    partition: int

    @property
    def start(self) -> datetime:
        """Of its window; before all others where there is none."""
        return NEVER if self.window is None or self.window.start is None else self.window.start

    def is_same(self, other: Row) -> bool:
        """Of two rows with one key: are they of one window and partition?"""
        mine, theirs = self.window, other.window
        return self.partition == other.partition and (
            mine is theirs
            or (
                mine is not None
                and theirs is not None
                and mine.start == theirs.start
                and mine.end == theirs.end
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Flat: key, the window's members as ``window_start``…, and the value's members, or ``value``."""
        window = self.window
        head: dict[str, Any] = {"key": self.key}
        if window is not None:
            head |= {"window_start": window.start, "window_end": window.end, "window_state": window.state}
        values = self.value if isinstance(self.value, dict) else {"value": self.value}
        return {**head, **{name: value for name, value in values.items() if name not in head}}


class Change(Row, frozen=True):
    """What became of a row: ``upsert`` has its value; after ``delete`` and ``expire`` it is gone."""

    op: Operation = "upsert"


class Page(Struct, frozen=True):
    """A page of a list. ``lag``: source partition -> records to be read. ``count``: where that was asked."""

    rows: list[Row] = []
    count: int | None = None
    next: str | None = None
    partial: bool = False
    missing_partitions: list[int] = []
    position: Position = {}
    lag: dict[str, int | None] = {}


class Place(Struct, frozen=True):
    """Where a sent event lies; ``offset`` is a decimal string."""

    partition: int
    offset: str


class TopicRecord(Struct, frozen=True):
    """A committed event of a topic; ``timestamp`` is RFC 3339."""

    partition: int
    offset: str
    key: Any = None
    value: Any = None
    timestamp: str | None = None
    headers: list[tuple[str, str | None]] = []


class Reason(Struct, frozen=True):
    """Why something is not live."""

    code: str
    message: str


class Said(Struct, frozen=True):
    """A message of a worker: ``t`` is its name; the other members are those of some."""

    t: str
    id: str | None = None
    cursor: str | None = None
    position: Any = None
    partitions: list[int] | None = None
    recovered: bool = False
    rows: list[Change] = []
    records: list[TopicRecord] = []
    more: bool = False
    watermark: datetime | None = None
    reason: str | None = None
    code: str = ""
    message: str = ""
    retry: bool = False
    features: list[str] = []
    reconnect_in_ms: float = 0.0

    @property
    def why(self) -> Reason:
        return Reason(self.code, self.message)


_encoder = msgspec.json.Encoder()
_ordered = msgspec.json.Encoder(order="deterministic")
_said: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)


def hear(text: str) -> Said:
    """Raises ValueError for what no worker says."""
    return _said.decode(text)


def encode(value: object) -> bytes:
    """JSON. Raises TypeError for what has none."""
    return _encoder.encode(value)


def canonical(key: object) -> bytes:
    """The same bytes for equal keys, whatever the order of their members."""
    return _ordered.encode(key)


def key_text(key: object) -> str:
    """A key as a URL says it: text as it is, anything else as JSON."""
    return key if isinstance(key, str) else encode(key).decode()


def time_text(at: datetime | str | None) -> str | None:
    """Raises ValueError for a time without a zone: it names no instant."""
    if not isinstance(at, datetime):
        return at
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone")
    return at.isoformat()


def position_text(position: Mapping[str, str] | None) -> str | None:
    """``{"0": "41"}`` as ``0:41``."""
    return (
        None
        if position is None
        else ",".join(f"{partition}:{offset}" for partition, offset in position.items())
    )


def refusal(said: Said) -> ClientError:
    return ClientError(said.code, said.message, retry=said.retry)
