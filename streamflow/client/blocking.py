"""The client without asyncio: the same `Client`, with an event loop of its own in a thread behind it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from streamflow.client import client, live
from streamflow.client.client import Time
from streamflow.client.http import Token
from streamflow.client.live import Mode
from streamflow.client.messages import Change, Page, Place, Position, Reason, Row, State
from streamflow.client.rows import Rows as AsyncRows
from streamflow.errors import StreamflowError

__all__ = ["Client", "LiveTable", "Rows"]

T = TypeVar("T")


class _Loop:
    """An event loop in a thread, which ends with the process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="streamflow-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` returns or raises. An interrupt cancels it."""
        self._check(work)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """What ``function`` returns, called in the loop's thread, between two steps of what is live."""

        async def called() -> T:
            return function()

        return self.wait(called())

    def _check(self, work: Coroutine[Any, Any, T]) -> None:
        if self._loop.is_closed() or not self._thread.is_alive():
            work.close()
            raise StreamflowError("the client is closed")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()


class Rows:
    """``for row in rows``; see `streamflow.client.Rows`."""

    def __init__(self, loop: _Loop, listed: AsyncRows) -> None:
        self._loop = loop
        self._rows = listed

    def __iter__(self) -> Iterator[Row]:
        return (row for page in self.pages() for row in page.rows)

    def pages(self) -> Iterator[Page]:
        pages = self._rows.pages()
        while True:
            page = self._loop.wait(_next(pages))
            if page is None:
                return
            yield page

    def to_list(self) -> list[Row]:
        return self._loop.wait(self._rows.to_list())

    def to_dicts(self) -> list[dict[str, Any]]:
        return self._loop.wait(self._rows.to_dicts())

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``. Raises ImportError without pandas."""
        return self._loop.wait(self._rows.to_pandas())

    def to_polars(self) -> Any:
        """A ``polars.DataFrame``. Raises ImportError without polars."""
        return self._loop.wait(self._rows.to_polars())

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table``. Raises ImportError without pyarrow."""
        return self._loop.wait(self._rows.to_arrow())


async def _next(pages: AsyncIterator[Page]) -> Page | None:
    return await anext(pages, None)


