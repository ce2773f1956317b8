"""``streamflow dead-letters -A MODULE list|replay``."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from streamflow.app.app import App
from streamflow.cli.apps import app_option, load
from streamflow.cli.asking import json_option
from streamflow.cli.connected import engine_of, needs_broker, whole_log
from streamflow.engine.dead_letters import ADDED, CUT, dead_letter_topic
from streamflow.engine.engine import Engine
from streamflow.transports.base import Record

BATCH_RECORDS_MAX = 500
TEXT_MAX = 60


class Letter(NamedTuple):
    """One event that was set aside, and where it lies now."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def place(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"

    @property
    def cut(self) -> str | None:
        """How much there was of an event that did not fit as a whole; None for one that is here as it was."""
        name, value = self.headers[-1]
        return value.decode(errors="replace") if name == CUT and value is not None else None

    def fact(self, name: str) -> str:
        """One of the headers that were added when it was set aside; the newest, if there are several."""
        found = [value for header, value in self.headers if header == name and value is not None]
        return found[-1].decode(errors="replace") if found else ""

    def describe(self) -> dict[str, Any]:
        return {
            "place": self.place,
            "source": f"{self.fact('source-topic')}[{self.fact('source-partition')}]"
            f"@{self.fact('source-offset')}",
            "reason": self.fact("reason"),
            "error": self.fact("error"),
            "consumer": self.fact("consumer") or None,
            "cut": self.cut,
            "key": None if self.key is None else self.key.decode(errors="replace"),
            "value": None if self.value is None else self.value.decode(errors="replace"),
        }

    def restored(self) -> Record:
        """The event as it was before it was set aside, for the partition that it came from."""
        added = len(ADDED) if self.headers[-1][0] == ADDED[-1] else len(ADDED) - 1
        headers = self.headers[:-added]
        return Record(
            self.fact("source-topic"), int(self.fact("source-partition")), self.key, self.value, headers
        )


@click.group()
@click.option("-A", "--app", "module", metavar="MODULE", help="May stand here as well as behind the word.")
@click.pass_context
def command(context: click.Context, module: str | None) -> None:
    """Events that were set aside: show them, or give them to their agents again."""
    if module is not None:
        context.default_map = {name: {"module": module} for name in ("list", "replay")}


@command.command("list")
@app_option
@click.option("--reason", help="Only those with this reason.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="The newest so many.")
@json_option
def show(module: str, reason: str | None, limit: int, as_json: bool) -> None:
    """The newest dead letters of an app."""
    app = load(module)
    needs_broker(app, "dead-letters")
    letters = [each.describe() for each in asyncio.run(_read(app, reason))[-limit:]]
    if as_json:
        click.echo(json.dumps(letters))
        return
    table = Table("place", "source", "reason", "error", "key", "value")
    for each in letters:
        table.add_row(
            each["place"], each["source"], each["reason"], each["error"], each["key"], _short(each["value"])
        )
    Console().print(table)


@command.command("replay")
@app_option
@click.argument("places", nargs=-1, metavar="[PLACE]...")
@click.option("--all", "everything", is_flag=True, help="Every dead letter (of the reason).")
@click.option("--reason", help="Only those with this reason.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def replay(
    module: str, places: tuple[str, ...], everything: bool, reason: str | None, yes: bool, as_json: bool
) -> None:
    """Send dead letters to the topic and partition that they came from, as they were.

    PLACE is as `list` shows it. Every agent of that topic takes the event again, also one that has counted
    it before; and what is replayed twice comes twice. One that was too large to be kept whole is left out.
    """
    if bool(places) == everything:
        raise click.UsageError("name the places of the letters, or --all")
    app = load(module)
    needs_broker(app, "dead-letters")
    letters = [each for each in asyncio.run(_read(app, reason)) if everything or each.place in places]
    missing = sorted(set(places) - {each.place for each in letters})
    if missing:
        raise click.UsageError(f"there is no dead letter at {', '.join(missing)}")
    for each in letters:
        if each.cut is not None:
            click.echo(f"{each.place} is left out: only its beginning was kept ({each.cut})", err=True)
    letters = [each for each in letters if each.cut is None]
    if letters and not yes:
        click.confirm(f"Send {len(letters)} events again?", abort=True, err=True)
    asyncio.run(_send(app, [each.restored() for each in letters]))
    click.echo(json.dumps({"replayed": len(letters)}) if as_json else f"{len(letters)} sent again")


def _short(value: str | None) -> str:
    text = "" if value is None else value
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


async def _read(app: App, reason: str | None) -> list[Letter]:
    """By the time at which they were set aside."""
    found: list[tuple[int, Letter]] = []
    async with engine_of(app) as engine:
        counts = await engine.transport.partition_counts(_topics(engine))
        for topic, count in sorted(counts.items()):
            async for batch in whole_log(engine, topic, count):
                headers = batch.headers or [()] * len(batch.offsets)
                for index, offset in enumerate(batch.offsets):
                    letter = Letter(
                        topic,
                        batch.partition,
                        offset,
                        batch.keys[index],
                        batch.values[index],
                        tuple(headers[index]),
                    )
                    if letter.fact("source-topic") and reason in (None, letter.fact("reason")):
                        found.append((batch.timestamps_ms[index], letter))
    return [letter for _, letter in sorted(found, key=lambda item: item[0])]


def _topics(engine: Engine) -> list[str]:
    """Where an app's events may have been set aside."""
    sources = {source.name for source in engine.topology.sources.values()}
    targets = {
        agent.spec.dead_letter for agent in engine.topology.agents if agent.spec.dead_letter is not None
    }
    return sorted(targets | {dead_letter_topic(source) for source in sources})


async def _send(app: App, records: list[Record]) -> None:
    async with engine_of(app) as engine:
        for at in range(0, len(records), BATCH_RECORDS_MAX):
            await engine.transport.send(records[at : at + BATCH_RECORDS_MAX])
