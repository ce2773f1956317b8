"""Commands that look at a broker, and change what is on it: doctor, dead-letters, reset."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from click.testing import CliRunner

from streamflow import App, ConfigurationError
from streamflow.cli import main
from streamflow.cli.connected import engine_of
from streamflow.engine.progress_board import RESET_BEGUN
from streamflow.transports.base import Record, TopicSpec

PROGRAM = """
import streamflow

app = streamflow.App("{id}", broker="{broker}", web_enabled=False, commit_interval=0.05)
topic = app.topic("{id}-in", key_type=str, value_type=int, partitions=2)
counts = app.Table("counts", default=int)
app.aggregate("sums", topic, by=lambda value: value % 2, values=streamflow.Count())
minutes = streamflow.TumblingWindow(60, grace_s=60)
app.aggregate("timed", topic, by=lambda value: value % 2, window=minutes, values=streamflow.Count())
bad = set()

@app.agent(topic, retry=streamflow.Retry(attempts=1))
async def count(stream):
    async for key, value in stream.items():
        if value in bad:
            raise ValueError("not yet")
        counts[key] += value
"""
WAIT_S = 60.0


@pytest.fixture(params=["kafka", "redis"])
def program(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module with an app of its own on the broker."""
    name = f"commands_{uuid4().hex[:8]}"
    if request.param == "kafka":
        broker = f"kafka://{request.getfixturevalue('kafka')}"
    else:
        broker = request.getfixturevalue("redis_server").url
    (tmp_path / f"{name}.py").write_text(PROGRAM.format(id=name.replace("_", "-"), broker=broker))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield __import__(name)
    sys.modules.pop(name, None)


def call(program: Any, *arguments: str) -> tuple[int, Any]:
    """Exit code and answer of a command, in JSON where it is some."""
    result = CliRunner().invoke(main, [*arguments, "-A", program.__name__, "--json"])
    try:
        return result.exit_code, json.loads(result.stdout)
    except ValueError:
        return result.exit_code, result.output


async def counted(app: App, program: Any, wanted: dict[str, int]) -> None:
    async with asyncio.timeout(WAIT_S):
        while dict(program.counts) != wanted:  # noqa: ASYNC110  # what it waits for is another's to say
            await asyncio.sleep(0.05)


async def work(program: Any, events: list[tuple[str, int]], wanted: dict[str, int]) -> None:
    """A worker's life: events come, and are counted."""
    app: App = program.app
    async with asyncio.timeout(WAIT_S):
        await app.start()
    try:
        for key, value in events:
            await (await program.topic.send(key=key, value=value))
        await counted(app, program, wanted)
        async with asyncio.timeout(WAIT_S):
            # Those who are behind come up to the others.
            while (active := app.engine.active) is None or active.unopened or active.behind:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        await app.stop()


def fresh(program: Any) -> Any:
    """The program as another process would import it."""
    sys.modules.pop(program.__name__, None)
    return __import__(program.__name__)


def test_an_apps_dead_letters_are_replayed_and_the_app_is_started_anew(program: Any) -> None:
    code, findings = call(program, "doctor")
    assert code == 0, findings
    assert {"check": f"topic {program.topic.get_topic_name()}", "status": "warning"}.items() <= next(
        each for each in findings if each["check"].startswith("topic")
    ).items()

    program.bad.add(7)
    asyncio.run(work(program, [("ann", 1), ("bob", 7), ("ann", 2)], {"ann": 3}))
    code, letters = call(program, "dead-letters", "list")
    assert code == 0, letters
    (letter,) = letters
    assert (letter["key"], letter["value"], letter["reason"]) == ("bob", 7, "agent-failed")
    assert "not yet" in letter["error"]
    assert call(program, "dead-letters", "replay")[0] == 2
    assert call(program, "dead-letters", "replay", "nowhere[0]@0", "--yes")[0] == 2

    program = fresh(program)
    assert call(program, "dead-letters", "replay", letter["id"], "--yes") == (0, {"replayed": 1})
    assert call(program, "dead-letters", "list") == (0, [])
    assert call(program, "dead-letters", "replay", letter["id"], "--yes")[0] == 2  # done already
    code, whole = call(program, "dead-letters", "show", letter["id"])
    assert (code, whole["state"], "not yet" in whole["traceback"]) == (0, "replayed", True)
    asyncio.run(work(program, [], {"ann": 3, "bob": 7}))
    code, findings = call(fresh(program), "doctor")
    assert code == 0, findings
    looked_at = [each for each in findings if each["check"].startswith(("topic", "table", "keys"))]
    assert {each["status"] for each in looked_at} == {"ok"}

    program = fresh(program)
    code, told = call(program, "reset", "--yes")
    assert code == 0, told
    app_id = program.app.conf.id
    timed = ("timed-changelog", "timed-late", "timed-shuffle")
    internal = ("counts-changelog", "progress", "sums-changelog", "sums-shuffle", *timed)
    assert told["deleted"] == [f"{app_id}-{name}" for name in internal]
    # Everything that lies in the source topic is counted again, from its beginning.
    asyncio.run(work(fresh(program), [("ann", 10)], {"ann": 13, "bob": 14}))


