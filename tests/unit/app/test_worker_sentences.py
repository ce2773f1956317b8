"""What a worker says as a process: its banner, and errors that people make, in a sentence each."""

from __future__ import annotations

import logging
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from streamflow import App, Count, Event, TumblingWindow
from streamflow.app.worker.process import InASentence
from streamflow.cli import main
from streamflow.errors import ConfigurationError
from streamflow.settings import version
from streamflow.transports.kafka.client_logs import lower_client_logs

PROGRAM = """
import streamflow

app = streamflow.App("shop"{options})
orders = app.topic("orders", key_type=str, value_type=streamflow.Event, partitions=2)
by_user = app.Table("by_user", default=int).tumbling(60, expires=60)
app.aggregate("by_type", orders, by="type", values=streamflow.Count())

@app.agent(orders)
async def count(stream):
    async for key, value in stream.items():
        by_user[key] += 1

{more}
"""
STOPS = """
@app.task
async def end():
    import os, signal
    os.kill(os.getpid(), signal.SIGINT)
"""
LIMIT_S = 60


class Program:
    """A module with an app, and its worker as a process."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def work(self, *arguments: str, options: str = "", more: str = "", **environ: str) -> tuple[int, str]:
        """Exit code, and what it has said. ``environ`` without STREAMFLOW_."""
        (self.folder / "shop.py").write_text(PROGRAM.format(options=options, more=more))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMFLOW_")}
        kept |= {f"STREAMFLOW_{name}": value for name, value in {"WEB_PORT": "0", **environ}.items()}
        command = [sys.executable, "-m", "faust", "-A", "shop", *(arguments or ("worker", "-l", "info"))]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=kept,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
            check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace")


@pytest.fixture
def program(tmp_path: pathlib.Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def port() -> Iterator[int]:
    """One that is taken, by somebody who speaks no protocol of ours."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def test_the_banner_says_what_runs_and_where_and_ctrl_c_says_nothing_odd(program: Program) -> None:
    code, said = program.work("-D", "state", "worker", "-l", "info", more=STOPS, COMIT_INTERVAL="1")
    assert code == 0, said
    assert f"streamflow {version()}" in said
    for told in (
        "shop.count on orders",
        "by_user (tumbling)",
        "by_type",
        "dashboard at http://",
        str(program.folder / "state"),
        "no broker was named: all is in memory, and forgotten",
        "STREAMFLOW_COMIT_INTERVAL is no setting: do you mean STREAMFLOW_COMMIT_INTERVAL?",
    ):
        assert told in said, said
    assert "-INT-" not in said
    assert "AlreadyConfigured" not in said


@pytest.mark.parametrize("scheme", ["kafka", "redis"])
def test_a_broker_that_is_not_there_is_a_sentence(program: Program, scheme: str) -> None:
    code, said = program.work(BROKER=f"{scheme}://127.0.0.1:{free()}", BROKER_WAIT_S="0.6")
    assert code == 1
    assert "Traceback" not in said
    assert "trying again for 1 s (setting broker_wait_s)" in said
    assert "tried for 0.6 s (setting broker_wait_s). Is it running, and is this its address" in said
    assert "Unable connect" not in said
    assert "Connect" in said, "the reason is told"


def test_at_debug_the_traceback_is_there(program: Program) -> None:
    _, said = program.work("worker", "-l", "debug", BROKER=f"redis://127.0.0.1:{free()}", BROKER_WAIT_S="0")
    assert "Traceback" in said


def test_a_port_in_use_is_a_sentence(program: Program, port: int) -> None:
    code, said = program.work("worker", "-l", "info", "-p", str(port))
    assert code == 1
    assert "Traceback" not in said
    assert f"can't listen on 127.0.0.1:{port}" in said
    assert "take another port" in said


