"""Where a partition ends, as its newest leader has it: whoever else calls an offset out of range is behind.

A broker that was cut off, or frozen, takes itself for the leader for a while, with a log that ends too
early. Its answer must not move anybody's position.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiokafka.errors import KafkaError

from streamflow.transports.base import TopicPartition
from streamflow.transports.kafka import protocol

ASK_S: Final = 2.0
NO_REPLICA: Final = -1


async def newest_end(client: Any, node_id: int, at: TopicPartition) -> int | None:
    """The end offset that the broker tells, if it leads the partition in the newest epoch; else None.

    ``client``: aiokafka's. Raises KafkaError when nobody can say.
    """
    leader, epoch = await _newest_leader(client, at)
    if leader != node_id:
        return None
    topic, partition = at
    request = protocol.OffsetForLeaderEpochRequest(NO_REPLICA, [(topic, [(partition, epoch, epoch)])])
    answer = await client.send(node_id, protocol.Exactly(request))
    ((_, ((code, _, _, end_offset),)),) = answer.topics
    # Refused: its own epoch is older, or newer, than what the others have heard of.
    return int(end_offset) if code == protocol.NONE else None


async def _newest_leader(client: Any, at: TopicPartition) -> tuple[int, int]:
    """(leader, its epoch), the newest that any broker has heard of."""
    request = protocol.MetadataRequest([at[0]], False)

    async def ask(node_id: int) -> Any:
        async with asyncio.timeout(ASK_S):
            return await client.send(node_id, protocol.Exactly(request))

    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    told = await asyncio.gather(*map(ask, nodes), return_exceptions=True)
    epochs: list[tuple[int, int]] = []
    for answer in told:
        if isinstance(answer, KafkaError | OSError | TimeoutError):
            continue
        if isinstance(answer, BaseException):
            raise answer
        epochs += [
            (leader_epoch, leader)
            for code, topic, _, partitions in answer.topics
            for _, partition, leader, leader_epoch, *_ in partitions
            if code == protocol.NONE and (topic, partition) == at
        ]
    if not epochs:
        raise KafkaError(f"no broker tells who leads {at[0]}[{at[1]}]")
    epoch, leader = max(epochs)
    return leader, epoch
