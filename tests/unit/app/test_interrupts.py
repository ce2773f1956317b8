"""The second Ctrl-C leaves at once, also while an agent blocks the event loop."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

PROGRAM = """
import time
import streamflow

app = streamflow.App("blocks")
numbers = app.topic("numbers", key_type=str, value_type=int, partitions=1)

@app.agent(numbers)
async def block(stream):
    async for number in stream:
        print("it blocks", flush=True)
        time.sleep(600)

@app.task
async def begin():
    await numbers.send(key="k", value=1)
"""
LIMIT_S = 30.0


def test_the_second_ctrl_c_leaves_at_once_while_an_agent_blocks(tmp_path: pathlib.Path) -> None:
    (tmp_path / "blocks.py").write_text(PROGRAM)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STREAMFLOW_")}
    environ |= {"STREAMFLOW_WEB_PORT": "0", "STREAMFLOW_BROKER": "memory://"}
    command = [sys.executable, "-m", "faust", "-A", "blocks", "worker", "-l", "info"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        worker = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=out, stderr=out)
    try:
        end_s = time.monotonic() + LIMIT_S
        while "it blocks" not in log.read_text() and time.monotonic() < end_s:
            time.sleep(0.05)
        worker.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert worker.poll() is None  # the first one asks for a clean end, and that has to wait
        worker.send_signal(signal.SIGINT)
        assert worker.wait(LIMIT_S) == 130
    finally:
        worker.kill()
        worker.wait()
    assert "second Ctrl-C: left at once" in log.read_text()
