"""`Event`: an id, a type, a time, and data. The model that people start with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar

import msgspec

from streamflow.clock import epoch_ms

Aware = Annotated[datetime, msgspec.Meta(tz=True)]


class Event(msgspec.Struct, dict=True, forbid_unknown_fields=True, kw_only=True):
    """One event, as JSON ``{"id", "type", "timestamp", "data"}``.

    ``timestamp`` is an aware datetime; on the wire RFC 3339 or integer epoch milliseconds, and it is
    written back in the form in which it came. Subclass to type ``data``; fields that the class does not
    know are kept and written back.
    """

    id: str
    type: str
    timestamp: Aware
    data: dict[str, Any]

    time_field: ClassVar[str] = "timestamp"

    @property
    def timestamp_ms(self) -> int:
        """The event time in epoch milliseconds, rounded down."""
        return epoch_ms(self.timestamp)
