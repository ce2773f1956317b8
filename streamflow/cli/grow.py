"""``streamflow grow -A MODULE [TOPIC]``."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from streamflow.app.app import App
from streamflow.cli.apps import app_option, load
from streamflow.cli.asking import json_option
from streamflow.cli.connected import engine_of, needs_broker
from streamflow.engine.engine import Engine
from streamflow.engine.growth import Growth, TableGrowth
from streamflow.errors import ConfigurationError
from streamflow.transports.base import Resettable


@click.command()
@app_option
@click.argument("topic", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--scattered-stay",
    is_flag=True,
    help="Rows of agents' tables under other keys than their events' stay with their partition.",
)
@json_option
def command(module: str, topic: str | None, yes: bool, scattered_stay: bool, as_json: bool) -> None:
    """Bring an app's tables to the number of partitions that their source topic has now.

    The topic must have grown to a multiple of what it had, every producer must know it, and the workers must
    have taken what lay in the old partitions before they were stopped (`streamflow lag`: 0). Rows, late
    events, partial results and times move with their keys. Killed in the middle, the same command ends it; no
    worker starts before. With a TOPIC nothing is done unless it is one that has grown.
    """
    app = load(module)
    needs_broker(app, "grow")
    try:
        done = asyncio.run(_grow(app, topic, yes=yes, scattered_stay=scattered_stay))
    except ConfigurationError as exc:
        raise click.UsageError(str(exc)) from exc
    if as_json:
        click.echo(json.dumps({"app": app.conf.id, "tables": [_told(table) for table in done]}))
    else:
        click.echo("done" if done else f"{app.conf.id}: every table lies by the partitions of its topics")


async def _grow(app: App, topic: str | None, *, yes: bool, scattered_stay: bool) -> list[TableGrowth]:
    async with engine_of(app) as engine:
        growth = Growth(
            engine.topology, engine.transport, lambda: _nobody(engine), scattered_stay=scattered_stay
        )
        tables = await growth.plan()
        grown = sorted({source for table in tables for source in table.sources})
        read = sorted(engine.topology.source_topics())
        if topic is not None and topic not in (grown or read):
            raise click.UsageError(
                f"topic {topic!r} has not grown since this app's tables were made (grown: "
                f"{', '.join(grown) or 'none'}; read: {', '.join(read)})"
            )
        if tables and not yes:
            for table in tables:
                click.echo(f"  table {table.name}: {table.before} -> {table.after} partitions", err=True)
            click.confirm(
                f"{app.conf.id}: bring them to the partitions of {', '.join(grown)}?", abort=True, err=True
            )
        await growth.run()
    return tables


async def _nobody(engine: Engine) -> None:
    """Raises ConfigurationError while workers run."""
    if not isinstance(engine.transport, Resettable):
        raise ConfigurationError("this broker does not tell whether workers run")
    await engine.transport.reset((), group=False)


def _told(table: TableGrowth) -> dict[str, Any]:
    return {"table": table.name, "topics": list(table.sources), "before": table.before, "after": table.after}
