"""Types of the keys that streams are joined and grouped by: what never fits is refused where it is declared.

What is not known there (values that a function makes, topics without types, codecs of the user's own) passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faust.types import FieldDescriptorT

from streamflow.app.streams.sources import SourcedStream
from streamflow.app.topics.topic import Topic
from streamflow.codecs import KeyCodec
from streamflow.errors import ConfigurationError

_ALIKE: dict[object, str] = {str: "text", bytes: "bytes", int: "numbers", float: "numbers"}
"""Keys of these types are equal only to keys that are alike."""
KeySaid = tuple[object, str]
"""A type, and what has it."""


def check_group_key(field: FieldDescriptorT[Any], topic: Topic) -> None:
    """Raises ConfigurationError where the topic's key type can't take the field's values."""
    wanted = _codec_of(topic)
    if wanted is not None and not _takes(wanted, field.type):
        raise ConfigurationError(
            f"group_by({_named(field)}) sends keys of type {_name(field.type)} to topic "
            f"{topic.get_topic_name()!r}, whose key_type is {wanted.name}: declare the topic with "
            f"key_type={_name(field.type)}"
        )


def read_keys_by(field: FieldDescriptorT[Any], topic: Topic) -> None:
    """A topic that was made for a field has keys of the field's type, where its source's can't take them."""
    codec = _codec_of(topic)
    if field.type in (int, float) or (codec is not None and not _takes(codec, field.type)):
        topic.read_keys_as(field.type)


def check_join_keys(
    left: SourcedStream, right: SourcedStream, fields: Sequence[FieldDescriptorT[Any]], *, plain: bool
) -> None:
    """Raises ConfigurationError where keys of the two sides can never be equal, or a side's can't be written.

    ``plain``: no function changes the values before the fields are read from them.
    """
    said = [_key_of(side, fields, plain=plain) for side in (left, right)]
    for side, found in zip((left, right), said, strict=True):
        codec = _codec_of(side.channel)
        if found is not None and codec is not None and not _takes(codec, found[0]):
            raise ConfigurationError(
                f"a join by {found[1]} needs keys of type {_name(found[0])}, and those of its topic "
                f"{_topic_name(side)!r} are {codec.name}: group_by the field first, or declare the topic "
                f"with key_type={_name(found[0])}"
            )
    one, other = said
    if one is None or other is None:
        return
    kinds = _ALIKE.get(one[0]), _ALIKE.get(other[0])
    if None not in kinds and kinds[0] != kinds[1]:
        raise ConfigurationError(
            f"keys of a join must be of one type: {one[1]} is {_name(one[0])}, and {other[1]} is "
            f"{_name(other[0])}, so that nothing would match"
        )


def _key_of(side: SourcedStream, fields: Sequence[FieldDescriptorT[Any]], *, plain: bool) -> KeySaid | None:
    """The type of the key to join a side by, as far as it is declared."""
    if not isinstance(side.channel, Topic):
        return None
    value_type = side.channel.value_type
    if fields and (not plain or not isinstance(value_type, type)):
        return None
    for field in fields:
        if isinstance(value_type, type) and issubclass(value_type, field.model):
            return field.type, _named(field)
    codec = _codec_of(side.channel)
    if codec is None:
        return None
    return codec.key_type or bytes, f"the key of topic {_topic_name(side)!r}"


def _codec_of(channel: object) -> KeyCodec | None:
    """How a topic's keys are written, if it is one of ours and by a type."""
    codec = channel.key_codec if isinstance(channel, Topic) else None
    return codec if type(codec) is KeyCodec else None


def _takes(codec: KeyCodec, kind: object) -> bool:
    """May keys of a type be written, and be read as what they were?"""
    family, own = _ALIKE.get(kind), _ALIKE.get(codec.key_type)
    if codec.key_type is None:
        return family in (None, "text", "bytes")
    return None in (family, own) or family == own


def _topic_name(side: SourcedStream) -> str:
    return side.channel.get_topic_name() if isinstance(side.channel, Topic) else ""


def _named(field: FieldDescriptorT[Any]) -> str:
    return f"{field.model.__name__}.{field.field}"


def _name(kind: object) -> str:
    return str(getattr(kind, "__name__", kind))
