"""Runs one contestant in a process of its own and judges what it reports."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.bench import streams, topics
from tests.bench.contestants import Contestant
from tests.bench.setups import Unavailable
from tests.bench.workload import Answer
from tests.support.server import die_with_parent

ROOT = pathlib.Path(__file__).parents[2]
TIME_LIMIT_S = 600.0
STOP_S = 15.0
LOG_CHARACTERS = 3_000
BRIEF_CHARACTERS = 200


@dataclasses.dataclass
class Outcome:
    """``status``: ok, wrong, failed or skipped; ``reason`` says why for all but ok."""

    status: str
    reason: str = ""
    events: int = 0
    # of its own report
    cpu_s: float = 0.0
    wall_s: float = 0.0
    rss_mb: int = 0
    versions: dict[str, str] = dataclasses.field(default_factory=dict)


async def compete(contestant: Contestant, broker: str, run: str, events: int, right: Answer) -> Outcome:
    """One round. ``broker`` is host:port of its server. Never raises for what the contestant does."""
    logs: Any = streams if contestant.server == "redis" else topics
    try:
        command = contestant.command()
    except Unavailable as exc:
        return Outcome("skipped", str(exc))
    group = f"bench-{run}-{contestant.name}-{os.urandom(3).hex()}"
    with tempfile.TemporaryDirectory(prefix="streamflow-bench-") as name:
        folder = pathlib.Path(name)
        (folder / "state").mkdir()
        environment = {
            "BENCH_BROKER": broker,
            "BENCH_SERVER": contestant.server,
            "BENCH_ENDS": json.dumps(streams.ends(broker, run, events) if logs is streams else {}),
            "BENCH_TOPIC": topics.topic_name(run, events),
            "BENCH_EVENTS": str(events),
            "BENCH_GROUP": group,
            "BENCH_STATE": str(folder / "state"),
            "BENCH_RESULT": str(folder / "result.json"),
            "PYTHONPATH": str(ROOT),
        }
        result, log = execute(command, environment, folder)
    if result is None:
        print(f"{contestant.name} failed; the end of its log:\n{log}", file=sys.stderr)
        return Outcome("failed", brief(log), events)
    outcome = Outcome(
        "ok", "", events, result["cpu_s"], result["wall_s"], result["rss_mb"], result["versions"]
    )
    counted = Answer(result["rows"], result["total"], result["digest"])
    if counted != right:
        outcome.status, outcome.reason = "wrong", difference(counted, right)
    if contestant.produces or outcome.status != "ok":
        return outcome
    committed = await logs.committed(broker, group, topics.topic_name(run, events))
    if committed != events:
        outcome.status, outcome.reason = "wrong", f"committed {committed} of {events} events"
    return outcome


def execute(
    command: list[str], environment: dict[str, str], folder: pathlib.Path
) -> tuple[dict[str, Any] | None, str]:
    """The contestant's report, or None and the end of its log."""
    result = pathlib.Path(environment["BENCH_RESULT"])
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **environment},
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - one C call, nothing that another thread locks
        )
        deadline_s = time.monotonic() + TIME_LIMIT_S
        while not result.exists() and process.poll() is None and time.monotonic() < deadline_s:
            # Rarely: this process shares the cores.
            time.sleep(0.2)
        stop(process)
    if result.exists():
        return json.loads(result.read_text()), ""
    text = (folder / "log").read_text(errors="replace")[-LOG_CHARACTERS:].strip()
    return None, text or f"no result and no output (exit code {process.returncode})"


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends it in order where it can be; its report lies there already."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def brief(log: str) -> str:
    """The line that names the error: results.json is no place for a machine's paths."""
    lines = [line.strip() for line in log.splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines)[-1].replace(str(ROOT), ".")[:BRIEF_CHARACTERS]


def difference(counted: Answer, right: Answer) -> str:
    if counted.total != right.total:
        return f"counted {counted.total} events of {right.total}, in {counted.rows} rows of {right.rows}"
    if counted.rows != right.rows:
        return f"{counted.rows} rows instead of {right.rows}"
    return "the sum is right and the rows are not"
