"""Consumers that are declared while the engine runs: streams that tasks and agents make for themselves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from streamflow.engine.dead_letters import dead_letter_topic
from streamflow.engine.topology import size_tables
from streamflow.processing.agent_tasks import have_begun

if TYPE_CHECKING:
    from streamflow.engine.engine import Engine


async def begin_early(engine: Engine) -> None:
    """Agents may ask for streams of their own before their first event: those are subscribed to at once."""
    early = [agent for agent in engine.agents if agent.spec.early]
    for agent in early:
        agent.start()
    await have_begun([agent.tasks for agent in early])
    await engine.topics.create(engine.transport)


async def extend(engine: Engine) -> None:
    """Lets consumers join in that were added while the engine runs."""
    # A task of its own: what is formed anew cancels the agents, and one of them may be the caller.
    work = asyncio.ensure_future(_extend(engine))
    engine.extending.add(work)
    work.add_done_callback(engine.extending.discard)
    await asyncio.shield(work)


async def _extend(engine: Engine) -> None:
    """Subscribes to what agents read by now. Everything held is checkpointed, and formed anew with them."""
    topics, transport = engine.topics, engine.transport
    await topics.create(transport)
    for decoder in engine.decoders.values():
        name = decoder.source.name
        topics.want(dead_letter_topic(name), topics.partitions(name), dead_letters=True)
    await topics.create(transport)
    size_tables(topics, engine.declared(), engine.table_partitions)
    await topics.create(transport)
    engine.dispatcher.add(engine.decoders.values())
    names = engine.source_topics()
    if names == engine.subscribed:
        await engine.reform()
    else:
        engine.subscribed = names
        await transport.subscribe(sorted(names), engine, engine.url)
