"""Rows as tables of pandas, polars and Arrow, each imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamflow.client.messages import Row

if TYPE_CHECKING:
    from types import ModuleType


def to_dicts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """`Row.to_dict` of each, all with the same members in one order; ``None`` where a row has none."""
    dicts = [row.to_dict() for row in rows]
    names = dict.fromkeys(name for each in dicts for name in each)
    return [{name: each.get(name) for name in names} for each in dicts]


def to_pandas(rows: Iterable[Row]) -> Any:
    """A ``pandas.DataFrame``. Raises ImportError without pandas."""
    return _library("pandas").DataFrame.from_records(to_dicts(rows))


def to_polars(rows: Iterable[Row]) -> Any:
    """A ``polars.DataFrame``. Raises ImportError without polars."""
    return _library("polars").DataFrame(to_dicts(rows), infer_schema_length=None)


def to_arrow(rows: Iterable[Row]) -> Any:
    """A ``pyarrow.Table``. Raises ImportError without pyarrow."""
    return _library("pyarrow").Table.from_pylist(to_dicts(rows))


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name != name:
            raise
        method = {"pyarrow": "to_arrow"}.get(name, f"to_{name}")
        raise ImportError(
            f"{method}() needs {name}, which is not installed: pip install {name}", name=name
        ) from exc
