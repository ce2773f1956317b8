"""``streamflow reset -A MODULE``."""

from __future__ import annotations

import asyncio
import json

import click

from streamflow.app.app import App
from streamflow.cli.apps import app_option, load
from streamflow.cli.asking import json_option
from streamflow.cli.connected import engine_of, needs_broker
from streamflow.transports.base import Resettable


@click.command()
@app_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def command(module: str, yes: bool, as_json: bool) -> None:
    """Start an app anew: deletes its tables, its progress and its group's offsets; its topics stay.

    The next worker reads the source topics from their beginning. All workers must have been stopped.
    """
    app = load(module)
    needs_broker(app, "reset")
    names = asyncio.run(_internal(app))
    if not yes:
        click.echo(f"{app.conf.id}: the group's offsets and {len(names)} topics are deleted:", err=True)
        for name in names:
            click.echo(f"  {name}", err=True)
        click.confirm("Start anew?", abort=True, err=True)
    asyncio.run(_reset(app, names))
    for name in app.tables:
        app.forget_local(name)
    click.echo(json.dumps({"app": app.conf.id, "deleted": names}) if as_json else "done")


async def _internal(app: App) -> list[str]:
    """The topics of the app's own that are there."""
    async with engine_of(app) as engine:
        topics = engine.topology.topics
        tables = [*engine.topology.tables, *engine.topology.aggregates]
        wanted = [
            topics.progress,
            *map(topics.changelog, tables),
            *map(topics.shuffle, engine.topology.aggregates),
        ]
        return sorted(await engine.transport.partition_counts(wanted))


async def _reset(app: App, names: list[str]) -> None:
    async with engine_of(app) as engine:
        if not isinstance(engine.transport, Resettable):
            raise click.UsageError("this broker's data can't be deleted by this command")
        await engine.transport.reset(names)
