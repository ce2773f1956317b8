"""Keeps one embedded server alive while anybody on this machine uses it. A program of its own.

Run by path, on the standard library alone, so that it starts fast and stays small. Four files in the
server's folder carry the protocol; each is a lock that the kernel drops with its holder, however that ends:

- ``start.lock``   one process at a time looks for a supervisor, starts one, or leaves. Held for moments.
- ``users.lock``   shared by every user of the server. Who gets it alone knows that nobody is left.
- ``keeper.lock``  held by the supervisor. Free: there is none, whatever else is running.
- ``server.lock``  inherited by the server itself. Free: no server, and no child of one, can touch the files.

So at most one server ever writes the append-only file, a server that outlived its supervisor is found and
used, and a server without users ends, whoever was killed before.

``appendfsync everysec`` is done here, and not by the server: while a sync of its own is under way, that one
answers for up to two seconds before it writes what it has answered for, and a kill then costs it. With
``no`` it writes first and answers then; what is written is the kernel's, and survives the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NoReturn

SOCKET, LOG, PID = "valkey.sock", "server.log", "server.pid"
# Says how the running server makes its writes safe from a power cut: `everysec`, `always` or `no`.
SYNC = "server.sync"
START_LOCK, USERS_LOCK, SERVER_LOCK = "start.lock", "users.lock", "server.lock"
SUPERVISOR_LOCK = "keeper.lock"  # its old name: processes of several versions share a folder

ANSWER_S = 15.0
END_S = 20.0
POLL_S = 0.02
SYNC_S = 1.0
LOG_BYTES_MAX = 1_048_576
LOG_TAIL_BYTES = 600
# A server that ends so often within such a time has a reason that another start does not cure.
DEATHS_MAX = 3
DEATHS_S = 10.0


class Failed(Exception):
    """The server can't be had; ``str()`` is for people."""


def open_lock(folder: str, name: str) -> int:
    """A descriptor that children do not inherit. Raises OSError."""
    return os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int, how: int) -> bool:
    """Without waiting. ``how``: ``fcntl.LOCK_EX`` or ``LOCK_SH``."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_within(descriptor: int, how: int, limit_s: float) -> bool:
    """Whether it was got in time."""
    end_s = time.monotonic() + limit_s
    while not try_lock(descriptor, how):
        if time.monotonic() > end_s:
            return False
        time.sleep(POLL_S)
    return True


def is_free(folder: str, name: str) -> bool:
    """Whether nobody holds this lock now."""
    descriptor = open_lock(folder, name)
    try:
        return try_lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def ask(path: str, command: bytes, limit_s: float) -> bytes | None:
    """The first bytes of the answer of whoever listens at a Unix socket; ``None``: nobody does.

    Raises TimeoutError where somebody listens and does not answer.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(limit_s)
        try:
            connection.connect(path)
            connection.sendall(command + b"\r\n")
            return connection.recv(4_096) or None
        except TimeoutError:
            raise
        except OSError:
            return None


def how_synced(folder: str) -> str | None:
    """``everysec``, ``always`` or ``no``: of the server that runs, or ran last; ``None``: not known."""
    try:
        with open(os.path.join(folder, SYNC)) as file:
            return file.read() or None
    except FileNotFoundError:
        return None


def sync_file(descriptor: int) -> None:
    """Returns when the file's bytes are on the disk. Raises OSError."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


class Syncer:
    """Brings to the disk what the server has written to its append-only file."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.join(folder, "appendonlydir")
        self._synced: dict[str, int] = {}  # file name -> its size when it was synced last

    def once(self) -> list[str]:
        """The names of the files that had grown. Raises OSError.

        What a rewrite makes, and the manifest, the server syncs itself.
        """
        sizes: dict[str, int] = {}
        for entry in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):  # rewritten, and gone
                if entry.name.endswith(".incr.aof"):
                    sizes[entry.name] = entry.stat().st_size
        grown = [name for name, size in sizes.items() if self._synced.get(name, 0) != size]
        for name in grown:
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(os.path.join(self._folder, name), os.O_RDWR | os.O_CLOEXEC)
                try:
                    sync_file(descriptor)
                finally:
                    os.close(descriptor)
        self._synced = sizes
        return grown


