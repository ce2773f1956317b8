"""A real Postgres server for the tests, from Debian's package: started, stopped and killed at will."""

from __future__ import annotations

import contextlib
import getpass
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

import pytest

from tests.support.server import free_ports

START_S = 60.0


class NoPostgres(Exception):
    """No server can be started here; ``str()`` is the reason."""


def required() -> bool:
    """Whether a missing server fails a test rather than skips it."""
    return bool(os.environ.get("CI") or os.environ.get("STREAMFLOW_REQUIRE_POSTGRES"))


def binaries() -> pathlib.Path:
    """Where the newest server's programs are. Raises NoPostgres."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = found[-1] if found else shutil.which("initdb")
    if path is None:
        raise NoPostgres("there is no initdb (Debian: apt install postgresql)")
    return pathlib.Path(path).parent


class PostgresServer:
    """One server on a port of 127.0.0.1, with a folder of its own; as ``postgres`` where we are root."""

    def __init__(self) -> None:
        self._bin = binaries()
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="sf-postgres-"))
        self.user = getpass.getuser()
        if os.geteuid() == 0:
            try:
                account = pwd.getpwnam("postgres")
            except KeyError:
                raise NoPostgres("root may not run a server, and there is no user postgres") from None
            self.user = account.pw_name
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        (port,) = free_ports(1)
        self.url = f"postgresql://{self.user}@127.0.0.1:{port}/postgres"
        self._data = self._folder / "data"
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-N", "-U", self.user)
        options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._options = f"{options} -c max_connections=50"
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        user = self.user if os.geteuid() == 0 else None
        done = subprocess.run(
            [self._bin / program, *arguments],
            cwd=self._folder,
            user=user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=START_S,
            check=False,
        )
        if done.returncode:
            log = self._folder / "log"
            text = log.read_text()[-2000:] if log.exists() else ""
            raise NoPostgres(f"{program} ended with {done.returncode} {text}")

    def start(self) -> None:
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-l", log, "-w", "-o", self._options, "start")

    def stop(self) -> None:
        """At once; what was not committed is gone."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def end(self) -> None:
        with contextlib.suppress(NoPostgres):
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def started() -> PostgresServer:
    """A running one; skips, or fails in CI, where none can be had."""
    try:
        return PostgresServer()
    except NoPostgres as exc:
        if required():
            pytest.fail(f"no Postgres: {exc}", pytrace=False)
        pytest.skip(f"no Postgres: {exc}")
