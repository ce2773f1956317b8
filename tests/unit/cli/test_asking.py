"""Commands that ask a running worker: never one of another app."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from streamflow import App
from streamflow.cli import lag, tables
from tests.support.running import make_app, running


def app_with(table: str) -> App:
    app = make_app(web_enabled=True, web_port=0)
    topic = app.topic("in", key_type=str, value_type=int, partitions=1)
    kept = app.Table(table, default=int, partitions=1)

    @app.agent(topic)
    async def count(stream: Any) -> None:
        async for key, value in stream.items():
            kept[key] += value

    return app


async def run(command: Any, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, command, ["-A", "any", *arguments])


@pytest.mark.parametrize("module", [lag, tables])
async def test_the_tables_of_another_app_on_the_port_are_not_shown(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = app_with("mine"), app_with("others")
    async with running(other):
        url = str(other.web_server_url)
        monkeypatch.setattr(module, "load", lambda _: mine)
        result = await run(module.command, "--json", "--url", url)
        assert result.exit_code == 1
        assert "others" not in result.output
        for said in (url.rstrip("/"), other.conf.id, mine.conf.id, "--url"):
            assert said in result.output
        monkeypatch.setattr(module, "load", lambda _: other)
        result = await run(module.command, "--json", "--url", url)
        assert result.exit_code == 0, result.output
        assert "others" in json.dumps(json.loads(result.output))
