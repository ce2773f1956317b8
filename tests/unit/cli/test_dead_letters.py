"""A dead letter as the commands show it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from click.testing import CliRunner

from streamflow import Retry
from streamflow.cli import dead_letters
from streamflow.engine.dead_letters import dead_letter, shortened
from streamflow.engine.letters import Letter
from streamflow.errors import ConfigurationError
from streamflow.transports.base import Record
from tests.support.running import until
from tests.support.web_apps import make_web_app, served


def a_letter(value: bytes) -> Record:
    return dead_letter(
        "in-dead-letters",
        1,
        source=("in", 0, 7),
        key=b"k",
        value=value,
        headers=[("cut", b"the event's own")],
        reason="wrong-type",
        error="no number",
    )


def shown(record: Record) -> Letter:
    return Letter("in-dead-letters", 0, 3, record.key, record.value, tuple(record.headers))


def test_a_whole_letter_is_restored_with_the_events_own_headers() -> None:
    letter = shown(a_letter(b"abc"))
    assert letter.cut is None
    assert letter.restored() == Record("in", 0, b"k", b"abc", (("cut", b"the event's own"),))


def test_a_letter_that_was_cut_says_how_much_there_was_however_often_it_was_cut() -> None:
    once = shortened(a_letter(b"x" * 100_000))
    assert once is not None
    twice = shortened(once)
    assert twice is not None
    for record in (once, twice):
        assert shown(record).cut == "value of 100000 bytes, key of 1 bytes"
        assert shown(record).source == ("in", 0, 7)
        with pytest.raises(ConfigurationError, match="only the beginning"):
            shown(record).restored()
    assert shortened(twice) is None


async def test_letters_on_memory_are_listed_replayed_and_dropped_through_their_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = make_web_app(topic_partitions=1, web_rights=["* read", "* admin"])
    numbers = app.topic("numbers", key_type=str, value_type=int)
    seen: list[int] = []

    @app.agent(numbers, name="take", retry=Retry(attempts=1))
    async def take(stream: Any) -> None:
        async for number in stream:
            if number < 0:
                raise ValueError("it is negative")
            seen.append(number)

    monkeypatch.setattr(dead_letters, "load", lambda _: app)

    async def call(*arguments: str) -> Any:
        command = [*arguments, "-A", "shop"]
        result = await asyncio.to_thread(CliRunner().invoke, dead_letters.command, command)
        return result.exit_code, result.stdout

    async with served(app) as asker:
        await numbers.send(key="ann", value=-1)
        await numbers.send(key="bob", value=-2)

        async def both() -> bool:
            _, body = await asker.ask("/v1/dead-letters")
            return len(body["dead_letters"]) == 2

        await until(both)
        code, text = await call("list")
        assert (code, max(map(len, text.splitlines())) <= 80) == (0, True)
        assert "agent-failed at numbers:0:0 by take, 1 attempts: ValueError: it is" in text
        code, text = await call("show", "numbers:0:1")
        assert (code, "raise ValueError" in text, "source     numbers:0:1" in text) == (0, True, True)
        assert (await call("drop", "numbers[0]@1", "--yes"))[0] == 0
        assert (await call("drop", "numbers:0:7", "--yes"))[0] == 2
        assert (await call("replay", "numbers:0:1", "--yes"))[0] == 2  # it was dropped
        assert await call("replay", "--all", "--agent", "take", "--value", "5", "--yes", "--json") == (
            0,
            '{"replayed": 1}\n',
        )
        await until(lambda: seen == [5])
        assert await call("list", "--json") == (0, "[]\n")
        assert len(json.loads((await call("list", "--state", "all", "--json"))[1])) == 2
    code, text = await call("list")
    assert code == 2