def test_one_table_is_started_anew_and_all_else_goes_on(program: Any) -> None:
    """The agent takes nothing again; the table is counted from the beginning of its topic, beside it."""
    asyncio.run(work(program, [("ann", 1), ("bob", 2), ("ann", 3)], {"ann": 4, "bob": 2}))
    code, told = call(fresh(program), "reset", "tmied", "--yes")
    assert code == 2
    assert "no table 'tmied' (there are: counts, sums, timed)" in told
    program = fresh(program)
    code, told = call(program, "reset", "timed", "--yes")
    assert code == 0, told
    app_id = program.app.conf.id
    assert told["deleted"] == [f"{app_id}-timed-{name}" for name in ("changelog", "late", "shuffle")]
    asyncio.run(work(fresh(program), [("ann", 5)], {"ann": 9, "bob": 2}))
    for table in ("timed", "sums"):
        code, report = call(fresh(program), "verify", table)
        assert (code, report["ok"], report["notes"]) == (0, True, []), report
        assert sum(count["counters"].get("in", 0) for count in report["partitions"]) == 4


def test_a_reset_that_ended_in_the_middle_is_told_of_and_can_be_ended(program: Any) -> None:
    asyncio.run(work(program, [("ann", 1)], {"ann": 1}))

    async def begin() -> None:
        async with engine_of(program.app) as engine:
            key = orjson.dumps(["declaration", "sums"])
            record = Record(engine.topology.topics.progress, 0, key, orjson.dumps(RESET_BEGUN))
            await engine.transport.send([record])

    program = fresh(program)
    asyncio.run(begin())

    async def try_it() -> BaseException | None:
        worker = fresh(program).app
        async with asyncio.timeout(WAIT_S):
            await worker.start()
            while not worker.crashed:  # noqa: ASYNC110  # what it waits for is another's to say
                await asyncio.sleep(0.05)
        await worker.stop()
        failure: BaseException | None = worker.crash_reason
        return failure

    assert "its reset was begun and did not end" in str(asyncio.run(try_it()))
    assert call(fresh(program), "reset", "sums", "--yes")[0] == 0
    asyncio.run(work(fresh(program), [("ann", 5)], {"ann": 6}))
    assert call(fresh(program), "verify", "sums")[0] == 0


def test_state_in_a_topic_whose_records_are_deleted_is_told_of_and_no_worker_starts(program: Any) -> None:
    app: App = program.app
    name = f"{app.conf.id}-counts-changelog"

    async def make() -> None:
        async with engine_of(app) as engine:
            await engine.transport.create_topics([TopicSpec(name, 2)])

    asyncio.run(make())
    code, findings = call(fresh(program), "doctor")
    assert code == 1
    (told,) = [each for each in findings if each["status"] == "error"]
    assert told["check"] == f"topic {name}"
    assert "cleanup.policy=compact" in told["said"]

    async def try_it() -> None:
        worker = fresh(program).app
        try:
            await worker.start()
        finally:
            await worker.stop()

    with pytest.raises(ConfigurationError, match=f"{name}.*cleanup.policy=compact"):
        asyncio.run(try_it())


def test_nothing_is_deleted_while_a_worker_runs(program: Any) -> None:
    async def try_it() -> tuple[int, Any]:
        async with asyncio.timeout(WAIT_S):
            await program.app.start()
        try:
            await (await program.topic.send(key="ann", value=1))
            await counted(program.app, program, {"ann": 1})
            return await asyncio.to_thread(call, fresh(program), "reset", "--yes")
        finally:
            await program.app.stop()

    code, told = asyncio.run(try_it())
    assert code == 2, told
    assert "stop them first" in told


def test_send_checks_the_value_and_makes_no_topic_by_a_slip(program: Any) -> None:
    topic = program.topic.topics[0]
    code, told = call(program, "send", topic, "1", "-k", "a")
    assert (code, told["topic"]) == (0, topic)
    code, said = call(program, "send", topic, '"many"')
    assert code == 2
    assert "its readers would set this value aside, it is no int: wrong-type" in said
    slip = f"{topic}x"
    code, said = call(program, "send", slip, "1")
    assert code == 2
    assert f"there is no topic '{slip}'" in said
    assert f"do you mean '{topic}'?" in said.replace("\n", " ")
    code, said = call(program, "send", slip, "1")
    assert code == 2, "asking has made none"
    code, told = call(program, "send", slip, "1", "--create")
    assert (code, told["topic"]) == (0, slip)
    code, _ = call(program, "send", slip, "2")
    assert code == 0, "it is there by now"
