"""``GET /v1/tables/{table}/changes`` and ``GET /v1/topics/{topic}/events``: the live view as server-sent
events, for clients without WebSocket.

The same messages as on ``/v1/ws``, each as an event of its name; a cursor is the event's id, so that a
browser's EventSource resumes by itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
from aiohttp import web

from streamflow.query.table_reader import TableReader
from streamflow.web import query
from streamflow.web.http.api import Api, only, read_key_text
from streamflow.web.live.hub import Hub, subscribe
from streamflow.web.live.session import Session
from streamflow.web.messages import Subscribe
from streamflow.web.peers import is_peer
from streamflow.web.problems import Problem, unavailable
from streamflow.web.publishing import no_such_topic
from streamflow.web.rights import Kind, caller_of

TOPIC_PARAMETERS: Final = ("where", "since")
REFUSED: Final = {"not-applicable": (409, "not-applicable")}
PARAMETERS: Final = ("key", "prefix", "window", "snapshot", "since", "mode", "max_hz")
SUB_ID: Final = "sse"
HEARTBEAT_MS: Final = 15_000.0
_HEAD: Final = re.compile(rb'\{"t":"(\w+)"(?:,"id":"sse","cursor":"([^"]*)")?')


class Fetched:
    """A `session.Outlet` whose messages a task fetches, since an answer of aiohttp is awaited."""

    takes_more = False
    raw = None

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._is_cut = False

    def write(self, payload: bytes) -> None:
        raise AssertionError("it never takes more")

    def wake(self) -> None:
        self._woken.set()

    def abort(self) -> None:
        self._is_cut = True
        self._woken.set()

    async def write_to(self, response: web.StreamResponse, session: Session) -> None:
        """Until the session has failed."""
        while session.failure is None and not self._is_cut:
            payload = session.next()
            if payload is not None:
                await response.write(event(payload))
                continue
            self._woken.clear()
            await self._woken.wait()


class Changes:
    """Serves the route ``changes``."""

    def __init__(self, api: Api, hub: Hub) -> None:
        self.api = api
        self.hub = hub

    async def changes(self, request: web.Request) -> web.StreamResponse:
        reader, _ = self.api.reader_of_some(request)
        return await self._serve(request, read_subscription(request, reader), ("table", reader.name))

    async def events(self, request: web.Request) -> web.StreamResponse:
        topic = request.match_info["topic"]
        caller_of(request).require_some("read", "topic", topic)
        parameters = only(request, TOPIC_PARAMETERS)
        return await self._serve(
            request, _converted(request, {"topic": topic, **parameters}), ("topic", topic)
        )

    async def _serve(
        self, request: web.Request, wanted: Subscribe, of: tuple[Kind, str]
    ) -> web.StreamResponse:
        self.hub.admit()
        if len(self.hub.sessions) >= self.hub.settings.ws_connections_max:
            raise unavailable("not-ready", "too many live clients")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )

        outlet, caller = Fetched(), caller_of(request)
        session = self.hub.new_session(outlet, caller, own_rows_only=is_peer(request))
        try:
            refused = subscribe(self.hub, session, wanted)
            if refused is not None:
                if refused.code == "forbidden":
                    raise caller.refusal("read", *of)
                if refused.code == "no-such-topic":
                    raise no_such_topic(self.hub.served, caller, of[1])
                if refused.retry:
                    raise unavailable(refused.code, refused.text)
                status, code = REFUSED.get(refused.code, (400, "bad-request"))
                raise Problem(status, code, refused.text)
            await response.prepare(request)
            await self._write(response, session, outlet)
        finally:
            self.hub.end_session(session)
        return response

    async def _write(self, response: web.StreamResponse, session: Session, outlet: Fetched) -> None:
        """Until the client has gone, or has been too slow, or this worker stops."""
        tasks = [
            asyncio.create_task(outlet.write_to(response, session)),
            asyncio.create_task(self._beat(response)),
        ]
        try:
            with suppress(ConnectionError):
                await response.write(b"retry: %d\n\n" % self.hub.settings.ws_reconnect_ms)
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                await response.write_eof()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _beat(self, response: web.StreamResponse) -> None:
        """A comment now and then: only writing shows that a client has gone."""
        while True:
            await self.hub.served.clock.sleep_ms(HEARTBEAT_MS)
            await response.write(b": still here\n\n")


def event(frame: bytes) -> bytes:
    """A message as an event. JSON has no line breaks outside of its strings, where they are escaped."""
    head = _HEAD.match(frame)
    assert head is not None, frame[:80]
    cursor = b"id: %b\n" % head[2] if head[2] else b""
    return b"event: %b\n%bdata: %b\n\n" % (head[1], cursor, frame)


def read_subscription(request: web.Request, reader: TableReader) -> Subscribe:
    """The subscription that the URL asks for. Raises Problem 400."""
    parameters = only(request, PARAMETERS)
    members: dict[str, Any] = {"table": reader.name, **parameters}
    if "key" in parameters:
        members["key"] = read_key_text(reader, parameters["key"])
    if "snapshot" in parameters:
        if parameters["snapshot"] not in ("true", "false"):
            raise query.bad_parameter("snapshot", "snapshot is true or false")
        members["snapshot"] = parameters["snapshot"] == "true"
    return _converted(request, members)


def _converted(request: web.Request, members: Mapping[str, Any]) -> Subscribe:
    """With where a browser says that it stands. Raises Problem 400."""
    members = {"t": "subscribe", "id": SUB_ID, **members}
    last = request.headers.get("Last-Event-ID")
    if last:
        members["since"] = last
    try:
        wanted = msgspec.convert(members, Subscribe, strict=False)
    except msgspec.ValidationError as exc:
        raise query.bad_parameter(str(exc).rpartition("$.")[2].rstrip("`") or "key", str(exc)) from None
    return wanted
