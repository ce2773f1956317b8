"""Tumbling and hopping windows that can also be made as Faust's are: ``TumblingWindow(10, expires=60)``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from streamflow import windows
from streamflow.errors import WindowError

Seconds = float | timedelta


class TumblingWindow(windows.TumblingWindow):
    """Windows of one size, side by side: each time lies in exactly one.

    In seconds, fractions down to 1 ms: ``size_s``; ``grace_s``, how long after its end (in event time) a
    window still takes events; ``retain_s``, how long after that its rows are kept; ``offset_s``; and
    ``idle_close_s``, after which silence a partition takes over the watermark of the others, or None.
    As in Faust, ``size`` may stand for ``size_s``, and ``expires`` for a grace after which nothing is kept.
    Raises WindowError.
    """

    def __init__(
        self,
        size_s: Seconds | None = None,
        expires: Seconds | None = None,
        *,
        size: Seconds | None = None,
        **options: Any,
    ) -> None:
        super().__init__(_one("size", size_s, size), **_kept(expires, options))


class HoppingWindow(windows.HoppingWindow):
    """Windows of one size that begin every ``step_s``. Else as `TumblingWindow`."""

    def __init__(
        self,
        size_s: Seconds | None = None,
        step_s: Seconds | None = None,
        expires: Seconds | None = None,
        *,
        size: Seconds | None = None,
        step: Seconds | None = None,
        **options: Any,
    ) -> None:
        super().__init__(_one("size", size_s, size), _one("step", step_s, step), **_kept(expires, options))


def _one(name: str, active: Seconds | None, fausts: Seconds | None) -> float:
    if (active is None) == (fausts is None):
        raise WindowError(f"a window needs {name}_s, or {name} as in Faust, and not both")
    found = active if active is not None else fausts
    return found.total_seconds() if isinstance(found, timedelta) else found  # type: ignore[return-value]  # not None


def _kept(expires: Seconds | None, options: dict[str, Any]) -> dict[str, Any]:
    if expires is None:
        return options
    if "grace_s" in options or "retain_s" in options:
        raise WindowError("expires says how long a window is kept: no grace_s or retain_s besides it")
    grace_s = expires.total_seconds() if isinstance(expires, timedelta) else expires
    return {"grace_s": grace_s, "retain_s": 0, **options}
