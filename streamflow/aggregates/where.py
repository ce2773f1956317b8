"""Tests of one field, as text: what ``where=`` takes besides a function.

``"data.paid"`` wants a value that is true as Python has it (not null, false, 0 or empty). A comparison
wants more: ``"type == 'click'"``, ``"data.amount >= 10"``, ``"type in ['a', 'b']"``, ``"user != null"``. On
the right stands JSON, or a text in single quotes. Only the one field is decoded for it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import msgspec

from streamflow.codecs.canonical import group_key_text
from streamflow.errors import ConfigurationError

_COMPARISON = re.compile(
    r"\s*(?P<path>[^\s=!<>]+)\s*(?P<sign>==|!=|<=|>=|<|>|\s(?:not )?in\s)\s*(?P<rest>.+?)\s*"
)
_QUOTED = re.compile(r"'([^']*)'")
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Condition:
    """A test of the value at ``path``. ``accepts`` is value -> is the event wanted? It never raises."""

    def __init__(self, path: str, accepts: Callable[[Any], bool]) -> None:
        self.path = path
        self.accepts = accepts

    def column(self, values: Sequence[Any]) -> list[bool]:
        """For each value whether its event is wanted."""
        # HOT PATH: a field that is tested has few values mostly, and each is looked at once.
        if set(map(type, values)) == {str}:
            known = {value: self.accepts(value) for value in set(values)}
            return [known[value] for value in values]
        return list(map(self.accepts, values))


def condition(text: str) -> Condition:
    """The test that a text means. Raises ConfigurationError, naming the text."""
    found = _COMPARISON.fullmatch(text)
    if found is None:
        path = text.strip()
        if not all(path.split(".")) or re.search(r"[\s=!<>]", path):
            raise ConfigurationError(f"where={text!r}: neither a field path nor a comparison of one field")
        return Condition(path, bool)
    path, sign = found["path"], " ".join(found["sign"].split())
    try:
        wanted = msgspec.json.decode(_QUOTED.sub(lambda text: _json_text(text[1]), found["rest"]))
    except msgspec.DecodeError as exc:
        raise ConfigurationError(f"where={text!r}: {found['rest']!r} is no JSON value: {exc}") from None
    if not all(path.split(".")):
        raise ConfigurationError(f"where={text!r}: {path!r} is no field path")
    if sign in {"in", "not in"}:
        if not isinstance(wanted, list):
            raise ConfigurationError(f"where={text!r}: `{sign}` needs an array")
        known = {_same(value) for value in wanted}
        return Condition(path, lambda value: (_same(value) in known) is (sign == "in"))
    if sign in {"==", "!="}:
        one = _same(wanted)
        return Condition(path, lambda value: (_same(value) == one) is (sign == "=="))
    if isinstance(wanted, bool) or not isinstance(wanted, str | int | float):
        raise ConfigurationError(f"where={text!r}: only numbers and texts have an order")
    return Condition(path, _in_order(_ORDERS[sign], wanted))


def _json_text(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _same(value: object) -> Hashable:
    """What equal values share: numbers by amount (1 is 1.0, but not true), all else by their JSON."""
    if type(value) is str:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ("number", value)
    try:
        return ("json", group_key_text(value))
    except (TypeError, UnicodeEncodeError):
        return ("none", None)  # no JSON value is equal to it


def _in_order(compare: Callable[[Any, Any], bool], wanted: str | float) -> Callable[[Any], bool]:
    """Numbers are compared with numbers and texts with texts; all else is not wanted."""
    kinds = (str,) if isinstance(wanted, str) else (int, float)

    def accepts(value: object) -> bool:
        return isinstance(value, kinds) and not isinstance(value, bool) and compare(value, wanted)

    return accepts