class Server:
    """The server of a folder: started here, or found."""

    def __init__(self, folder: str, binary: str, directives: dict[str, str]) -> None:
        self.sync = directives["appendfsync"]
        self._folder = folder
        self._binary = binary
        self._directives = directives
        self._path = os.path.join(folder, SOCKET)
        self._child: subprocess.Popen[bytes] | None = None
        self._watch: socket.socket | None = None

    def ensure(self) -> None:
        """Returns when a server answers, if only that it is loading. Raises Failed."""
        lock = open_lock(self._folder, SERVER_LOCK)
        try:
            if not try_lock(lock, fcntl.LOCK_EX) and not self._adopted(lock):
                raise Failed(
                    f"process {self._pid()} holds the folder and does not answer; end it, and try again"
                )
            if self._watch is None:
                self._start(lock)
            else:
                self.sync = how_synced(self._folder) or self.sync
        finally:
            os.close(lock)  # A server that we started has it too: the lock stays with that one.

    def watch(self) -> socket.socket:
        """Readable when the server has ended."""
        assert self._watch is not None
        return self._watch

    def forget(self) -> None:
        """After its end: `ensure` may be called again."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(END_S)

    def end(self) -> None:
        """Returns when no server holds the folder: asked first, then killed."""
        lock = open_lock(self._folder, SERVER_LOCK)
        try:
            if not try_lock(lock, fcntl.LOCK_EX):
                with contextlib.suppress(TimeoutError):
                    # With an append-only file it writes and syncs what is left; no snapshot.
                    ask(self._path, b"SHUTDOWN NOSAVE NOW FORCE", 1.0)
                if not lock_within(lock, fcntl.LOCK_EX, END_S):
                    self._kill()
                    lock_within(lock, fcntl.LOCK_EX, END_S)
            self.forget()
            for name in (SOCKET, PID, SYNC):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._folder, name))
        finally:
            os.close(lock)

    def _adopted(self, lock: int) -> bool:
        """Whether the running server answers, or has ended while it was asked: then the lock is ours."""
        end_s = time.monotonic() + ANSWER_S
        while time.monotonic() < end_s:
            with contextlib.suppress(TimeoutError):
                if ask(self._path, b"PING", 5.0) is not None and self._connected():
                    return True
            if lock_within(lock, fcntl.LOCK_EX, 10 * POLL_S):
                return True
        return False

    def _start(self, lock: int) -> None:
        log_path = os.path.join(self._folder, LOG)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # Its listener is dead: we hold the lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.getsize(log_path) > LOG_BYTES_MAX:
                os.replace(log_path, log_path + ".1")
        directives = self._directives | {"appendfsync": "always" if self.sync == "always" else "no"}
        arguments = [word for name, value in directives.items() for word in (f"--{name}", value)]
        try:
            with open(os.path.join(self._folder, SYNC), "w") as file:
                file.write(self.sync)
            with open(log_path, "ab") as log:
                began = log.tell()
                self._child = subprocess.Popen(
                    [
                        self._binary,
                        *arguments,
                        "--port",
                        "0",
                        "--unixsocket",
                        self._path,
                        "--dir",
                        self._folder,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._folder,
                    pass_fds=(lock,),
                )
            with open(os.path.join(self._folder, PID), "w") as file:
                file.write(str(self._child.pid))
        except OSError as exc:
            self._kill_child()
            raise Failed(f"{self._binary}: {exc.strerror or exc}") from exc
        end_s = time.monotonic() + ANSWER_S
        while True:
            with contextlib.suppress(TimeoutError):
                if ask(self._path, b"PING", 5.0) is not None and self._connected():
                    return
            if self._child.poll() is not None:
                raise Failed(f"the server ended at its start: {self._why(log_path, began)}")
            if time.monotonic() > end_s:
                self._kill_child()
                raise Failed(f"the server did not answer within {ANSWER_S:.0f} s")
            time.sleep(POLL_S)

    def _connected(self) -> bool:
        """Whether the connection stands that tells of the server's end."""
        watch = socket.socket(socket.AF_UNIX)
        watch.settimeout(5.0)
        try:
            watch.connect(self._path)
        except OSError:
            watch.close()
            return False
        self._watch = watch
        return True

    def _why(self, log_path: str, began: int) -> str:
        """What it said last; a full disk also keeps it from saying that."""
        with open(log_path, "rb") as log:
            log.seek(max(began, os.path.getsize(log_path) - LOG_TAIL_BYTES))
            said = log.read().decode(errors="replace").strip()
        room = os.statvfs(self._folder)
        if room.f_bavail == 0 or room.f_favail == 0 < room.f_files:
            return f"no space left on the disk of {self._folder}. {said}".strip()
        return said or f"exit code {self._child.returncode if self._child else '?'}, nothing said"

    def _pid(self) -> int | None:
        try:
            with open(os.path.join(self._folder, PID)) as file:
                return int(file.read())
        except (OSError, ValueError):
            return None

    def _kill(self) -> None:
        """A server that does not end when asked. Called while it holds the lock: the process is there."""
        if (pid := self._pid()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _kill_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait(END_S)


class Supervisor:
    """Until nobody uses the server any more."""

    def __init__(self, folder: str, server: Server) -> None:
        self._folder = folder
        self._server = server
        self._deaths_s: list[float] = []

    def run(self) -> None:
        """Returns when the server has ended for want of users. Raises Failed."""
        alone_r, alone_w = os.pipe()
        # Waiting for a lock can't be combined with waiting for a socket; this thread is never joined.
        threading.Thread(target=self._wait_until_alone, args=(alone_w,), daemon=True).start()
        if self._server.sync == "everysec":
            # Not between the waits below: a slow disk must not keep a dead server from coming back.
            threading.Thread(target=self._sync, daemon=True).start()
        while True:
            ready, _, _ = select.select([alone_r, self._server.watch().fileno()], [], [])
            if alone_r in ready:
                # Whoever comes now waits for `users.lock`, until we are gone.
                self._server.end()
                return
            self._died()

    def _wait_until_alone(self, tell: int) -> None:
        users = open_lock(self._folder, USERS_LOCK)
        fcntl.flock(users, fcntl.LOCK_EX)  # Held until this process ends.
        os.write(tell, b".")

    def _sync(self) -> None:
        syncer, told = Syncer(self._folder), ""
        while True:
            time.sleep(SYNC_S)
            try:
                syncer.once()
            except OSError as exc:
                if str(exc) != told:
                    told = str(exc)
                    note(self._folder, f"the append-only file is not synced: {told}")

    def _died(self) -> None:
        self._server.forget()
        now_s = time.monotonic()
        self._deaths_s = [at_s for at_s in self._deaths_s if now_s - at_s < DEATHS_S] + [now_s]
        if len(self._deaths_s) > DEATHS_MAX:
            raise Failed(f"the server ended {len(self._deaths_s)} times within {DEATHS_S:.0f} s")
        self._server.ensure()


def note(folder: str, text: str) -> None:
    """Into the server's log, where that can be written."""
    with contextlib.suppress(OSError), open(os.path.join(folder, LOG), "a") as log:
        log.write(f"keeper: {text}\n")


def answer(error: str | None) -> None:
    """One line to whoever has started us, who may be dead by now; after the first we are on our own."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"error": error}).encode() + b"\n")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def detach() -> None:
    """A process that nobody has to wait for, out of reach of the terminal's Ctrl-C."""
    if os.fork():
        os._exit(0)
    os.setsid()


def main(folder: str, binary: str, directives: dict[str, str]) -> NoReturn:
    detach()
    # It ends when the last user has left, and not before: a machine that goes down ends them first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    try:
        held = open_lock(folder, SUPERVISOR_LOCK)
        # Users that look for a supervisor hold the lock for an instant.
        if not lock_within(held, fcntl.LOCK_EX, 2.0):
            raise Failed("another supervisor runs")
        server = Server(folder, binary, directives)
        server.ensure()
        answer(None)
        Supervisor(folder, server).run()
    except (Failed, OSError) as exc:
        note(folder, str(exc))
        answer(str(exc))
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
