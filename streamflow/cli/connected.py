"""A connection to an app's broker for a command: nothing is joined, nothing is created."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from streamflow.app.app import App
from streamflow.engine.engine import Engine
from streamflow.engine.first_connection import first_connection
from streamflow.engine.whole_logs import whole_logs
from streamflow.transports.base import Batch
from streamflow.transports.connect import scheme_of


def needs_broker(app: App, command: str) -> None:
    """Ends the command with exit code 2 where no other process could see anything."""
    if scheme_of(app.broker_url) == "memory":
        raise click.UsageError(f"memory:// lives inside one worker: `{command}` needs a broker")


@asynccontextmanager
async def engine_of(app: App) -> AsyncIterator[Engine]:
    """Everything declared, over a transport that is started."""
    engine = app.prepare_engine()
    await first_connection(engine.transport, engine.clock)
    try:
        yield engine
    finally:
        await engine.transport.stop()


async def whole_log(engine: Engine, topic: str, partitions: int) -> AsyncIterator[Batch]:
    """Every committed record of a topic up to its present end, partition by partition as they come."""
    async for batch in whole_logs(engine.transport, [(topic, partition) for partition in range(partitions)]):
        yield batch
