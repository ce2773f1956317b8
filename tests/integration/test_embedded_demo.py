"""`streamflow demo` on the server of its own: what it has counted is there again after a restart."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from streamflow.cli.demo import default_broker, state_folder
from streamflow.transports.redis_streams.embedded import supervisor
from tests.integration.workers import ROOT, wait_for
from tests.support.redis_server import needs_wheel

TABLES = ("events_by_user", "events_by_type", "window_totals")


@pytest.fixture(autouse=True)
def wheel() -> None:
    needs_wheel()


class Demo:
    """The command as a process, with its state in a folder of the test."""

    def __init__(self, state: pathlib.Path, log: pathlib.Path, *arguments: str) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("STREAMFLOW_")}
        environ |= {"XDG_STATE_HOME": str(state), "HOME": str(state), "STREAMFLOW_WINDOW_S": "1"}
        command = [sys.executable, "-c", "from streamflow.cli import main; main()", "demo", "--port", "0"]
        self._log = log
        self._socket = state / "streamflow" / "demo" / "valkey.sock"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *arguments], cwd=ROOT, env=environ, stdout=output, stderr=output
            )
        self.url = wait_for("the address is told", self._address)

    def _address(self) -> str | None:
        text = self.log()
        assert self.process.poll() is None, text
        found = re.search(r"Dashboard\s+(http://\S+)", text)
        return found[1] if found else None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def counts(self) -> dict[str, Counter[str]]:
        """table -> window start -> events; from all rows."""
        found: dict[str, Counter[str]] = {}
        for table in TABLES:
            counts = found[table] = Counter()
            cursor: str | None = ""
            while cursor is not None:
                page = self.get(
                    f"/v1/tables/{table}/rows?limit=1000" + (f"&cursor={cursor}" if cursor else "")
                )
                assert not page["partial"]
                for row in page["rows"]:
                    value = row["value"]
                    number = value["total_events"] if isinstance(value, dict) else value
                    counts[row["window"]["start"]] += number
                cursor = page["next"]
        return found

    def has_taken_all(self) -> bool:
        """Whether no event is left in any stream, by the server's own word."""
        with contextlib.closing(redis.Redis(unix_socket_path=str(self._socket))) as client:
            streams = list(client.scan_iter("demo-events:[0-9]*", _type="stream"))
            groups = [client.xinfo_groups(stream) for stream in streams]
        assert groups
        return all(about["lag"] == 0 for each in groups for about in each)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 0, self.log()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def demo(tmp_path: pathlib.Path) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def start(*arguments: str) -> Demo:
        started.append(Demo(tmp_path / "state", tmp_path / f"demo-{len(started)}.log", *arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.kill()
    folder = tmp_path / "state" / "streamflow" / "demo"
    if folder.is_dir():
        wait_for("no server is left", lambda: supervisor.is_free(str(folder), supervisor.SERVER_LOCK), 30)


def agreed(demo: Demo) -> dict[str, Counter[str]] | None:
    """The counts, where all is counted and the three tables tell the same."""
    with contextlib.suppress(AssertionError, OSError):
        if not demo.has_taken_all():
            return None
        found = demo.counts()
        if found["events_by_user"] == found["events_by_type"] == found["window_totals"]:
            return found
    return None


def enough(demo: Demo) -> bool:
    with contextlib.suppress(AssertionError, OSError):
        return demo.counts()["window_totals"].total() > 500
    return False


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_counts_survive_a_restart(demo: Callable[..., Demo], how: str) -> None:
    first = demo("--rate", "400")
    wait_for("something is counted", lambda: enough(first))
    before = first.counts()
    first.stop() if how == "stopped" else first.kill()

    # Nobody makes events any more: what is there stays as it is, and the tables come to agree.
    again = demo("--rate", "0")
    assert "Kept in" in again.log()
    after = wait_for("the tables agree", lambda: agreed(again))
    for table in TABLES:
        for start, count in before[table].items():
            assert after[table][start] >= count
    again.stop()
    last = demo("--rate", "0")
    assert wait_for("the tables agree", lambda: agreed(last)) == after
    last.stop()


def test_a_broker_that_is_named_wins(demo: Callable[..., Demo], tmp_path: pathlib.Path) -> None:
    named = demo("--rate", "50", "--broker", "memory://")
    assert "broker memory://" in named.log()
    assert "Kept in" not in named.log()
    named.stop()


def test_a_home_that_cannot_keep_anything_gives_the_memory_broker(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    broker, why = default_broker()
    assert broker == "memory://"
    assert "Not a directory" in why
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_broker() == (f"redis+embedded://{tmp_path}/streamflow/demo", "")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform == "linux":
        assert state_folder() == tmp_path / ".local" / "state" / "streamflow"
