"""`WebhookSink`: batches of a topic's partition are posted to a URL, at least once and each time under the
same ids.

What receives them keeps no position for us. A SIGKILL before the request leaves nothing; behind it, and
before the checkpoint, the records are posted again by whoever has the partition next, and so does one whose
answer got lost. A worker that was stopped and wakes may end a request that it had begun. So a receiver keeps
the ids that it has handled, or handles a record twice with the same result. Ids hold the topic, its id where
the broker has one, the partition and the offset: within a partition they come in order, apart from those that
come again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence

import aiohttp
import orjson

from streamflow.clock import Clock, SystemClock
from streamflow.connectors.base import Delivery, SinkPartition, SinkRecord, SinkUnavailable
from streamflow.connectors.http_answers import is_worth_waiting, shown
from streamflow.errors import ConfigurationError, StreamflowError


class WebhookRefused(StreamflowError):
    """The receiver says that it will never take this: the record's fault, as far as anybody knows."""


class WebhookSink:
    """Posts a JSON array to ``url`` for each batch: of each record ``id``, ``key``, ``timestamp`` (ms) and
    ``value``.

    An answer of 200 to 299 says that all of it is taken. 408, 425, 429, 500 and above, and no answer within
    ``timeout_s`` seconds are waited out; everything else refuses the batch, whose records are then posted one
    by one.

    The headers are those of Standard Webhooks: ``webhook-id`` is the same for the same batch, and with a
    ``secret`` ``webhook-signature`` is ``v1,`` and the HMAC-SHA256 of ``id.timestamp.body`` in base64. With
    ``batch=1`` in `App.sink` each request is one record. Raises ConfigurationError.
    """

    delivery: Delivery = "at_least_once"

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        secret: str | None = None,
        timeout_s: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")) or timeout_s <= 0:
            raise ConfigurationError(
                f"WebhookSink({url!r}, timeout_s={timeout_s!r}): a URL, and more than 0 s"
            )
        self._url = url
        self._headers = dict(headers or {})
        self._secret = None if secret is None else secret.encode()
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._clock = clock or SystemClock()

    async def open(self, at: SinkPartition) -> WebhookWriter:
        session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers)
        return WebhookWriter(at, self._url, self._secret, session, self._clock)


class WebhookWriter:
    """Of one partition. It has no position: nobody keeps one."""

    position: int | None = None

    def __init__(
        self,
        at: SinkPartition,
        url: str,
        secret: bytes | None,
        session: aiohttp.ClientSession,
        clock: Clock,
    ) -> None:
        self._at = at
        self._url = url
        self._secret = secret
        self._session = session
        self._clock = clock

    async def write(self, records: Sequence[SinkRecord]) -> None:
        """Raises SinkUnavailable, OSError, TimeoutError, aiohttp.ClientError; WebhookRefused; ValueError."""
        if not records:
            return
        body = orjson.dumps([self._event(record) for record in records])
        headers = self._signed(f"{records[0].id(self._at)}+{len(records)}", body)
        posted = self._session.post(self._url, data=body, headers=headers, allow_redirects=False)
        async with posted as answer:
            if 200 <= answer.status < 300:
                return
            place = f"{self._at}@{records[0].offset}"
            what = f"{self._url} answers {answer.status} to {place}: {await shown(answer)}"
            if is_worth_waiting(answer.status):
                raise SinkUnavailable(what)
            raise WebhookRefused(what)

    def _event(self, record: SinkRecord) -> dict[str, object]:
        try:
            value = None if record.value is None else orjson.loads(record.value)
            key = None if record.key is None else record.key.decode()
        except ValueError as exc:
            raise ValueError(
                f"{self._at}@{record.offset}: its key is no text, or its value no JSON: {exc}"
            ) from exc
        return {"id": record.id(self._at), "key": key, "timestamp": record.timestamp_ms, "value": value}

    def _signed(self, batch_id: str, body: bytes) -> dict[str, str]:
        stamp = str(self._clock.now_ms() // 1_000)
        headers = {"content-type": "application/json", "webhook-id": batch_id, "webhook-timestamp": stamp}
        if self._secret is not None:
            text = b".".join((batch_id.encode(), stamp.encode(), body))
            digest = hmac.new(self._secret, text, hashlib.sha256).digest()
            headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        return headers

    async def close(self) -> None:
        await self._session.close()