def test_a_right_that_is_missing_is_a_sentence(program: Program) -> None:
    (program.folder / "file").write_text("")
    options = ', store="rocksdb://"'
    code, said = program.work("-D", "file/state", "worker", "-l", "info", options=options)
    assert code == 1
    assert "the data folder file/state/shop/worker can't be used: [Errno 20] Not a directory" in said
    for odd in ("Traceback", "NoneType", "StoreError(", "Reraising"):
        assert odd not in said


@pytest.mark.parametrize(
    "module, said",
    [
        ("nowhere", "there is no module nowhere in "),
        ("shop.py", "there is no module shop.py in "),
        ("shop:ap", "module shop has no 'ap'; its apps are: shop:app"),
        ("shop:orders", "is no streamflow.App but Topic"),
        ("lost", "lost imports surely_not_there, which is not installed here"),
    ],
)
def test_a_wrong_module_or_attribute_is_a_sentence(
    program: Program, monkeypatch: pytest.MonkeyPatch, module: str, said: str
) -> None:
    (program.folder / "shop.py").write_text(PROGRAM.format(options="", more=""))
    (program.folder / "lost.py").write_text("import surely_not_there\n")
    monkeypatch.chdir(program.folder)
    monkeypatch.syspath_prepend(str(program.folder))
    for name in ("shop", "lost"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    result = CliRunner().invoke(main, ["lag", "-A", module])
    assert result.exit_code == 2
    assert said in result.output.replace("\n", " ")
    for name in ("shop", "lost"):
        sys.modules.pop(name, None)


def test_only_errors_that_people_make_lose_their_traceback() -> None:
    def told(error: Exception, name: str) -> logging.LogRecord:
        try:
            raise error
        except type(error):
            record = logging.LogRecord(name, 40, "", 0, "Error: %r", (error,), sys.exc_info())
        assert InASentence().filter(record)
        return record

    ours = told(ConfigurationError("topic 'x' is gone"), "faust.worker")
    assert (ours.getMessage(), ours.exc_info) == ("Error: topic 'x' is gone", None)
    assert told(ValueError("bug"), "faust.worker").exc_info is not None
    assert told(OSError("somewhere"), "shop").exc_info is not None


def test_an_election_on_a_fresh_broker_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    lower_client_logs()
    lower_client_logs()
    logger = logging.getLogger("aiokafka.consumer.group_coordinator")
    with caplog.at_level(logging.INFO):
        logger.error("Group Coordinator Request failed: %s", "[Error 15] CoordinatorNotAvailableError")
        logger.error("Heartbeat failed: %r", "something else")
    assert [(r.levelname, r.getMessage()[:9]) for r in caplog.records] == [
        ("INFO", "Group Coo"),
        ("ERROR", "Heartbeat"),
    ]


def test_an_apps_own_variables_are_not_taken_for_mistyped_ones() -> None:
    env = {
        "STREAMFLOW_WINDOW_S": "10",
        "STREAMFLOW_TEST_KAFKA": "here",
        "STREAMFLOW_SEED": "1",
        "STREAMFLOW_FAULT_ROUNDS": "60",
        "STREAMFLOW_BROKR": "x",
        "STREAMFLOW_WEB_PROT": "1",
        "STREAMFLOW_WEB_PORT": "0",
        "STREAMFLOW_COMMIT_INTERVAL": "1",
    }
    assert App("names", env=env).settings.mistyped == {
        "STREAMFLOW_BROKR": "STREAMFLOW_BROKER",
        "STREAMFLOW_WEB_PROT": "STREAMFLOW_WEB_PORT",
    }


def test_what_an_app_declares_is_told_by_kind() -> None:
    app = App("kinds", env={})
    topic = app.topic("in", key_type=str, value_type=Event, partitions=1)
    app.aggregate("a", topic, by="type", values=Count(), window=TumblingWindow(10))
    app.Table("t", default=int)
    assert app.declared() == {"agents": [], "tables": ["t"], "aggregates": ["a (tumbling)"]}
