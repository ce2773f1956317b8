"""Starts one table anew: its state goes, all else of the app stays.

A kill in the middle must not leave rows without their progress, which would count twice, nor progress without
its rows, which would be short. So the table's declaration is the first to change: no worker takes it as it is
then, and each step can be done again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import orjson

from streamflow.engine.assignment import table_consumer
from streamflow.engine.progress_board import RESET_BEGUN, ProgressBoard
from streamflow.engine.topology import Topology
from streamflow.transports.base import Record, Transport

Delete = Callable[[Iterable[str]], Awaitable[None]]
"""Deletes topics. Raises ConfigurationError while workers run."""


def topics_of(topology: Topology, table: str) -> list[str]:
    """The topics that hold a table's rows and late events."""
    topics, aggregate = topology.topics, topology.aggregates.get(table)
    if aggregate is None:
        return [topics.changelog(table)]
    return [topics.changelog(table), topics.shuffle(table), topics.late(table)]


async def reset_table(
    topology: Topology, transport: Transport, board: ProgressBoard, table: str, delete: Delete
) -> list[str]:
    """Returns the topics that were deleted. ``board`` has read the whole progress topic.

    Raises ConfigurationError while workers run, TransportError.
    """
    topics = topology.topics
    aggregate = topology.aggregates.get(table)
    consumer = table_consumer(table) if aggregate is None else aggregate.spec.consumer
    counts = await transport.partition_counts([topics.progress])
    names = sorted(await transport.partition_counts(topics_of(topology, table)))
    declaration = orjson.dumps(["declaration", table])
    await delete(())  # refuses while somebody runs, before anything is changed
    # Step 1. No worker takes what is there from here on.
    if topics.progress in counts:
        await transport.send([Record(topics.progress, 0, declaration, orjson.dumps(RESET_BEGUN))])
    # Step 2. The rows; a worker that came meanwhile has not begun, and is told of the reset.
    await delete(names)
    # Step 3. Its progress, and when that is gone the mark.
    if topics.progress in counts:
        gone = [
            Record(topics.progress, key[2] % counts[topics.progress], orjson.dumps(list(key)), None)
            for key in board.keys_of(consumer)
        ]
        await transport.send(gone)
        await transport.send([Record(topics.progress, 0, declaration, None)])
    return names
