"""The second Ctrl-C, which leaves at once: also while code blocks the event loop, or the whole main thread.

Signals reach an event loop as bytes in a pipe, which the C handler writes at any time. Here a thread reads
them first, and passes them on.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable

EXIT_CODE = 128 + signal.SIGINT
FAREWELL = (
    b"\nsecond Ctrl-C: left at once, without a last checkpoint; what was not committed is taken again\n"
)


class Interrupts:
    """Counts Ctrl-C. `listen` after the event loop's own handlers were installed.

    ``asked_to_end`` is told of each of these and each SIGTERM, in the thread.
    """

    def __init__(self, asked_to_end: Callable[[], None]) -> None:
        self._asked_to_end = asked_to_end
        self._seen = 0
        self._signals: tuple[socket.socket, socket.socket] | None = None

    def listen(self) -> None:
        """From now on in a thread, where signals come by a pipe; in the main thread."""
        loops = signal.set_wakeup_fd(-1)
        if loops < 0:
            return
        mine, handlers = self._signals = socket.socketpair()
        handlers.setblocking(False)
        signal.set_wakeup_fd(handlers.fileno(), warn_on_full_buffer=False)
        # A copy: the loop closes its own, and the number may then be another file's.
        work = threading.Thread(target=self._pass_on, args=(mine, os.dup(loops)), daemon=True)
        work.start()

    def _pass_on(self, mine: socket.socket, loops: int) -> None:
        while received := mine.recv(64):
            for number in received:
                if number in (signal.SIGINT, signal.SIGTERM):
                    self._asked_to_end()
                if number == signal.SIGINT:
                    self.count()
            try:
                os.write(loops, received)
            except BlockingIOError:
                pass  # it is full: the loop will wake up
            except OSError:
                return

    def count(self) -> None:
        """A Ctrl-C has come. The second one ends the process."""
        self._seen += 1
        if self._seen > 1:
            os.write(2, FAREWELL)
            os._exit(EXIT_CODE)
