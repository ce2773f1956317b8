"""`Event`: an id, a type, a time, and data. The model that people start with."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from streamflow.clock import epoch_ms
from streamflow.errors import ConfigurationError

Aware = Annotated[datetime, msgspec.Meta(tz=True)]
E = TypeVar("E", bound="Event")


class EventMeta(msgspec.StructMeta):
    """Takes ``version=`` besides what a Struct takes: the version of the class's schema, 1 by default."""

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        version: int = 1,
        **config: Any,
    ) -> EventMeta:
        if type(version) is not int or version < 1:
            raise ConfigurationError(f"class {name}(version={version!r}) must be a whole number from 1 up")
        cls = super().__new__(mcls, name, bases, namespace, **config)
        cls.schema_version = version
        return cls

    schema_version: int


# `forbid_unknown_fields` is for the usual decoder: a message that has some takes a slower decoder, which
# keeps them in the instance's `__dict__` (see `streamflow.codecs.events`).
class Event(msgspec.Struct, metaclass=EventMeta, dict=True, forbid_unknown_fields=True, kw_only=True):
    """One event, as JSON ``{"id", "type", "timestamp", "data"}``.

    ``timestamp`` is an aware datetime; on the wire RFC 3339 or integer epoch milliseconds, and it is
    written back in the form in which it came. Subclass to type ``data``, and to add fields; fields that
    the class does not know are kept and written back (those within a typed ``data`` are not).
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

    # A Struct's own ways of copying forget `__dict__`, and with it the unknown fields.

    def __copy__(self: E) -> E:
        return _restored(type(self), msgspec.structs.asdict(self), self.__dict__.copy())

    def __deepcopy__(self: E, memo: dict[int, Any]) -> E:
        fields = copy.deepcopy(msgspec.structs.asdict(self), memo)
        return _restored(type(self), fields, copy.deepcopy(self.__dict__, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), msgspec.structs.asdict(self), self.__dict__)


def _restored(kind: type[E], fields: dict[str, Any], kept: dict[str, Any]) -> E:
    event = kind(**fields)
    event.__dict__.update(kept)
    return event
