"""What an app of stock Faust finds here; see docs/reference/faust-compatibility.md."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import faust
import pytest
from faust.serializers import codecs

import streamflow
from streamflow import App, ConfigurationError
from streamflow.clock import SystemClock
from streamflow.transports.base import Record, TopicSpec
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import log, make_app, running, until

OPTIONS = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_enabled": False, "env": {}}
COMMAND_S = 60


def test_every_public_name_of_faust_is_offered() -> None:
    missing = [name for name in faust.__all__ if not hasattr(streamflow, name)]
    assert missing == []
    kept = [name for name in faust.__all__ if getattr(streamflow, name) is getattr(faust, name)]
    assert {"Record", "Schema", "Sensor", "Service", "Stream", "current_event", "uuid"} <= set(kept)
    for name in ("App", "Agent", "Table", "Topic", "Worker"):
        active: Any = getattr(streamflow, name)
        assert active is not getattr(faust, name)
    assert issubclass(streamflow.App, faust.App)
    assert streamflow.Event.__name__ != streamflow.EventT.__name__


async def stock_changelog(broker: MemoryBroker, topic: str, partitions: int, key: Any, value: Any) -> None:
    """A changelog as stock Faust would have left it."""
    client = MemoryTransport(broker, "outside", "client")
    await client.start()
    await client.create_topics([TopicSpec(topic, partitions, compacted=True)])
    await client.send([Record(topic, 0, codecs.dumps("json", key), codecs.dumps("json", value))])
    await client.stop()


async def test_a_changelog_of_stock_faust_is_read_on() -> None:
    broker = MemoryBroker(SystemClock())
    window = faust.TumblingWindow(10.0)
    await stock_changelog(broker, "old-plain-changelog", 1, "ann", 41)
    key = ("ann", window.current(1_000.0))
    await stock_changelog(broker, "old-windows-changelog", 1, key, 7)
    app = App("old", transport=MemoryTransport(broker, "old", "one"), **OPTIONS)
    topic = app.topic("in", key_type=str, partitions=1)
    plain = app.Table("plain", default=int)
    windows = app.Table("windows", default=int).tumbling(10.0, expires=1e6)

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for key, _ in stream.items():  # noqa: PERF102  # a stream, not a dict
            plain[key] += 1
            windows[key] += 1

    async with running(app):
        assert plain["ann"] == 41
        await topic.send(key="ann", value=1, timestamp=1_009.0)
        await until(lambda: plain["ann"] == 42)
        assert windows.relative_to(1_000.0)["ann"].value() == 8
        keys = {key for key, _, _ in await log(app, "old-windows-changelog")}
        assert keys == {codecs.dumps("json", key)}  # the same row, so compaction knows it


async def test_rows_that_lie_by_another_partitioner_stop_the_start_until_one_is_chosen() -> None:
    broker = MemoryBroker(SystemClock())
    await stock_changelog(broker, "old-plain-changelog", 2, "ann", 41)

    def old(**options: Any) -> App:
        app = App("old", transport=MemoryTransport(broker, "old", "one"), **OPTIONS, **options)
        topic = app.topic("in", key_type=str, partitions=2)
        app.Table("plain", default=int)

        @app.agent(topic)
        async def agent(stream: Any) -> None:
            async for _ in stream:
                pass

        return app

    app = old()
    with pytest.raises(ConfigurationError, match="murmur2"):
        await app.engine_service.on_start()
    await app.engine_service.on_stop()
    async with running(old(partitioner="murmur2")):
        pass
    async with running(old()):  # from then on the progress says that it is ours
        pass


async def test_text_is_json_on_the_wire_and_plain_text_is_read_too() -> None:
    app = make_app()
    topic = app.topic("in", value_type=str, partitions=1)
    seen: list[str] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for text in stream:
            seen.append(text)

    async with running(app):
        await topic.send(value='say "hi"')
        raw = app.topic("in", value_serializer="raw")
        for value in (b"plain", b'"json"', b'"not closed', "grün".encode()):
            await raw.send(value=value)
        await until(lambda: len(seen) == 5)
        assert seen == ['say "hi"', "plain", "json", '"not closed', "grün"]
        assert (await log(app, "in"))[0][1] == rb'"say \"hi\""'


async def test_the_producer_sends_bytes() -> None:
    app = make_app()
    app.topic("out", partitions=1)
    async with running(app):
        producer: Any = app.producer
        told = await producer.send_and_wait("out", b"k", b"v", headers={"h": b"1"})
        assert (told.topic, told.offset) == ("out", 0)
        await producer.flush()
        assert await log(app, "out") == [(b"k", b"v", {"h": b"1"})]


def test_settings_without_a_meaning_here_are_taken() -> None:
    app = make_app(
        stream_publish_on_commit=True,
        stream_wait_empty=False,
        broker_producer="kafka://elsewhere",
        table_standby_replicas=1,
        reply_create_topic=True,
        stream_recovery_delay=0.0,
    )
    assert app.conf.stream_publish_on_commit is True
    app.Table("t", store="memory://", recovery_buffer_size=1, standby_buffer_size=1, use_partitioner=True)
    app.prepare_engine()


SHOP = """
import streamflow as faust

