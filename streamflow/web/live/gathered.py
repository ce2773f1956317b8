"""The rows of a snapshot while they are gathered, in pages: nothing is done with all of them at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from streamflow.web.live.filters import Filter, Item, RowId

PAGE_ROWS: Final = 4_096
"""A dict of a hundred thousand rows is copied as it grows, and freed, in one piece of many ms."""


class Gathered:
    """Rows by their ids, in the order in which they came."""

    def __init__(self) -> None:
        self._pages: list[dict[RowId, Item]] = [{}]

    def __len__(self) -> int:
        return sum(map(len, self._pages))

    def add(self, item: Item) -> None:
        """A row that is not there yet."""
        page = self._pages[-1]
        if len(page) >= PAGE_ROWS:
            page = {}
            self._pages.append(page)
        page[item.id] = item

    def _put(self, item: Item) -> None:
        page = self._page_of(item.id)
        if page is None:
            self.add(item)
        else:
            page[item.id] = item

    def _page_of(self, row_id: RowId) -> dict[RowId, Item] | None:
        return next((page for page in self._pages if row_id in page), None)

    def fold(self, items: Iterable[Item], view: Filter) -> None:
        """Changes the rows of a view as these changes do, in order."""
        for item in items:
            seen = view.view(item)
            if seen is None:
                continue
            if seen.op == "upsert":
                self._put(seen)
            elif (page := self._page_of(seen.id)) is not None:
                del page[seen.id]

    def pages(self) -> list[dict[RowId, Item]]:
        """Them, to be emptied by whoever asked."""
        pages, self._pages = self._pages, [{}]
        return pages
