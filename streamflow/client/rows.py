"""A list of rows: an async iterator over its pages, whichever workers answer them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from streamflow.client import frames
from streamflow.client.errors import Partial
from streamflow.client.http import FIRST_WAIT_S, Workers, jittered
from streamflow.client.messages import Page, Row

_pages: msgspec.json.Decoder[Page] = msgspec.json.Decoder(Page)


class Rows:
    """``async for row in rows``; nothing is asked before.

    ``takes_partial``: pages of which partitions are missing, too.

    All methods raise `ClientError`; `Partial`, where nobody answered for some partitions for ``patience_s``.
    """

    def __init__(
        self, workers: Workers, path: str, query: Mapping[str, object], *, takes_partial: bool
    ) -> None:
        self._workers = workers
        self._path = path
        self._query = dict(query)
        self._takes_partial = takes_partial

    def __aiter__(self) -> AsyncIterator[Row]:
        return self._rows()

    async def _rows(self) -> AsyncIterator[Row]:
        async for page in self.pages():
            for row in page.rows:
                yield row

    async def pages(self) -> AsyncIterator[Page]:
        """Page by page, each with the position and the lag that it was answered at."""
        query = dict(self._query)
        while True:
            page = await self._page(query)
            yield page
            if page.next is None:
                return
            query["cursor"] = page.next

    async def _page(self, query: Mapping[str, object]) -> Page:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._workers.patience_s
        while True:
            page = _pages.decode(await self._workers.ask(self._path, query))
            if not page.partial or self._takes_partial:
                return page
            wait_s = jittered(FIRST_WAIT_S)
            if loop.time() + wait_s > end:
                missing = page.missing_partitions
                text = f"nobody answers for partitions {', '.join(map(str, missing))} of {self._path}"
                raise Partial("partial", text, retry=True, details={"missing_partitions": missing})
            await asyncio.sleep(wait_s)

    async def to_list(self) -> list[Row]:
        return [row async for row in self]

    async def to_dicts(self) -> list[dict[str, Any]]:
        """Flat dictionaries, all with the same members: see `Row.to_dict`."""
        return frames.to_dicts(await self.to_list())

    async def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``. Raises ImportError without pandas."""
        return frames.to_pandas(await self.to_list())

    async def to_polars(self) -> Any:
        """A ``polars.DataFrame``. Raises ImportError without polars."""
        return frames.to_polars(await self.to_list())

    async def to_arrow(self) -> Any:
        """A ``pyarrow.Table``. Raises ImportError without pyarrow."""
        return frames.to_arrow(await self.to_list())
