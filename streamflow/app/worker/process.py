"""The process around an app: its logging, its errors and its garbage collector."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import NoReturn

from faust.worker import Worker as FaustWorker

from streamflow.app.interface import AppT
from streamflow.app.worker.interrupts import Interrupts
from streamflow.clock import SystemClock
from streamflow.errors import LostWrites, StreamflowError, rewrite_log_record

logger = logging.getLogger(__name__)

GC_THRESHOLDS = (50_000, 20, 50)
"""Collections are rare, not off: users' cyclic data is still found, by the second rather than by the ms."""

PEOPLES = (StreamflowError, OSError)
"""Errors that people make, or their machines: the message says what, where and what to do."""
TELLERS = ("faust", "mode", "streamflow.app.worker", "streamflow.engine.engine")
"""Beginnings of the loggers that tell of an error which ends the worker."""


RAISED_AGAIN = "Reraising original exception"
"""Said of an error that has been told by whom it ended."""


RESTART_MS = 1_000.0
"""Before a worker begins anew: whoever emptied the broker may not be done."""


class Sentence(str):
    """An error where its ``repr`` is asked for."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class InASentence(logging.Filter):
    """Takes the traceback away from errors that people make; at the level debug it stays."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(TELLERS):
            return True
        raised = record.exc_info[1] if record.exc_info else None
        arguments = record.args if isinstance(record.args, tuple) else ()
        if isinstance(raised, PEOPLES) or (raised is None and any(isinstance(a, PEOPLES) for a in arguments)):
            rewrite_log_record(record, keeps_traceback=False)
            record.args = tuple(Sentence(each) if isinstance(each, PEOPLES) else each for each in arguments)
        return RAISED_AGAIN not in str(record.msg)


class Worker(FaustWorker):
    """A faust.Worker that leaves the root logger at the level that was asked for.

    Faust sets it to DEBUG for its spinner, and then every record that is logged and dropped costs.
    """

    def _setup_spinner_handler(self, logger: logging.Logger, level: int) -> None:
        """No spinner that turns with the log: it would need all of it."""

    def on_setup_root_logger(self, logger: logging.Logger, level: int) -> None:
        super().on_setup_root_logger(logger, level)
        if level > logging.DEBUG:
            for handler in logger.handlers:
                handler.addFilter(InASentence())

    def _install_signal_handlers_unix(self) -> None:
        super()._install_signal_handlers_unix()
        Interrupts(self._asked_to_end).listen()

    def _asked_to_end(self) -> None:
        """In a thread: whatever ends this process from here on, no event is held to have done it."""
        engine = getattr(self.app, "running_engine", None)
        if engine is not None:
            engine.topology.gate.note.end_wanted()

    def execute_from_commandline(self) -> NoReturn:
        try:
            super().execute_from_commandline()
        finally:
            if self._begins_anew():
                logger.warning("beginning anew with what the broker has left (on_lost_writes=restart)")
                asyncio.run(SystemClock().sleep_ms(RESTART_MS))
                # The same command in the same process: nothing of what was in memory is left.
                os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

    def _begins_anew(self) -> bool:
        app = self.app
        return (
            isinstance(self.crash_reason, LostWrites)
            and isinstance(app, AppT)
            and app.engine_settings.on_lost_writes == "restart"
        )

    def _on_sigint(self) -> None:
        self._flag_as_shutdown_by_signal()
        self._schedule_shutdown(signal.SIGINT)


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
