"""How the engine runs an agent that was declared with Faust's decorator."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from streamflow.faust_adapters.stream import AgentStream
from streamflow.streams import EventStream


def runner(agent: Any) -> Callable[[EventStream], Awaitable[None]]:
    """Calls the agent's function with a stream; what an agent yields goes to its sinks."""

    async def run(stream: EventStream) -> None:
        result = agent.fun(AgentStream(stream))
        if inspect.isasyncgen(result):
            await _drain(agent, result)
        else:
            await result

    return run


async def _drain(agent: Any, results: AsyncIterator[Any]) -> None:
    async for value in results:
        await agent._delegate_to_sinks(value)
