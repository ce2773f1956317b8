"""`Event`: an id, a type, a time, and data. The model that people start with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from streamflow.clock import epoch_ms
from streamflow.errors import ConfigurationError

Aware = Annotated[datetime, msgspec.Meta(tz=True)]
E = TypeVar("E", bound="Event")


Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""From what one version has written to what the next one would have."""


class EventMeta(msgspec.StructMeta):
    """Takes ``version=`` and ``unversioned=`` besides what a Struct takes.

    ``version`` is that of the class's schema, 1 by default. ``unversioned``: the version of values that do
    not say theirs in the header ``schema-version``, 1 by default; or a function that tells it from the value.
    """

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        version: int = 1,
        unversioned: int | Callable[[dict[str, Any]], int] = 1,
        **config: Any,
    ) -> EventMeta:
        if type(version) is not int or version < 1:
            raise ConfigurationError(f"class {name}(version={version!r}) must be a whole number from 1 up")
        if not callable(unversioned) and (type(unversioned) is not int or not 1 <= unversioned <= version):
            raise ConfigurationError(
                f"class {name}(unversioned={unversioned!r}): a version from 1 to {version}, or a function"
            )
        cls = super().__new__(mcls, name, bases, namespace, **config)
        cls.schema_version = version
        cls.unversioned = unversioned
        cls.upgrades = {}
        return cls

    schema_version: int
    unversioned: int | Callable[[dict[str, Any]], int]
    upgrades: dict[int, Upgrade]
    """Version -> the step from it to the next; where there is none, defaults do"""

    def upgrade(cls, from_version: int) -> Callable[[Upgrade], Upgrade]:  # noqa: N805 - of a metaclass
        """Declares how a value of this version becomes one of the next: a function from dict to dict.

        It sees the value as it was written, unknown fields too, and may change it in place. Raises
        ConfigurationError for a version that the class has left no room for, and for a second step from one.
        """

        def declare(step: Upgrade) -> Upgrade:
            if type(from_version) is not int or not 1 <= from_version < cls.schema_version:
                raise ConfigurationError(
                    f"{cls.__name__}.upgrade(from_version={from_version!r}): the class is of version "
                    f"{cls.schema_version}, so a step begins at 1 to {cls.schema_version - 1}"
                )
            if from_version in cls.upgrades:
                raise ConfigurationError(
                    f"{cls.__name__}.upgrade(from_version={from_version}): there is such a step already"
                )
            cls.upgrades[from_version] = step
            return step

        return declare


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

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """What the values of this version are, as JSON Schema 2020-12: a document of its own."""
        (schema,), components = msgspec.json.schema_components([cls], ref_template="#/$defs/{name}")
        definitions = dict(components)
        name = schema["$ref"].rpartition("/")[2]
        whole = dict(definitions.pop(name))
        del whole["additionalProperties"]  # they are kept
        fields = dict(whole["properties"])
        instant = fields["timestamp"]
        fields["timestamp"] = {"anyOf": [instant, {"type": "integer", "description": "epoch milliseconds"}]}
        document: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}
        document["properties"] = fields
        if definitions:
            document["$defs"] = definitions
        return document

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
