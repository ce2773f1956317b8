"""One WebSocket for everything that is live: it comes back by itself, to the next worker where there are
several.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import aiohttp

from streamflow.client.errors import ClientError, OutcomeUnknown, Unreachable
from streamflow.client.http import FIRST_WAIT_S, NEXT_WORKER_S, Workers, current_token, jittered
from streamflow.client.messages import SUBPROTOCOL, Place, Reason, Said, State, encode, hear, refusal

WAIT_MAX_S: Final = 8.0
AGAIN_S: Final = 1.0
"""A subscription that was refused for now is asked for again after so long."""
OPEN_S: Final = 10.0
"""From connecting to ``ack``."""
SILENT_S: Final = 5.0
"""A connection that says nothing for so long is asked whether it lives, and has as long again to answer."""
CLOSE_S: Final = 2.0
ID_MAX: Final = 100

ABNORMAL: Final = 1006
UNAUTHORIZED: Final = 4401
HOPELESS: Final = {
    1008: "policy",
    1009: "too-large",
    4400: "bad-message",
    4403: "forbidden",
    4406: "subprotocol",
}
REFUSED: Final = {401: UNAUTHORIZED, 403: 4403}
"""Statuses that the upgrade may be refused with, as close codes."""


class Subscriber(Protocol):
    """What is subscribed to over a connection, as the connection sees it."""

    id: str

    def wanted(self) -> dict[str, Any]:
        """The members of its ``subscribe``."""
        ...

    def refused_by(self, features: frozenset[str]) -> Reason | None:
        """Why a worker with these features is not to be asked."""
        ...

    def hear(self, said: Said) -> None: ...

    def lost(self, reason: Reason) -> None:
        """Nothing comes for now."""
        ...

    def end(self, reason: Reason) -> None:
        """Nothing comes any more."""
        ...


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a connection ended; ``was_open``: it had been acknowledged."""

    code: int
    text: str
    was_open: bool
    drain_s: float | None = None


@dataclass(slots=True, eq=False)
class _Publishing:
    frame: bytes
    done: asyncio.Future[Place] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_sent: bool = False

    def send_to(self, outbox: asyncio.Queue[bytes]) -> None:
        self.is_sent = True
        outbox.put_nowait(self.frame)


