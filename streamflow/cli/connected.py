"""A connection to an app's broker for a command: nothing is joined, nothing is created."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from streamflow.app.app import App
from streamflow.engine.engine import Engine
from streamflow.engine.first_connection import first_connection
from streamflow.transports.base import Batch
from streamflow.transports.connect import scheme_of

READ_WAIT_MS = 200


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
    places = [(topic, partition) for partition in range(partitions)]
    ends = await engine.transport.high_watermarks(places)
    left = {at for at in places if ends.get(at, 0) > 0}
    if not left:
        return
    starts = await engine.transport.earliest_offsets(left)
    left = {at for at in left if starts.get(at, 0) < ends[at]}
    if not left:
        return
    reader = engine.transport.log_reader()
    try:
        await reader.assign({at: starts.get(at, 0) for at in left})
        while left:
            for batch in await reader.read(READ_WAIT_MS):
                yield batch
                if batch.next_offset >= ends[batch.topic, batch.partition]:
                    left.discard((batch.topic, batch.partition))
    finally:
        await reader.close()
