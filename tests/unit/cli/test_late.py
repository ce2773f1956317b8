"""``streamflow late`` and ``streamflow verify`` on the command line."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from streamflow import App, Count, Event, TumblingWindow
from streamflow.cli import late, verify
from streamflow.cli.verify import report_object
from streamflow.verify.report import Difference, PartitionCount, Report
from tests.support.running import T0_MS, event, make_app, running, until

WINDOW = TumblingWindow(size_s=10, idle_close_s=None)


def app_with_table() -> tuple[App, Any]:
    app = make_app(web_enabled=True, web_port=0)
    topic = app.topic("in", key_type=str, value_type=Event, partitions=1)
    app.aggregate("by_type", topic, by="type", window=WINDOW, values=Count())
    return app, topic


async def run(command: Any, *arguments: str) -> Result:
    """Runs a command beside this event loop, which serves what it asks."""
    return await asyncio.to_thread(CliRunner().invoke, command, ["-A", "any", *arguments])


async def test_late_lists_and_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    app, topic = app_with_table()
    monkeypatch.setattr(late, "load", lambda module: app)
    async with running(app):
        for kind, at_ms in (("click", 1), ("click", 20_000), ("click", 2), ("view", 3)):
            await topic.send(key="ann", value=event(kind, T0_MS + at_ms))
        url = ("--url", str(app.web_server_url))

        async def listed() -> Any:
            result = await run(late.command, "by_type", "--json", *url)
            assert result.exit_code == 0, result.output
            body = json.loads(result.output)
            return body if len(body["late"]) == 2 else None

        body = await until(listed)
        assert [(e["key"], e["offset"], e["behind_ms"]) for e in body["late"]] == [
            ("click", "2", 10_000),
            ("view", "3", 10_000),
        ]
        one = json.loads((await run(late.command, "by_type", "--json", "--limit", "1", *url)).output)
        assert [e["offset"] for e in one["late"]] == ["2"]
        shown = (await run(late.command, "by_type", *url)).output
        assert "in[0]@2" in shown
        assert "2 came, 0 were applied, 0 were lost" in shown
        applied = await run(late.command, "by_type", "--apply", *url)
        assert (applied.exit_code, applied.output.split(",")[0]) == (0, "2 applied")
        assert "2 came, 2 were applied" in (await run(late.command, "by_type", *url)).output
        unknown = await run(late.command, "none", *url)
        assert unknown.exit_code == 1
        assert "no table 'none'" in unknown.output


async def test_verify_needs_a_broker_that_others_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = app_with_table()
    monkeypatch.setattr(verify, "load", lambda module: app)
    result = await run(verify.command, "by_type")
    assert result.exit_code == 2
    assert "memory://" in result.output


def counted(**recounted: int) -> PartitionCount:
    counters = {"in": 3, "counted": 2, "late": 1}
    return PartitionCount(0, 7, counters, {**counters, **recounted})


@pytest.mark.parametrize(
    "report, code, said",
    [
        (Report("t", [counted()], rows=4), 0, "4 rows, each as the recount has it"),
        (Report("t", [counted(late=0)], rows=4), 1, "0 of 4 rows differ"),
        (
            Report("t", [counted()], 4, 1, [Difference("k", ("a", "b"), 1, None)], ["a note"]),
            1,
            "1 of 4 rows differ",
        ),
    ],
    ids=["right", "counters", "rows"],
)
async def test_verify_exits_with_one_on_a_difference(
    monkeypatch: pytest.MonkeyPatch, report: Report, code: int, said: str
) -> None:
    async def verified(*_: Any) -> Report:
        return report

    app, _ = app_with_table()
    monkeypatch.setattr(verify, "load", lambda module: app)
    monkeypatch.setattr(verify, "scheme_of", lambda url: "kafka")
    monkeypatch.setattr(verify, "_verify", verified)
    result = await run(verify.command, "t")
    assert (result.exit_code, said in result.output) == (code, True), result.output
    assert all(note in result.output for note in report.notes)
    result = await run(verify.command, "t", "--json")
    assert result.exit_code == code
    assert json.loads(result.output) == json.loads(json.dumps(report_object(report)))
    assert json.loads(result.output)["ok"] is (code == 0)
