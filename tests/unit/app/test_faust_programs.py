"""Programs as Faust's users write them run with only their import changed."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner
from faust.cli.faust import cli

from tests.support.running import logged, running, until

Load = Callable[..., Any]
T0_S = 1_600_000_000


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports one of the programs afresh, with the broker in memory."""
    for name, value in {
        "BROKER": "memory://",
        "COMMIT_INTERVAL": "0.02",
        "FETCH_WAIT_MS": "5",
        "WEB_ENABLED": "false",
    }.items():
        monkeypatch.setenv(f"STREAMFLOW_{name}", value)

    def load(name: str, **settings: str) -> Any:
        for setting, value in settings.items():
            monkeypatch.setenv(f"STREAMFLOW_{setting}", value)
        module = f"tests.unit.app.programs.{name}"
        sys.modules.pop(module, None)
        return importlib.import_module(module)

    return load


async def test_greetings(load: Load) -> None:
    program = load("greetings")
    async with running(program.app):
        await program.greet.cast(b"hello")
        await program.greetings_topic.send(value="you")
        await until(lambda: sorted(program.heard) == [b"hello", b"you"])


async def test_word_count(load: Load) -> None:
    program = load("word_count", WEB_ENABLED="true", WEB_PORT="0")
    async with running(program.app), aiohttp.ClientSession() as client:
        for post in ("the cat and the dog", "The END"):
            await program.shuffle_words.send(value=post)
        wanted = {"the": 3, "cat": 1, "and": 1, "dog": 1, "end": 1}
        await until(lambda: dict(program.word_counts) == wanted)
        async with client.get(f"{program.app.web_server_url}/count/the/") as answer:
            assert await answer.json() == {"the": 3}


async def test_withdrawals(load: Load) -> None:
    program = load("withdrawals")
    async with running(program.app):
        for user, country, amount, second in (
            ("ann", "fr", 5.0, 0),
            ("ann", "fr", 7.0, 9),
            ("bob", "fr", 2000.0, 11),
            ("bob", "de", -1.0, 12),
        ):
            value = program.Withdrawal(user=user, country=country, amount=amount, date=program.at(second))
            await program.withdrawals_topic.send(key=user, value=value, timestamp=T0_S + second)
        await until(lambda: len(program.user_to_total.keys()) == 2 and program.large)
        at_first = program.country_to_total.relative_to(program.at(0))
        await until(lambda: at_first["fr"].value() == 12.0)
        assert program.country_to_total.relative_to(program.at(10))["fr"].value() == 2000.0
        assert program.user_to_total.relative_to(T0_S)["ann"].value() == 12
        assert program.recent.relative_to(T0_S + 9)["ann"].value() == 2
        assert program.recent.relative_to(T0_S + 12)["bob"].value() == 2
        assert program.large == [(program.large[0][0], "bob", 0.0)]


async def test_arithmetic(load: Load) -> None:
    program = load("arithmetic")
    async with running(program.app):
        await until(lambda: program.results == [8, 8] or None)
        assert await program.adding.ask(program.Add(a=1, b=2)) == 3
        assert await program.mul.ask(3) == 3
        assert await program.keyed.ask(3, key=4) == 12
        assert await program.adding.join([program.Add(a=n, b=n) for n in range(5)]) == [0, 2, 4, 6, 8]
        assert sorted([value async for value in program.mul.map([1, 2, 3])]) == [1, 2, 3]
        assert await program.keyed.kvjoin([(1, 1), (2, 2)]) == [1, 4]


async def test_sets(load: Load) -> None:
    program = load("sets", WEB_ENABLED="true", WEB_PORT="0")
    async with running(program.app), aiohttp.ClientSession() as client:
        for whom in ("bob", "cleo", "bob"):
            await program.befriend.send(key="ann", value=whom)
        await until(lambda: set(program.friends["ann"]) == {"bob", "cleo"})
        url = f"{program.app.web_server_url}/friends/ann"
        async with client.get(url) as answer:
            assert await answer.json() == {"friends": ["bob", "cleo"]}
        await program.friends.manager.add("ann", "dan")
        await until(lambda: set(program.friends["ann"]) == {"bob", "cleo", "dan"})
        async with client.delete(url) as answer:
            assert answer.status == 200
        await until(lambda: not program.friends["ann"])
        assert program.followed["ann"].value() == {"bob", "cleo"}


