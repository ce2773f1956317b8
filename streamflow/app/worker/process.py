"""The process around an app: its logging and its garbage collector."""

from __future__ import annotations

import gc
import logging

from faust.worker import Worker as FaustWorker

GC_THRESHOLDS = (50_000, 20, 50)
"""Collections are rare, not off: users' cyclic data is still found, by the second rather than by the ms."""


class Worker(FaustWorker):
    """A faust.Worker that leaves the root logger at the level that was asked for.

    Faust sets it to DEBUG for its spinner, and then every record that is logged and dropped costs.
    """

    def _setup_spinner_handler(self, logger: logging.Logger, level: int) -> None:
        """No spinner that turns with the log: it would need all of it."""


class QuietCollector:
    """The garbage collector off the hot path: what lives already is not looked at again."""

    def __init__(self) -> None:
        self._before: tuple[int, int, int] | None = None

    def begin(self) -> None:
        """May be called again: each time it looks only at what has come since."""
        if self._before is None:
            self._before = gc.get_threshold()
            gc.set_threshold(*GC_THRESHOLDS)
        gc.collect()
        gc.freeze()

    def end(self) -> None:
        if self._before is not None:
            gc.unfreeze()
            gc.set_threshold(*self._before)
            self._before = None
