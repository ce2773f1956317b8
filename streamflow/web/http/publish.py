"""Events that are published over HTTP: one, several, or a line each; sent as the app's own code would."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from streamflow.errors import StreamflowError
from streamflow.query.publishing import Outgoing
from streamflow.query.slices import Slices
from streamflow.web import encoding
from streamflow.web.http.api import Api, answer, only
from streamflow.web.http.formats import NDJSON
from streamflow.web.idempotency import Remembered, checked_key, fingerprint
from streamflow.web.problems import Problem, unavailable
from streamflow.web.publishing import bad_event, check_topic, header_pairs, send
from streamflow.web.rights import KeyLimits, caller_of

BODY_WAIT_S: Final = 30.0
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
_LINE: Final = re.compile(rb"[^\n]+")


class _Event(Struct, frozen=True, forbid_unknown_fields=True):
    """``value`` has to be there, if as null."""

    value: Raw
    key: Any = None
    headers: dict[str, str | None] | list[tuple[str, str | None]] = {}
    timestamp: str | int | None = None
    partition: int | None = None


_event = msgspec.json.Decoder(_Event)
_any = msgspec.json.Decoder(dict[str, Raw])


class Publish:
    """The handler of ``POST /v1/topics/{topic}``."""

    def __init__(self, api: Api) -> None:
        self._served = api.served
        self._settings = api.settings
        self._remembered = Remembered(api.served.clock)

    async def publish(self, request: web.Request) -> web.StreamResponse:
        """All events are checked before any is sent; answers when all are durable."""
        only(request, ())
        name = request.match_info["topic"]
        limits = caller_of(request).require_some("publish", "topic", name)
        await check_topic(self._served, caller_of(request), name)
        raw = await self._body(request)
        events = await self._events(request, raw, limits)
        key = checked_key(request.headers.get(IDEMPOTENCY_KEY))
        if key is None:
            return answer(request, await self._send(name, events))
        caller = caller_of(request).name
        done = self._remembered.of((caller, name, key), fingerprint(request.content_type, raw))
        async with done.lock:
            if done.answer is None:
                done.remember(await self._send(name, events))
                return answer(request, done.answer)
            response = answer(request, done.answer)
            response.headers["Idempotency-Replayed"] = "true"
            return response

    async def _body(self, request: web.Request) -> bytes:
        most, raw = self._settings.publish_bytes_max, bytearray()
        try:
            async with asyncio.timeout(BODY_WAIT_S):
                async for piece in request.content.iter_any():
                    raw += piece
                    if len(raw) > most:
                        detail = f"the body has more than {most} bytes (web_publish_bytes_max)"
                        raise Problem(413, "too-large", detail)
        except TimeoutError:
            raise Problem(400, "bad-request", f"the body did not come within {BODY_WAIT_S:g} s") from None
        return bytes(raw)

    async def _events(self, request: web.Request, raw: bytes, limits: KeyLimits) -> list[Outgoing]:
        """Raises Problem 400, 403 or 413."""
        pieces = _pieces(raw, lines=request.content_type == NDJSON)
        most = self._settings.publish_events_max
        if len(pieces) > most:
            detail = f"{len(pieces)} events, more than {most} (web_publish_events_max)"
            raise Problem(413, "too-large", detail)
        slices = Slices(self._served.clock)
        events = []
        for index, piece in enumerate(pieces):
            try:
                event = _outgoing(_event.decode(piece))
            except (ValueError, RecursionError) as exc:  # msgspec's errors are ValueErrors
                raise bad_event(index, str(exc)) from exc
            if not limits.allows(event.key):
                raise Problem(
                    403, "forbidden", f"event {index}: its key is none that you may publish", event=index
                )
            events.append(event)
            if slices.over():
                await slices.rest()
        return events

    async def _send(self, name: str, events: list[Outgoing]) -> dict[str, Any]:
        try:
            positions = await send(self._served, name, events)
        except StreamflowError as exc:
            detail = f"topic {name!r}: {exc}; some of the events may have been written"
            raise unavailable("broker-unavailable", detail) from exc
        return {"positions": [{"partition": p, "offset": str(offset)} for p, offset in positions]}


def _pieces(raw: bytes, *, lines: bool) -> list[bytes | Raw]:
    """The events of a body, each still as JSON. Raises Problem 400."""
    if lines:
        return [line for line in _LINE.findall(raw) if line.strip()]
    try:
        members = _any.decode(raw)
        if "events" not in members:
            return [raw]
        if len(members) > 1:
            raise Problem(400, "bad-request", "beside `events` there may be nothing")
        return list(msgspec.json.decode(members["events"], type=list[Raw]))
    except (ValueError, RecursionError) as exc:
        raise Problem(400, "bad-request", f"the body is no event, nor a list of events: {exc}") from exc


def _outgoing(event: _Event) -> Outgoing:
    """Raises ValueError."""
    stamp_ms = event.timestamp
    if isinstance(stamp_ms, str):
        stamp_ms = encoding.parse_time(stamp_ms)
    return Outgoing(
        event.key, encoding.decode(event.value), header_pairs(event.headers), stamp_ms, event.partition
    )
