"""Questions to agents (`ask`, `map`, `join` ...): the answers on their way back.

A question carries the topic that the answer is wanted in and an id, in its headers, or around its value
where the agent was declared with ``use_reply_headers=False``. The wire form is stock Faust's, so that the
two can ask each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Generator
from typing import Any
from weakref import WeakSet

from faust.agents.models import ModelReqRepResponse, ReqRepRequest, ReqRepResponse
from faust.agents.replies import ReplyPromise
from faust.models import maybe_model
from faust.types import EventT, ModelT
from mode.utils.compat import want_str

from streamflow.app.interface import AppT, PromiseT
from streamflow.app.topics.serializers import SelfDescribingCodec
from streamflow.errors import DecodeError, TransportError
from streamflow.state.event_context import EventContext, current_context
from streamflow.transports.base import LogReader

logger = logging.getLogger(__name__)

READ_WAIT_MS = 200
RETRY_WAIT_S = 0.2
PRUNE_FROM = 10_000
HEADER_TO = "Faust-Ag-ReplyTo"
HEADER_ID = "Faust-Ag-CorrelationId"


def question_in(event: EventT[Any]) -> tuple[str, str] | None:
    """(topic to answer in, id of the question) of an event, if it is one."""
    if isinstance(event.value, ReqRepRequest):
        return event.value.reply_to, event.value.correlation_id
    headers = event.headers
    if not headers or not headers.get(HEADER_TO):
        return None
    return want_str(headers[HEADER_TO]), want_str(headers.get(HEADER_ID) or b"")


def unwrapped(value: object) -> Any:
    """The value that was asked with."""
    return value.value if isinstance(value, ReqRepRequest) else value


async def answer(app: AppT, event: EventT[Any], value: object) -> None:
    """Sends what an agent yielded to whoever asked; part of the event's checkpoint, as all it sends."""
    question = question_in(event)
    if question is None:
        return
    reply_to, correlation_id = question
    kind = ModelReqRepResponse if isinstance(value, ModelT) else ReqRepResponse
    response = kind(key=event.key, value=value, correlation_id=correlation_id)
    await app.topic(reply_to, partitions=1).send(key=None, value=response)


class EventReplyPromise(ReplyPromise):
    """Of an answer. Raises RuntimeError when it is awaited inside the event whose checkpoint asks."""

    def ask_with(self, context: EventContext | None) -> None:
        self._context, self._position = context, -1 if context is None else context.position

    def __await__(self) -> Generator[Any, None, Any]:
        context = self._context
        if context is not None and context is current_context.get() and context.holds(self._position):
            raise RuntimeError(
                "the question goes out with the checkpoint of this event, which would wait for the answer: "
                "await it after the event, or ask from a task, a timer or a page"
            )
        return (yield from super().__await__())

    __iter__ = __await__


class ReplyConsumer:
    """Follows reply topics and fulfils promises, where Faust has a consumer of that name.

    Answers are read from the log as it stands when the first question goes out.
    """

    def __init__(self, app: AppT) -> None:
        self.app = app
        self._codec = SelfDescribingCodec()
        self._waiting: dict[str, WeakSet[PromiseT]] = defaultdict(WeakSet)
        self._following: dict[str, asyncio.Task[None]] = {}
        self._prune_at = PRUNE_FROM  # promises that nobody holds any more are forgotten from here on
        self._starting = asyncio.Lock()

    async def add(self, correlation_id: str, promise: PromiseT) -> None:
        """``promise.fulfill(id, value)`` is called when the answer comes."""
        if len(self._waiting) >= self._prune_at:
            self._waiting = defaultdict(WeakSet, {name: left for name, left in self._waiting.items() if left})
            self._prune_at = max(PRUNE_FROM, 2 * len(self._waiting))
        self._waiting[correlation_id].add(promise)
        await self.follow(promise.reply_to)

    async def follow(self, topic: str) -> None:
        """Begins to read a reply topic at its end. To be called before the question is sent."""
        async with self._starting:
            task = self._following.get(topic)
            if task is not None and not task.done():
                return
            producer = await self.app.record_producer()
            engine = await self.app.connected_engine()
            if not producer.knows(topic):
                await producer.learn(topic, 1, retention_s=self.app.conf.reply_expires)
            places = [(topic, partition) for partition in range(engine.topology.topics.partitions(topic))]
            ends = await engine.transport.high_watermarks(places)
            reader = engine.transport.log_reader()
            await reader.assign({at: ends.get(at, 0) for at in places})
            work = self._read(reader, topic)
            self._following[topic] = asyncio.create_task(work, name=f"streamflow-replies-{topic}")

    async def _read(self, reader: LogReader, topic: str) -> None:
        try:
            while True:
                try:
                    batches = await reader.read(READ_WAIT_MS)
                except TransportError as exc:
                    logger.warning("can't read replies of %s, trying again: %s", topic, exc)
                    await asyncio.sleep(RETRY_WAIT_S)
                    continue
                for batch in batches:
                    for offset, raw in zip(batch.offsets, batch.values, strict=True):
                        self._take(f"{topic}@{offset}", raw)
        finally:
            await reader.close()

    def _take(self, place: str, raw: bytes | None) -> None:
        try:
            response = self._codec.decode(raw)
        except DecodeError as exc:
            logger.error("%s is no reply: %s", place, exc)
            return
        if not isinstance(response, ReqRepResponse):
            logger.error("%s is no reply", place)
            return
        for promise in self._waiting.pop(response.correlation_id, ()):
            if not promise.done():
                promise.fulfill(response.correlation_id, maybe_model(response.value))

    async def close(self) -> None:
        """Stops to read; promises that wait are cancelled."""
        following, self._following = self._following, {}
        for task in following.values():
            task.cancel()
        await asyncio.gather(*following.values(), return_exceptions=True)
        for promises in self._waiting.values():
            for promise in promises:
                promise.cancel()
        self._waiting.clear()
