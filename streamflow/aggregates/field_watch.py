"""Fields in JSON of any form: where the first events have none, a name was probably mistyped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

EVENTS_LOOKED_AT = 1_000

logger = logging.getLogger(__name__)


class FieldUse(NamedTuple):
    """A field path and what it was declared for: ``by='data.user'``."""

    path: str
    said: str


class FieldWatch:
    """The fields of one aggregate that no event has had so far, as long as there are few events."""

    def __init__(self, aggregate: str, topic: str, uses: Sequence[FieldUse] = ()) -> None:
        self.unseen = list(uses)
        self._aggregate = aggregate
        self._topic = topic
        self._events = 0

    def look(self, events: int, column: Callable[[str], Sequence[Any]]) -> None:
        """Takes note of so many more events; tells of what all of the first ones had not, once."""
        self.see(column)
        self._events += events
        if self._events >= EVENTS_LOOKED_AT and self.unseen:
            for use in self.unseen:
                logger.warning(
                    "aggregate %s: %s is missing or null in each of the first %d events of %s; "
                    "is the name right?",
                    self._aggregate,
                    use.said,
                    self._events,
                    self._topic,
                )
            self.unseen = []

    def see(self, column: Callable[[str], Sequence[Any]]) -> None:
        """``column`` gives the values of a path in some events."""
        self.unseen = [use for use in self.unseen if not any(value is not None for value in column(use.path))]
