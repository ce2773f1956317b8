"""``streamflow reset -A MODULE [TABLE]``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from functools import partial

import click

from streamflow.app.app import App
from streamflow.cli.apps import app_option, load
from streamflow.cli.asking import json_option
from streamflow.cli.connected import engine_of, needs_broker, whole_log
from streamflow.engine.engine import Engine
from streamflow.engine.table_reset import reset_table, topics_of
from streamflow.errors import ConfigurationError
from streamflow.transports.base import Resettable


@click.command()
@app_option
@click.argument("table", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def command(module: str, table: str | None, yes: bool, as_json: bool) -> None:
    """Start an app anew: deletes its tables, its progress and its group's offsets; its topics stay.

    The next worker reads the source topics from their beginning. With a TABLE only this one starts anew: a
    declared table begins at its ``start`` again, beside the app's other consumers; one in Faust's form is
    empty, and its agents go on where they stand. All workers must have been stopped.
    """
    app = load(module)
    needs_broker(app, "reset")
    try:
        names = asyncio.run(_internal(app, table))
        if not yes:
            _ask(app, table, names)
        asyncio.run(_reset(app, table, names))
    except ConfigurationError as exc:
        raise click.UsageError(str(exc)) from exc
    for name in app.tables if table is None else [table]:
        app.forget_local(name)
    told = {"app": app.conf.id, "deleted": names}
    click.echo(json.dumps(told if table is None else {**told, "table": table}) if as_json else "done")


def _ask(app: App, table: str | None, names: list[str]) -> None:
    if table is None:
        click.echo(f"{app.conf.id}: the group's offsets and {len(names)} topics are deleted:", err=True)
    else:
        click.echo(f"{app.conf.id}: table {table!r}, its progress and {len(names)} topics:", err=True)
        if table in {each.name for each in app.own_tables}:
            click.echo("  (its agents go on where they stand: what they took is not taken again)", err=True)
    for name in names:
        click.echo(f"  {name}", err=True)
    click.confirm("Start anew?", abort=True, err=True)


async def _internal(app: App, table: str | None) -> list[str]:
    """The topics of the app's own, or of one table, that are there."""
    async with engine_of(app) as engine:
        topology = engine.topology
        tables = [*topology.tables, *topology.aggregates]
        if table is not None and table not in tables:
            names = ", ".join(sorted(tables)) or "none"
            raise click.UsageError(f"no table {table!r} (there are: {names})")
        chosen = tables if table is None else [table]
        wanted = [name for each in chosen for name in topics_of(topology, each)]
        if table is None:
            wanted.append(topology.topics.progress)
        return sorted(await engine.transport.partition_counts(wanted))


async def _reset(app: App, table: str | None, names: list[str]) -> None:
    async with engine_of(app) as engine:
        transport = engine.transport
        if not isinstance(transport, Resettable):
            raise click.UsageError("this broker's data can't be deleted by this command")
        if table is None:
            await transport.reset(names)
            return
        await _read_progress(engine)
        delete = partial(_delete, transport)
        await reset_table(engine.topology, engine.transport, engine.board, table, delete)


async def _delete(transport: Resettable, topics: Iterable[str]) -> None:
    await transport.reset(topics, group=False)


async def _read_progress(engine: Engine) -> None:
    topic = engine.topology.topics.progress
    count = (await engine.transport.partition_counts([topic])).get(topic, 0)
    async for batch in whole_log(engine, topic, count):
        engine.board.read_batch(batch, 0.0)