class Connection:
    """`add` opens it. ``state``: ``stale`` when it was lost and comes back."""

    def __init__(self, workers: Workers) -> None:
        self.state: State = "connecting"
        self.reason: Reason | None = None
        self.features: frozenset[str] = frozenset()
        self._workers = workers
        self._subscribers: dict[str, Subscriber] = {}
        self._publishing: dict[str, _Publishing] = {}
        self._refused: set[str] = set()  # ids to be asked for again
        self._uses: dict[str, int] = {}  # table or topic -> how many ids were made of it
        self._numbers = itertools.count(1)
        self._at = 0  # index of the worker
        self._tries = 0  # since the last `ack`
        self._heard_at: float | None = None
        self._outbox: asyncio.Queue[bytes] | None = None  # while it is open
        self._task: asyncio.Task[None] | None = None

    @property
    def age_s(self) -> float | None:
        """How long ago it was last heard of."""
        return None if self._heard_at is None else asyncio.get_running_loop().time() - self._heard_at

    def next_id(self, name: str) -> str:
        """The same for most clients, so that a worker encodes once for all; never used twice."""
        uses = self._uses[name] = self._uses.get(name, 0) + 1
        return name[:ID_MAX] if uses == 1 else f"{name[:ID_MAX]}#{uses}"

    def add(self, subscriber: Subscriber) -> None:
        self._subscribers[subscriber.id] = subscriber
        if self.state == "closed":
            assert self.reason is not None
            self._end(subscriber, self.reason)
        elif self._outbox is not None:
            self._ask(subscriber)
        else:
            self._start()

    def remove(self, subscriber: Subscriber) -> None:
        if self._subscribers.pop(subscriber.id, None) is not None:
            self._say({"t": "unsubscribe", "id": subscriber.id})

    def _end(self, subscriber: Subscriber, reason: Reason) -> None:
        self._subscribers.pop(subscriber.id, None)
        subscriber.end(reason)

    def _ask(self, subscriber: Subscriber) -> None:
        reason = subscriber.refused_by(self.features)
        if reason is not None:
            self._end(subscriber, reason)
        else:
            self._say({"t": "subscribe", "id": subscriber.id, **subscriber.wanted()})

    def _say(self, message: dict[str, Any]) -> None:
        if self._outbox is not None:
            self._outbox.put_nowait(encode(message))

    async def publish(self, members: dict[str, Any], patience_s: float) -> Place:
        """Raises ClientError, Unreachable and OutcomeUnknown."""
        if self.state == "closed":
            assert self.reason is not None
            raise ClientError(self.reason.code, self.reason.message)
        number = f"p{next(self._numbers)}"
        publishing = _Publishing(encode({"t": "publish", "id": number, **members}))
        self._publishing[number] = publishing
        try:
            if self._outbox is None:
                self._start()
            else:
                self._publish(publishing)
            async with asyncio.timeout(patience_s):
                place = await publishing.done
        except TimeoutError:
            if publishing.is_sent:
                raise OutcomeUnknown("outcome-unknown", "the worker has not answered", retry=True) from None
            raise Unreachable("unreachable", "no worker could be reached", retry=True) from None
        finally:
            self._publishing.pop(number, None)
        return place

    def _publish(self, publishing: _Publishing) -> None:
        assert self._outbox is not None
        if "publish" in self.features:
            publishing.send_to(self._outbox)
        else:
            text = "this worker takes no events from clients over the WebSocket"
            publishing.done.set_exception(ClientError("not-supported", text))

    # -- coming and going ----------------------------------------------------------------------

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="streamflow-client")

    async def stop(self, reason: Reason) -> None:
        """Closes it; everything that is subscribed to ends with ``reason``."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._finish(reason)

    def _finish(self, reason: Reason) -> None:
        self.state, self.reason = "closed", reason
        for subscriber in list(self._subscribers.values()):
            self._end(subscriber, reason)
        for publishing in self._publishing.values():
            if not publishing.done.done():
                publishing.done.set_exception(ClientError(reason.code, reason.message))

    async def _run(self) -> None:
        """Stays connected, with growing waits between attempts, until that can't help."""
        while True:
            ended = await self._converse()
            self._outbox = None
            for publishing in self._publishing.values():
                if publishing.is_sent and not publishing.done.done():
                    text = "the connection was lost before the worker had answered"
                    publishing.done.set_exception(OutcomeUnknown("outcome-unknown", text, retry=True))
            if ended.code == UNAUTHORIZED and not ended.was_open:
                self._finish(Reason("unauthorized", ended.text or "a valid token is needed"))
                return
            if ended.code in HOPELESS:
                self._finish(Reason(HOPELESS[ended.code], ended.text or f"closed with {ended.code}"))
                return
            code = "unauthorized" if ended.code == UNAUTHORIZED else "connection-lost"
            self.reason = Reason(code, ended.text or f"closed with {ended.code}")
            self.state = "connecting" if self._heard_at is None else "stale"
            for subscriber in list(self._subscribers.values()):
                subscriber.lost(self.reason)
            await asyncio.sleep(self._next_wait_s(ended.drain_s))

    def _next_wait_s(self, drain_s: float | None) -> float:
        """How long until the next try, which is the next worker's."""
        count = len(self._workers.urls)
        tries_before, self._tries = self._tries, self._tries + 1
        self._at = (self._at + 1) % count
        if drain_s is not None:
            # All clients of a worker that goes come at once: they spread over the time that it asked for.
            return drain_s * random.uniform(*((0.0, 1.0) if count > 1 else (0.75, 1.25)))
        if self._tries % count:
            return jittered(NEXT_WORKER_S)
        return jittered(min(FIRST_WAIT_S * 2.0 ** min(tries_before // count, 10), WAIT_MAX_S))

    async def _converse(self) -> _Ended:
        """One connection, until it ends."""
        try:
            async with asyncio.timeout(OPEN_S) as opening, self._opened() as socket:
                ended = await self._acknowledged(socket)
                if ended is not None:
                    return ended
                opening.reschedule(None)
                return await self._listen(socket)
        except aiohttp.WSServerHandshakeError as exc:
            return _Ended(REFUSED.get(exc.status, ABNORMAL), f"{exc.status} {exc.message}", was_open=False)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            return _Ended(ABNORMAL, f"{type(exc).__name__}: {exc}", was_open=self._outbox is not None)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        token = await current_token(self._workers.token)
        async with self._workers.session.ws_connect(
            f"{self._workers.urls[self._at]}/v1/ws",
            protocols=(SUBPROTOCOL,),
            max_msg_size=0,  # a worker's messages are what they are
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
        ) as socket:
            await socket.send_str(encode({"t": "init", **({"token": token} if token else {})}).decode())
            yield socket

    async def _acknowledged(self, socket: aiohttp.ClientWebSocketResponse) -> _Ended | None:
        received = await socket.receive()
        if received.type is not aiohttp.WSMsgType.TEXT:
            return _closed(socket, received, was_open=False)
        said = hear(received.data)
        if said.t != "ack":
            return _Ended(ABNORMAL, f"no {SUBPROTOCOL} is spoken here", was_open=False)
        self._tries = 0
        self._heard_at = asyncio.get_running_loop().time()
        self.features = frozenset(said.features)
        self.state, self.reason = "live", None
        self._outbox = asyncio.Queue()
        self._refused.clear()
        for subscriber in list(self._subscribers.values()):
            self._ask(subscriber)
        for publishing in self._publishing.values():
            if not publishing.done.done():
                self._publish(publishing)
        return None

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> _Ended:
        assert self._outbox is not None
        sender = asyncio.create_task(self._send(socket, self._outbox))
        drain_s: float | None = None
        is_asked = False
        try:
            while True:
                try:
                    received = await socket.receive(timeout=SILENT_S)
                except TimeoutError:
                    if is_asked:
                        return _Ended(ABNORMAL, f"silent for {2 * SILENT_S:g} s", was_open=True)
                    is_asked = True
                    self._say({"t": "ping"})
                    continue
                if received.type is not aiohttp.WSMsgType.TEXT:
                    return _closed(socket, received, was_open=True, drain_s=drain_s)
                is_asked = False
                self._heard_at = asyncio.get_running_loop().time()
                said = hear(received.data)
                if said.t == "draining":
                    drain_s = said.reconnect_in_ms / 1_000
                else:
                    self._take(said)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, outbox: asyncio.Queue[bytes]) -> None:
        while True:
            await socket.send_str((await outbox.get()).decode())

    def _take(self, said: Said) -> None:
        publishing = self._publishing.get(said.id or "")
        subscriber = self._subscribers.get(said.id or "")
        if publishing is not None and said.t in ("published", "error"):
            if publishing.done.done():
                return
            if said.t == "error":
                publishing.done.set_exception(refusal(said))
            else:
                publishing.done.set_result(
                    Place(int(said.position["partition"]), str(said.position["offset"]))
                )
        elif subscriber is None:
            return
        elif said.t != "error":
            subscriber.hear(said)
        elif not said.retry:
            self._end(subscriber, said.why)
        else:
            subscriber.lost(said.why)
            if not self._refused:
                asyncio.get_running_loop().call_later(jittered(AGAIN_S), self._ask_again, self._outbox)
            self._refused.add(subscriber.id)

    def _ask_again(self, outbox: asyncio.Queue[bytes] | None) -> None:
        if outbox is not self._outbox or outbox is None:
            return  # another connection, which has asked for all
        refused, self._refused = self._refused, set()
        for each in refused & self._subscribers.keys():
            self._ask(self._subscribers[each])


def _closed(
    socket: aiohttp.ClientWebSocketResponse,
    received: aiohttp.WSMessage,
    *,
    was_open: bool,
    drain_s: float | None = None,
) -> _Ended:
    code = socket.close_code or ABNORMAL
    text = received.extra if isinstance(received.extra, str) else ""
    return _Ended(code, text, was_open, drain_s)