async def test_models(load: Load) -> None:
    program = load("models")
    async with running(program.app):
        ann = program.Personal(id="1", name="ann")
        firm = program.Business(id="2", owners=[ann], limits={"day": Decimal("1.50")})
        await program.anything.send(key="firm", value=firm)
        await program.anything.send(key="plain", value={"a": [1]})
        await until(lambda: len(program.seen["anything"]) == 2)
        assert {"a": [1]} in program.seen["anything"]
        found = next(value for value in program.seen["anything"] if isinstance(value, program.Business))
        assert found.owners == [ann]
        assert isinstance(found.owners[0], program.Personal)

        at = datetime(2020, 1, 2, tzinfo=UTC)
        order = program.Order(id=1, price=Decimal("9.90"), at=at)
        await program.orders.send(value=order)
        raw = program.app.topic("orders", value_serializer="raw")
        await raw.send(value=b'{"id": "7", "price": "1.1", "at": "2020-01-02T00:00:00", "more": 1}')
        await raw.send(value=b'{"id": 1, "price": "1", "at": "2020-01-02T00:00:00", "code": "too long"}')
        await until(lambda: len(program.seen["orders"]) == 2)
        assert order in program.seen["orders"]
        other = next(value for value in program.seen["orders"] if value.id == 7)
        assert (other.price, other.code) == (Decimal("1.1"), "none")
        ((_, value, headers),) = await logged(program.app, "orders-dead-letters", 1)
        assert b"too long" in value
        assert headers["source-topic"] == b"orders"

        await program.zipped_topic.send(value=order)
        await until(lambda: len(program.seen["zipped"]) == 1)
        ((value, wire),) = program.seen["zipped"]
        assert value == order
        assert b"9.90" not in wire
        await program.tagged.send(value={"x": 1})
        await until(lambda: program.seen["tagged"] == [("dict", {"x": 1})])


async def test_pipeline(load: Load) -> None:
    program = load("pipeline")
    async with running(program.app):
        for level, text in (("info", "a"), ("error", "b"), ("error", "c"), ("error", "d")):
            await program.lines.send(value=program.Line(level=level, text=text))
        await until(lambda: program.alerted == ["b", "c", "d"])
        await until(lambda: program.batches == [["b", "c"], ["d"]])
        assert program.seen_events == [("errors", n, True) for n in range(3)]


async def test_periodic(load: Load) -> None:
    program = load("periodic")
    async with running(program.app):
        await until(lambda: {"leader", "tick", "service", "service timer", "task"} <= set(program.log))
    assert program.log[0] == "configured"
    assert "noon" not in program.log


async def test_everywhere(load: Load) -> None:
    program = load("everywhere")
    async with running(program.app):
        await program.learn.send(key="eur", value=1.5)
        await until(lambda: program.rates["eur"] == 1.5)
        for amount, second in ((10, 0), (20, 1), (5, 30)):
            value = {"amount": amount, "currency": "eur"}
            await program.orders_topic.send(key="k", value=value, timestamp=T0_S + second)
        await until(lambda: program.priced == ["ready", 15.0, 30.0, 7.5])
        await until(lambda: program.closed == [("eur", 30.0)])


@pytest.fixture
def new_loop() -> Iterator[None]:
    """Faust's commands close the loop that they find."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


COMMANDS: list[tuple[list[str], str]] = [
    (["agents"], ".shuffle_words"),
    (["agents", "--local"], "words"),
    (["tables"], "How often each word was seen."),
    (["models"], "Word"),
    (["model", "tests.unit.app.programs.word_count.Word"], "word"),
    (["reset"], "word_counts"),
    (["clean-versions"], ""),
]


@pytest.mark.usefixtures("new_loop")
@pytest.mark.parametrize("command, said", COMMANDS)
def test_fausts_commands_know_the_app(load: Load, command: list[str], said: str) -> None:
    program = load("word_count")
    result = CliRunner().invoke(cli, ["--app", f"{program.__name__}:app", *command])
    assert result.exit_code == 0, result.output
    assert said in result.output


@pytest.mark.usefixtures("new_loop")
def test_commands_of_the_app_run(load: Load) -> None:
    program = load("periodic")
    result = CliRunner().invoke(cli, ["--app", f"{program.__name__}:app", "hello", "bob", "--loud"])
    assert (result.exit_code, result.output.strip()) == (0, "HELLO bob")
