"""Events that come over HTTP, sent as the app's own code would send them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from streamflow.app.interface import AppT
from streamflow.app.topics.topic import Topic
from streamflow.codecs.keys import bytes_of_shown
from streamflow.errors import DecodeError, StreamflowError
from streamflow.query.publishing import Outgoing, Refused


class Publisher:
    """Of one app with a worker. What is declared is held against its types; all else is JSON."""

    def __init__(self, app: AppT) -> None:
        self._app = app
        self._topics: dict[str, Topic] = {}

    async def publish(self, topic: str, events: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Partition and offset of each, durable. All are checked before any is sent.

        Raises Refused; another StreamflowError where some may have been sent.
        """
        app, target = self._app, self._topic(topic)
        producer = await app.record_producer()
        await target.ensure_known(producer)
        records = []
        for index, event in enumerate(events):
            try:
                key, value = _key(target, event.key), _value(target, event.value)
                place = event.partition, event.timestamp_ms, event.headers
                records.append(target.placed(producer, key, value, place))
            except (TypeError, ValueError, DecodeError, StreamflowError) as exc:
                raise Refused(index, str(exc)) from exc
            if index % 100 == 99:
                await asyncio.sleep(0)
        told = []
        for record in records:
            told.append(await producer.send(record))
            app.note_sent(record, told[-1])
        answers = [await each for each in told]
        return [(each.partition, each.offset) for each in answers]

    def _topic(self, name: str) -> Topic:
        declared = [each for each in self._app.declared_topics if name in (each.topics or ())]
        for each in declared:
            if isinstance(each, Topic):
                return each
        return self._topics.setdefault(name, Topic(self._app, topics=[name]))


def _key(topic: Topic, key: object) -> Any:
    if key is None or not topic.plain_schema:
        return key
    if isinstance(key, str) and topic.key_codec.key_type in (None, bytes):
        return bytes_of_shown(key)
    return topic.key_codec.encode_json(key)


def _value(topic: Topic, value: object) -> Any:
    if isinstance(value, str) and topic.value_codec.value_type is bytes:
        return bytes_of_shown(value)
    return value