class LiveTable(Mapping[Any, Any]):
    """See `streamflow.client.LiveTable`. ``with`` waits until it is live, and ends it.

    Each look at it is at one moment, between two steps; a loop over it is over the keys that it began with.
    """

    def __init__(self, loop: _Loop, table: live.LiveTable) -> None:
        self._loop = loop
        self._table = table

    def __getitem__(self, key: object) -> Any:
        return self._loop.call(lambda: self._table[key])

    def __contains__(self, key: object) -> bool:
        return self._loop.call(lambda: key in self._table)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loop.call(lambda: list(self._table)))

    def __len__(self) -> int:
        return self._loop.call(lambda: len(self._table))

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def state(self) -> State:
        return self._table.state

    @property
    def reason(self) -> Reason | None:
        return self._table.reason

    @property
    def age_s(self) -> float | None:
        return self._loop.call(lambda: self._table.age_s)

    @property
    def position(self) -> Position:
        return self._table.position

    @property
    def missing(self) -> tuple[int, ...]:
        return self._table.missing

    @property
    def watermark(self) -> datetime | None:
        return self._table.watermark

    @property
    def row_count(self) -> int:
        return self._table.row_count

    def row(self, key: object, start: datetime | None = None) -> Row | None:
        return self._loop.call(lambda: self._table.row(key, start))

    def windows(self, key: object) -> list[Row]:
        return self._loop.call(lambda: self._table.windows(key))

    def rows(self) -> list[Row]:
        return self._loop.call(lambda: list(self._table.rows()))

    def to_dicts(self) -> list[dict[str, Any]]:
        return self._loop.call(self._table.to_dicts)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` of the rows as they are now. Raises ImportError without pandas."""
        return self._loop.call(self._table.to_pandas)

    def to_polars(self) -> Any:
        """A ``polars.DataFrame`` of the rows as they are now. Raises ImportError without polars."""
        return self._loop.call(self._table.to_polars)

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table`` of the rows as they are now. Raises ImportError without pyarrow."""
        return self._loop.call(self._table.to_arrow)

    def changes(self, timeout_s: float | None = None) -> Iterator[Change]:
        """What becomes of the rows from this call on; ends when nothing does for ``timeout_s``."""
        return self._changes(self._loop.call(self._table.changes), timeout_s)

    def _changes(self, changes: live.Changes, timeout_s: float | None) -> Iterator[Change]:
        while True:
            change = self._loop.wait(_next_within(changes, timeout_s))
            if change is None:
                return
            yield change

    def ready(self, timeout_s: float | None = None) -> Self:
        """Returns when it is live. Raises ClientError when it can't be, TimeoutError after ``timeout_s``."""
        self._loop.wait(self._table.ready(timeout_s))
        return self

    def close(self) -> None:
        if self._loop.is_running:
            self._loop.wait(self._table.close())

    def __enter__(self) -> Self:
        try:
            return self.ready()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _next_within(changes: live.Changes, timeout_s: float | None) -> Change | None:
    try:
        async with asyncio.timeout(timeout_s):
            return await anext(changes)
    except (TimeoutError, StopAsyncIteration):
        return None


class Client:
    """See `streamflow.client.Client`: the same methods, each of which returns when it has its answer.

    For any number of threads. ``token``'s function is called in the thread behind it.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: Token = None,
        patience_s: float = 15.0,
        answer_s: float = 10.0,
    ) -> None:
        self._client = client.Client(urls, token=token, patience_s=patience_s, answer_s=answer_s)
        self._loop = _Loop()

    @property
    def state(self) -> State:
        return self._client.state

    @property
    def features(self) -> frozenset[str]:
        return self._client.features

    def close(self) -> None:
        """Ends what is live, the connections and the thread. Idempotent."""
        if self._loop.is_running:
            self._loop.wait(self._client.close())
            self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def tables(self) -> list[dict[str, Any]]:
        return self._loop.wait(self._client.tables())

    def table(self, table: str) -> dict[str, Any]:
        return self._loop.wait(self._client.table(table))

    def get(
        self,
        table: str,
        key: object,
        *,
        at: Time | None = None,
        min_position: Mapping[str, str] | None = None,
    ) -> Row | None:
        return self._loop.wait(self._client.get(table, key, at=at, min_position=min_position))

    def rows(
        self,
        table: str,
        *,
        start: Time | None = None,
        end: Time | None = None,
        min_position: Mapping[str, str] | None = None,
        partial: bool = False,
        **parameters: object,
    ) -> Rows:
        listed = self._client.rows(
            table, start=start, end=end, min_position=min_position, partial=partial, **parameters
        )
        return Rows(self._loop, listed)

    def windows(
        self,
        table: str,
        key: object,
        *,
        start: Time | None = None,
        end: Time | None = None,
        partial: bool = False,
        **parameters: object,
    ) -> Rows:
        listed = self._client.windows(table, key, start=start, end=end, partial=partial, **parameters)
        return Rows(self._loop, listed)

    def json(self, path: str, **query: object) -> Any:
        return self._loop.wait(self._client.json(path, **query))

    def live(
        self,
        table: str,
        *,
        keys: Sequence[object] | None = None,
        prefix: str | None = None,
        window: Literal["current", "closed", "all"] = "all",
        mode: Mode = "latest",
        max_hz: float | None = None,
    ) -> LiveTable:
        made = self._loop.call(
            lambda: self._client.live(
                table, keys=keys, prefix=prefix, window=window, mode=mode, max_hz=max_hz
            )
        )
        return LiveTable(self._loop, made)

    def send(
        self,
        topic: str,
        value: object,
        *,
        key: object = None,
        headers: Mapping[str, str] | None = None,
        timestamp: Time | None = None,
        partition: int | None = None,
        idempotency_key: str | None = None,
    ) -> Place:
        return self._loop.wait(
            self._client.send(
                topic,
                value,
                key=key,
                headers=headers,
                timestamp=timestamp,
                partition=partition,
                idempotency_key=idempotency_key,
            )
        )

    def send_many(
        self, topic: str, events: Sequence[Mapping[str, object]], *, idempotency_key: str | None = None
    ) -> list[Place]:
        return self._loop.wait(self._client.send_many(topic, events, idempotency_key=idempotency_key))

    def publish(
        self, topic: str, value: object, *, key: object = None, headers: Mapping[str, str] | None = None
    ) -> Place:
        return self._loop.wait(self._client.publish(topic, value, key=key, headers=headers))
