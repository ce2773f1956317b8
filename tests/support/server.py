"""What the real servers of tests have in common: ports, children that end with us, a context manager."""

from __future__ import annotations

import contextlib
import ctypes
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self


class Server(ABC):
    """A context manager that starts it and stops it."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.stop()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def launch(
    command: Sequence[str], log: pathlib.Path, cwd: pathlib.Path | None = None
) -> subprocess.Popen[bytes]:
    """A child whose output goes to the end of ``log``."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            # A session of its own: Ctrl-C in the terminal reaches pytest, which then stops us in order.
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - one C call, nothing that another thread locks
        )


def end(process: subprocess.Popen[bytes], how: signal.Signals, limit_s: float) -> None:
    """Returns when it has ended: asked by ``how``, and after ``limit_s`` killed."""
    if process.poll() is None:
        # A paused one would not hear of it.
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(limit_s)


def die_with_parent() -> Callable[[], None] | None:
    """On Linux, for the main thread: the child gets SIGKILL when this process ends, even by SIGKILL.

    The kernel means the thread that started the child, so for any other thread there is no such thing.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    pr_set_pdeathsig = 1

    def in_child() -> None:
        libc.prctl(pr_set_pdeathsig, signal.SIGKILL)

    return in_child
