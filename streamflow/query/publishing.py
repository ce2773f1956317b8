"""What is to be sent on behalf of somebody outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from streamflow.errors import StreamflowError


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One event; key and value as JSON has them. ``partition`` ``None``: by its key."""

    key: Any
    value: Any
    headers: tuple[tuple[str, str | None], ...] = ()
    timestamp_ms: int | None = None
    partition: int | None = None


class Refused(StreamflowError):
    """An event that can't be sent; none was. ``index``: which of those that were given."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


class Publishes(Protocol):
    """Sends events as the app's own code would."""

    async def publish(self, topic: str, events: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Partition and offset of each, durable. All are checked before any is sent.

        Raises Refused; another StreamflowError where some may have been sent.
        """
        ...
