"""How the engine runs an agent that was declared with Faust's decorator."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

from faust.agents import agent as faust_agent

from streamflow.errors import ConfigurationError
from streamflow.faust_adapters.replies import answer, unwrapped
from streamflow.faust_adapters.stream import AgentStream
from streamflow.streams import EventStream

logger = logging.getLogger(__name__)


def runner(agent: Any) -> Callable[[EventStream], Awaitable[None]]:
    """Calls the agent's function with a stream; what an agent yields goes to its sinks.

    Raises ConfigurationError, when the agent runs, for sinks of an agent that yields nothing.
    """
    if agent.concurrency > 1:
        logger.warning("agent %s: concurrency=%d runs as 1 on this engine", agent.name, agent.concurrency)

    async def run(source: EventStream) -> None:
        stream = AgentStream(source, agent.app, agent.name)
        stream.become_current()
        faust_agent._current_agent.set(agent)
        result = agent.fun(stream)
        if isinstance(result, AsyncIterable):
            if not agent.use_reply_headers:
                stream.add_processor(unwrapped)
            async for value in result:
                event = stream.current_event
                if event is not None:
                    await answer(agent.app, event, value)
                await agent._delegate_to_sinks(value)
            return
        if agent._sinks:
            result.close()
            raise ConfigurationError(f"agent {agent.name}: an agent must yield to have sinks")
        await result

    return run