app = faust.App("shop", broker="memory://", origin="shop", autodiscover=True)
orders = app.topic("orders")
{more}
"""
AGENTS = """
from shop.app import app, orders

@app.agent(orders)
async def found(stream):
    \"\"\"Found by looking.\"\"\"
    async for _ in stream:
        pass

@app.timer(10)
async def tick():
    pass
"""


def package(folder: Path, more: str = "") -> Path:
    """A package whose agents live in a module of their own."""
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").write_text("")
    (folder / "shop" / "app.py").write_text(SHOP.format(more=more))
    (folder / "shop" / "agents.py").write_text(AGENTS)
    (folder / "shop" / "__main__.py").write_text("from shop.app import app\n\napp.main()\n")
    return folder


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[3])
    environment = {"PYTHONPATH": f"{folder}:{root}", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )


def test_agents_in_other_modules_are_discovered(tmp_path: Path) -> None:
    told = command(package(tmp_path), "-m", "faust", "-A", "shop.app", "agents")
    assert "Found by looking." in told.stdout, told.stderr
    told = command(tmp_path, "-m", "shop", "agents")
    assert "Found by looking." in told.stdout, told.stderr


def test_the_completion_command_names_what_it_needs(tmp_path: Path) -> None:
    told = command(package(tmp_path), "-m", "faust", "-A", "shop.app", "completion")
    assert "click_completion" in told.stdout + told.stderr or told.returncode == 0


def test_the_livecheck_command_starts_the_checking_app(tmp_path: Path) -> None:
    more = """
livecheck = app.LiveCheck()

@app.command()
async def checking(self):
    print("checks", app.livecheck.conf.id, len(app.livecheck.cases))

@livecheck.task
async def leave():
    print(f"started {livecheck.conf.id}")
    import os, signal
    os.kill(os.getpid(), signal.SIGTERM)
"""
    folder = package(tmp_path, more)
    told = command(folder, "-m", "faust", "-A", "shop.app", "checking")
    assert "checks livecheck-shop 0" in told.stdout, told.stderr
    told = command(folder, "-m", "faust", "-A", "shop.app", "livecheck", "--without-web")
    assert "started livecheck-shop" in told.stdout + told.stderr, told.stderr


def test_what_changes_for_an_app_is_found_in_its_code(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(
        "import faust\n"
        "from faust import Event\n"
        'app = faust.App("old")\n'
        "t = app.Table('t', on_window_close=print).tumbling(10)\n"
        "print(', '.join([]))\n"
        "from faust.tables.wrappers import WindowSet\n"
        "import faust.livecheck\n"
    )
    script = "from streamflow.cli import main; main()"
    told = command(tmp_path, "-c", script, "migrate-check", "old", "--json")
    assert told.returncode == 0, told.stderr
    found = {(each["line"], each["what"]) for each in json.loads(told.stdout)}
    assert found == {
        (1, "import faust"),
        (2, "from faust import"),
        (3, "App"),
        (4, "on_window_close="),
        (4, "tumbling"),
        (6, "from faust.tables.wrappers import"),
        (7, "import faust.livecheck"),
    }
    (tmp_path / "old.py").write_text("app.Table('t', changelog_topic=x)\n")
    told = command(tmp_path, "-c", script, "migrate-check", "old.py")
    assert told.returncode == 1
    assert "changelog_topic=" in told.stdout


def test_commands_that_need_a_broker_say_so(tmp_path: Path) -> None:
    folder = package(tmp_path)
    script = "from streamflow.cli import main; main()"
    app = ["-A", "shop.app"]
    for arguments in (
        ["dead-letters", "list", *app],
        ["dead-letters", *app, "list"],
        ["reset", "--yes", *app],
    ):
        told = command(folder, "-c", script, *arguments)
        assert (told.returncode, "memory://" in told.stderr) == (2, True), told.stderr
    told = command(folder, "-c", script, "doctor", "-A", "shop.app", "--json")
    assert told.returncode == 0, told.stderr
    assert '"check": "broker"' in told.stdout


def test_modules_of_faust_are_found_under_our_name() -> None:
    import faust.livecheck
    import faust.models.fields
    import faust.web.exceptions
    from streamflow.cli.base import AppCommand  # type: ignore[import-not-found]  # lent by Faust
    from streamflow.livecheck import Case  # type: ignore[import-not-found]  # likewise
    from streamflow.models.fields import StringField  # type: ignore[import-not-found]  # likewise
    from streamflow.streams import current_event  # type: ignore[import-not-found]  # likewise
    from streamflow.types import AppT  # type: ignore[import-not-found]  # likewise
    from streamflow.web.exceptions import NotFound  # type: ignore[import-not-found]  # likewise

    assert AppCommand is faust.cli.AppCommand
    assert Case is faust.livecheck.Case
    assert StringField is faust.models.fields.StringField
    assert AppT is faust.types.AppT
    assert NotFound is faust.web.exceptions.NotFound
    assert current_event is faust.current_event
    package: Any = streamflow
    assert (package.serializers, package.sensors) == (faust.serializers, faust.sensors)
    assert package.web.WebServer.__module__ == "streamflow.web.server"
    assert package.__version__
    with pytest.raises(ModuleNotFoundError, match=r"streamflow\.nonsense"):
        import_module("streamflow.nonsense")
