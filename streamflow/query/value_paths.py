"""What lies within a row's value: the paths by which lists filter, sort and choose, and tests of them.

``value`` is the whole value, ``total`` (or ``value.total``) its member of that name, ``data.total`` a
member's member. A member whose own name has dots in it is found by the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from streamflow.aggregates.where import condition
from streamflow.errors import ConfigurationError
from streamflow.query.key_order import KeyOrder, key_order

WHOLE: Final = "value"
WHERE_CHARS_MAX: Final = 500


class _Nothing:
    __slots__ = ()

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing()
"""What a path leads to that leads to nothing."""


@dataclass(frozen=True, slots=True)
class ValuePath:
    """One path. ``rest`` is what is left of it behind the whole value; empty: the whole."""

    rest: str

    @classmethod
    def of(cls, text: str) -> ValuePath:
        """Raises ValueError for what is no path."""
        if not text or not all(text.split(".")) or any(c.isspace() or c in "=!<>," for c in text):
            raise ValueError(f"{text!r} is no path of a value, such as `value`, `total` or `data.total`")
        return cls("" if text == WHOLE else text.removeprefix(WHOLE + "."))

    @property
    def text(self) -> str:
        return self.rest or WHOLE

    def find(self, value: object) -> Any:
        """What it leads to, or `NOTHING`."""
        rest = self.rest
        while rest:
            if not isinstance(value, Mapping):
                return NOTHING
            if rest in value:
                return value[rest]
            name, _, rest = rest.partition(".")
            if not rest or name not in value:
                return NOTHING
            value = value[name]
        return value


@dataclass(frozen=True, slots=True)
class ValueTest:
    """A test of what a path leads to: nothing is null. Two of the same ``text`` are equal."""

    text: str
    path: ValuePath
    accepts: Callable[[Any], bool]

    @classmethod
    def of(cls, text: str) -> ValueTest:
        """The tests that aggregates take as ``where=``. Raises ValueError for what is none."""
        stripped = text.strip()
        if len(stripped) > WHERE_CHARS_MAX or not stripped.isprintable():
            raise ValueError(f"a test is one line of at most {WHERE_CHARS_MAX} characters")
        try:
            found = condition(stripped)
        except (ConfigurationError, UnicodeError, RecursionError) as exc:
            raise ValueError(str(exc)) from exc
        return cls(stripped, ValuePath.of(found.path), found.accepts)

    def holds(self, value: object) -> bool:
        found = self.path.find(value)
        return self.accepts(None if found is NOTHING else found)


def value_order(path: ValuePath, value: object, *, descending: bool) -> KeyOrder:
    """Values in the order of keys: numbers by amount, texts by their letters.

    What there is nothing of comes last, whichever way: no value, null, and numbers that JSON does not have.
    """
    found = path.find(value)
    if found is NOTHING or found is None or (isinstance(found, float) and not isfinite(found)):
        return (-1 if descending else 9, 0, "")
    kind, amount, _ = key_order(found)
    return (kind, amount, "")  # 1 and 1.0 are one amount


def is_value_order(order: object) -> bool:
    """Is it something that `value_order` makes? For what came from outside."""
    if not (isinstance(order, list) and len(order) == 3 and order[2] == ""):
        return False
    kind, amount, _ = order
    if type(kind) is not int:
        return False
    if kind in (3, 4):
        return isinstance(amount, str)
    return kind in (-1, 1, 2, 9) and isinstance(amount, int | float) and not isinstance(amount, bool)
