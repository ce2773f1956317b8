"""How the engine runs an agent that was declared with Faust's decorator."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, cast

from aiohttp import ClientError
from faust.agents import agent as faust_agent
from faust.exceptions import ImproperlyConfigured
from mode.utils.imports import symbol_by_name

from streamflow.app.agents.agent import Agent
from streamflow.app.agents.replies import answer, unwrapped
from streamflow.app.options import FailureOptions
from streamflow.app.streams.sources import AgentSource, current_actor
from streamflow.app.streams.stream import AgentStream
from streamflow.engine.dead_letters import dead_letter_topic
from streamflow.errors import ConfigurationError
from streamflow.processing.agent_spec import AgentSpec, Restarts
from streamflow.processing.event_stream import EventStream
from streamflow.processing.retries import Transient

logger = logging.getLogger(__name__)


def runner(agent: Agent) -> Callable[[EventStream], Awaitable[None]]:
    """Calls the agent's function with a stream; what an agent yields goes to its sinks.

    Raises ConfigurationError, when the agent runs, for sinks of an agent that yields nothing, and for what
    its code declares there and can't work.
    """

    async def run(source: EventStream) -> None:
        try:
            stream = AgentStream(AgentSource(source), agent.app, agent.name, channel=agent.channel)
            await iterate_agent(agent, stream)
        except Exception as exc:
            if agent._on_error is not None:
                await agent._on_error(agent, exc)
            if isinstance(exc, ImproperlyConfigured):  # Faust's name for it
                raise ConfigurationError(f"agent {agent.name}: {exc}") from exc
            raise

    return run


async def iterate_agent(agent: Agent, stream: AgentStream) -> None:
    """Calls the agent's function; what it yields is answered with, and goes to its sinks."""
    stream.become_current()
    faust_agent._current_agent.set(agent)
    current_actor.set(stream.actor)
    result: Any = agent.fun(stream)
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


def running_agent() -> str | None:
    """The name of the agent whose code runs."""
    agent = faust_agent._current_agent.get(None)
    return None if agent is None else agent.name


RESTARTS: dict[str, Restarts] = {
    "OneForOneSupervisor": "one",
    "OneForAllSupervisor": "one",  # each event is tried again by itself: the others need no restart
    "ForfeitOneForOneSupervisor": "never",
    "ForfeitOneForAllSupervisor": "never",
    "CrashingSupervisor": "crash",
}


def transient_errors(more: object) -> Transient:
    """The setting, and what aiohttp raises: its errors are no OSError, and most agents call with it.

    Raises ConfigurationError for what names no exception.
    """
    named = [text.strip() for text in more.split(",") if text.strip()] if isinstance(more, str) else more
    if isinstance(named, type):
        named = [named]
    found: list[type[BaseException]] = [ClientError]
    for each in cast("Iterable[object]", named):
        try:
            kind = symbol_by_name(each) if isinstance(each, str) else each
        except (ImportError, AttributeError, ValueError) as exc:
            raise ConfigurationError(f"setting transient_errors: {each!r} can't be imported: {exc}") from exc
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise ConfigurationError(f"setting transient_errors: {each!r} is no exception class")
        found.append(kind)
    return Transient(tuple(found))


def spec_of(agent: Agent, topic: str, options: FailureOptions) -> AgentSpec:
    """An agent that was declared with Faust's decorator, as the engine runs it."""
    letters = options.dead_letter
    settings = agent.app.engine_settings
    strategy: Any = agent.supervisor_strategy or agent.app.conf.agent_supervisor
    return AgentSpec(
        agent.name,
        topic,
        runner(agent),
        options.retry,
        dead_letter_topic(topic) if letters is True else (letters or None),
        options.buffer,
        concurrency=agent.concurrency,
        isolated=agent.isolated_partitions,
        restarts=RESTARTS.get(strategy.__name__, "one"),
        early=True,
        start=options.start,
        transient=transient_errors(settings.transient_errors),
        breaker=options.breaker,
        timeout_s=options.timeout_s,
        gives_up_max=settings.gives_up_max,
    )
