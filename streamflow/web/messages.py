"""The messages of ``streamflow.v1+json``: what clients may say, and how answers are spelt.

Every message is a JSON object with its name in ``t``. Close codes beyond the standard's are `Close`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from streamflow.web import encoding

SUBPROTOCOL: Final = "streamflow.v1+json"

Id = Annotated[str, Meta(min_length=1, max_length=128)]
WindowState = Literal["current", "closed", "all"]
Mode = Literal["all", "latest"]
WINDOWS: Final = get_args(WindowState)
MODES: Final = get_args(Mode)


class Close(IntEnum):
    """Why a connection ends."""

    RESTART = 1012
    BAD_MESSAGE = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    SUBPROTOCOL = 4406
    INIT_TIMEOUT = 4408
    DUPLICATE_ID = 4409
    TOO_MANY = 4429
    SLOW = 4508


class Init(Struct, tag="init", tag_field="t", frozen=True):
    """First message of every connection."""

    token: str | None = None


class Subscribe(Struct, tag="subscribe", tag_field="t", frozen=True, kw_only=True):
    """Wants the rows of a ``table`` that a key, some keys or a prefix pick (all without), in some windows;
    or the records of a ``topic`` as they are committed, those of which ``where`` holds.

    ``since``: a cursor of this subscription from an earlier connection. Of a table only: ``mode``: ``all``
    changes in order, or the ``latest`` of each row when the client is slow. ``max_hz``: at most so many
    messages a second.
    """

    id: Id
    table: str | UnsetType = UNSET
    topic: str | UnsetType = UNSET
    where: str | UnsetType = UNSET
    key: Any = UNSET
    keys: Annotated[list[Any], Meta(min_length=1, max_length=1_000)] | UnsetType = UNSET
    prefix: str | UnsetType = UNSET
    window: WindowState = "all"
    snapshot: bool = True
    since: str | None = None
    mode: Mode = "latest"
    max_hz: Annotated[float, Meta(ge=0.1, le=100.0)] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.table, str) == isinstance(self.topic, str):
            raise ValueError("subscribe names a table or a topic")


class Publish(Struct, tag="publish", tag_field="t", frozen=True, kw_only=True):
    """Sends an event, as `POST /v1/topics/{topic}` does, where that is allowed: ``published`` answers, or
    ``error`` with this ``id``. One after the other, in the order in which they come.
    """

    id: Id
    topic: str
    value: Raw
    key: Any = None
    headers: dict[str, str | None] | list[tuple[str, str | None]] = {}


class Unsubscribe(Struct, tag="unsubscribe", tag_field="t", frozen=True):
    """Wants nothing more of a subscription."""

    id: Id


class Ping(Struct, tag="ping", tag_field="t", frozen=True):
    """Wants a `pong`: is the worker still there?"""


ClientMessage = Init | Subscribe | Unsubscribe | Publish | Ping

_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)


def read(text: str) -> ClientMessage:
    """Raises ValueError, saying what is wrong, for anything that no client may say."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc


def message(name: str, **members: object) -> bytes:
    return encoding.encode({"t": name, **members})


def splice(name: str, id_json: bytes, tail: bytes) -> bytes:
    """``{"t": name, "id": id, `` and then ``tail``, which is the same for every subscriber and is shared."""
    return b'{"t":"%b","id":%b,%b' % (name.encode(), id_json, tail)
