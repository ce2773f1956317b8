"""Sources and sinks on real brokers: one worker after the other, and two at once, each record once."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from streamflow import App
from streamflow.connectors import FileSink, FileSource
from tests.support.redis_server import RedisServer

LIMIT_S = 90.0
LINES = 400


@pytest.fixture(params=["kafka", "redis"])
def broker(request: pytest.FixtureRequest) -> str:
    if request.param == "kafka":
        return f"kafka://{request.getfixturevalue('kafka')}"
    make_redis: Callable[[], RedisServer] = request.getfixturevalue("make_redis")
    return f"redis://127.0.0.1:{make_redis().port}"


def make_app(broker: str, name: str, folder: pathlib.Path, worker: str) -> App:
    options: dict[str, Any] = {
        "broker": broker,
        "commit_interval": 0.1,
        "web_enabled": False,
        "env": {},
        "datadir": str(folder / worker),
    }
    app = App(name, **options)
    topic = app.topic(f"{name}-in", key_type=str, partitions=3)
    app.source(
        "files", FileSource(folder / "in" / "*.ndjson", key="user", poll_s=0.05, partitions=2), to=topic
    )
    app.sink(topic, FileSink(folder / "out"), batch=50, within_s=0.05)
    return app


def written(folder: pathlib.Path) -> list[int]:
    # Not rglob: what lies deeper is the owners', who make and clear folders while we look.
    files = (folder / "out").glob("*/*/*.ndjson")
    return sorted(json.loads(line)["n"] for path in files for line in path.read_text().splitlines())


async def until_written(folder: pathlib.Path, count: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            if len(written(folder)) >= count:
                return
            await asyncio.sleep(0.1)


def put(folder: pathlib.Path, first: int) -> None:
    """So many lines, in files of 40."""
    (folder / "in").mkdir(exist_ok=True)
    for begin in range(first, first + LINES, 40):
        lines = [json.dumps({"user": f"u{n % 9}", "n": n}) + "\n" for n in range(begin, begin + 40)]
        (folder / "in" / f"{begin:06}.ndjson").write_text("".join(lines))


async def test_each_line_is_written_once_over_restarts_and_rebalances(
    broker: str, tmp_path: pathlib.Path
) -> None:
    name = f"files-{uuid4().hex[:8]}"
    first = make_app(broker, name, tmp_path, "first")
    put(tmp_path, 0)
    await first.start()
    await until_written(tmp_path, LINES // 2)
    await first.stop()  # in the middle of it, as often as not
    first, second = (make_app(broker, name, tmp_path, worker) for worker in ("first", "second"))
    await first.start()
    put(tmp_path, LINES)
    await second.start()  # takes some of the partitions over
    await until_written(tmp_path, LINES * 2)
    await first.stop()
    put(tmp_path, LINES * 2)
    await until_written(tmp_path, LINES * 3)
    await second.stop()
    assert written(tmp_path) == list(range(LINES * 3))
