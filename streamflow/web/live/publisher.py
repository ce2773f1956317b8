"""What one WebSocket publishes: one event after the other, each answered when it is durable."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from streamflow.errors import StreamflowError
from streamflow.query.publishing import Outgoing
from streamflow.web import encoding
from streamflow.web.live.session import Session
from streamflow.web.messages import Publish
from streamflow.web.problems import Problem
from streamflow.web.publishing import check_topic, header_pairs, send
from streamflow.web.served import Served

log = logging.getLogger(__name__)


class Publishing:
    """Of one session. What is accepted is answered, unless the connection ends before."""

    __slots__ = ("_is_over", "_served", "_session", "_task", "_waiting")

    def __init__(self, served: Served, session: Session) -> None:
        self._served = served
        self._session = session
        self._waiting: deque[Publish] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    def take(self, wanted: Publish) -> None:
        """In the order in which they come; no more wait than one client may say at once."""
        if len(self._waiting) >= 2 * self._session.settings.ws_messages_per_s_max:
            self._refuse(wanted, "too-many-waiting", "wait for the answers to those before", retry=True)
            return
        self._waiting.append(wanted)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="streamflow-live-publish")

    def end(self) -> None:
        """The connection is over: what is on its way still goes, and nothing behind it."""
        self._is_over = True
        self._waiting.clear()

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._publish(self._waiting.popleft())
        finally:
            self._task = None

    async def _publish(self, wanted: Publish) -> None:
        session, topic = self._session, wanted.topic
        try:
            limits = session.caller.require_some("publish", "topic", topic)
            if not limits.allows(wanted.key):
                raise Problem(403, "forbidden", "the key is none that you may publish")
            await check_topic(self._served, session.caller, topic)
            try:
                value = encoding.decode(wanted.value)
            except ValueError as exc:
                raise Problem(400, "bad-event", str(exc)) from exc
            event = Outgoing(wanted.key, value, header_pairs(wanted.headers))
            ((partition, offset),) = await send(self._served, topic, [event])
        except Problem as problem:
            self._refuse(wanted, problem.code, problem.detail, retry=problem.status == 503)
        except StreamflowError as exc:
            text = f"topic {topic!r}: {exc}; the event may have been written"
            self._refuse(wanted, "outcome-unknown", text)
        except Exception:
            log.exception("publishing to topic %s", topic)
            self._refuse(wanted, "internal-error", "the log of this worker has the details")
        else:
            if not self._is_over:
                position = {"partition": partition, "offset": str(offset)}
                session.say("published", id=wanted.id, position=position)

    def _refuse(self, wanted: Publish, code: str, text: str, *, retry: bool = False) -> None:
        if not self._is_over:
            self._session.say("error", id=wanted.id, code=code, message=text, retry=retry)
