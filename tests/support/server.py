"""What the real servers of tests have in common: ports, children that end with us, a context manager."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Self

PORTS_FROM: Final = 16_000
PORTS_EACH: Final = 4_000


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
    """Ports of 127.0.0.1 that were free a moment ago, all different.

    They lie below those that Linux gives to outgoing connections (from 32768 on), so that no connection takes
    one before its server does. Each process of a suite that several share chooses from a range of its own.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = PORTS_FROM + PORTS_EACH * (process % 4)
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for port in random.sample(range(first, first + PORTS_EACH), PORTS_EACH):
            if len(found) == count:
                break
            each = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                each.bind(("127.0.0.1", port))
                found.append(port)
        return found


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
