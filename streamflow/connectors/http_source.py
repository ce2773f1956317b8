"""`HttpSource`: a list that a server gives out page by page is read into a topic, once.

The place is the server's own cursor; it goes with the checkpoint that holds the page before it. Asking
changes nothing there: a SIGKILL, a rebalance or a failed commit asks again with the cursor of the last
checkpoint. It is as exact as the server: behind a cursor it must give the same items in the same order, and
add new ones at the end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext

import aiohttp
import orjson

from streamflow.clock import Clock
from streamflow.connectors.base import Place, SourceBatch, SourceRecord
from streamflow.connectors.http_answers import is_worth_waiting, shown
from streamflow.errors import ConfigurationError, StreamflowError, TransientError
from streamflow.processing.circuit_breaker import CircuitBreaker


class SourceUnavailable(TransientError):
    """The server has no answer now; it is asked again."""


class UnexpectedAnswer(StreamflowError):
    """The server's answer is not what the source was declared for."""


class HttpSource:
    """Asks ``url`` for JSON, each ``poll_s`` seconds and at once while there is more.

    ``items``: the field of the answer that is the list, ``""`` where the answer is the list. Each item is a
    record's value, ``key`` the field of it that is the record's key. The next question has the parameter
    ``cursor_param`` with the cursor of the last answer: its field ``cursor``, or with ``item_cursor`` that
    field of the last item. An answer without items, or whose cursor is that of the question, says that there
    is nothing more yet. Where the last page has items and no cursor, ``item_cursor`` is the way, as there
    would be no place to go on from.

    ``headers``: such as ``Authorization``. ``breaker``: a `CircuitBreaker` around each question. Answers of
    408, 425, 429, 500 and above are waited out; others that are not 200 end the worker. Raises
    ConfigurationError.
    """

    partitions = 1

    def __init__(
        self,
        url: str,
        *,
        items: str = "items",
        cursor: str | None = "next",
        item_cursor: str | None = None,
        cursor_param: str = "after",
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        poll_s: float = 5.0,
        timeout_s: float = 30.0,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")) or poll_s <= 0 or timeout_s <= 0:
            raise ConfigurationError(f"HttpSource({url!r}): a URL, and poll_s= and timeout_s= above 0")
        if item_cursor is None and (cursor is None or not items):
            raise ConfigurationError(
                f"HttpSource({url!r}): say where the cursor is: item_cursor=, or cursor= beside items="
            )
        self._url = url
        self._items = items
        self._cursor = cursor
        self._item_cursor = item_cursor
        self._cursor_param = cursor_param
        self._key = key
        self._headers = dict(headers or {})
        self._poll_ms = poll_s * 1_000
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._breaker = breaker

    async def read(self, partition: int, place: Place, clock: Clock) -> AsyncIterator[SourceBatch]:
        """Raises SourceUnavailable, CircuitOpen, OSError, aiohttp.ClientError; UnexpectedAnswer."""
        async with aiohttp.ClientSession(timeout=self._timeout, headers=self._headers) as session:
            while True:
                with self._breaker or nullcontext():
                    data = await self._ask(session, place)
                items, behind = self._page(data)
                if items and behind is None:
                    raise UnexpectedAnswer(
                        f"{self._url}: {len(items)} items behind {place!r}, and no cursor to go on from: "
                        "is it in another field (cursor=), or in the items (item_cursor=)?"
                    )
                if items and behind != place:
                    place = behind
                    yield SourceBatch([self._record(item) for item in items], place)
                else:
                    await clock.sleep_ms(self._poll_ms)

    async def _ask(self, session: aiohttp.ClientSession, place: Place) -> object:
        params = {} if place is None else {self._cursor_param: str(place)}
        async with session.get(self._url, params=params) as answer:
            if answer.status != 200:
                what = f"{self._url} answers {answer.status}: {await shown(answer)}"
                if is_worth_waiting(answer.status):
                    raise SourceUnavailable(what)
                raise UnexpectedAnswer(what)
            try:
                return orjson.loads(await answer.read())
            except orjson.JSONDecodeError as exc:
                raise UnexpectedAnswer(f"{self._url}: the answer is no JSON: {exc}") from exc

    def _page(self, data: object) -> tuple[list[object], str | int | None]:
        items = data
        if self._items:
            items = data.get(self._items) if isinstance(data, dict) else None
        if not isinstance(items, list):
            raise UnexpectedAnswer(f"{self._url}: there is no list in {self._items or 'the answer'!r}")
        if self._item_cursor is None:
            holder, field = data, self._cursor
        else:
            holder, field = (items[-1] if items else None), self._item_cursor
        behind = holder.get(field) if isinstance(holder, dict) else None
        if behind is not None and not isinstance(behind, str | int):
            raise UnexpectedAnswer(
                f"{self._url}: the cursor {field!r} is {behind!r}, no text and no whole number"
            )
        return items, behind

    def _record(self, item: object) -> SourceRecord:
        key = item.get(self._key) if self._key is not None and isinstance(item, dict) else None
        return SourceRecord(key, orjson.dumps(item))
