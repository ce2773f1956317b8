"""`app.stream`: streams that are made apart from an agent's own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from faust.agents import agent as faust_agent
from mode.utils.aiter import aiter as aiter_of

from streamflow.faust_adapters.origins import Local, OfTopic, current_actor
from streamflow.faust_adapters.stream import AgentStream
from streamflow.faust_adapters.topic import Topic

if TYPE_CHECKING:
    from streamflow.app import App

_INNER = ("streamflow.", "faust.")


def stream_over(app: App, channel: Any, options: dict[str, Any]) -> AgentStream:
    """A stream over a topic of the broker's, a channel in memory, or anything that can be iterated."""
    if isinstance(channel, AgentStream):
        return channel
    processors: Iterable[Any] = options.get("processors") or ()
    manual = not options.get("enable_acks", True)
    agent, actor = faust_agent._current_agent.get(None), current_actor.get()
    name = options.get("prefix") or ("" if agent is None else agent.name)
    if isinstance(channel, Topic):
        topics = ",".join(channel.topics or ()) or str(channel.pattern)
        consumer = f"{name}:{topics}" if name else f"stream:{_caller()}:{topics}"
        origin = OfTopic(app, consumer, channel, actor)
        return AgentStream(origin, app, name, channel=channel, processors=processors, manual=manual)
    items: AsyncIterator[Any] = aiter_of(channel)
    return AgentStream(
        Local(app, items, actor), app, name, channel=channel, processors=processors, manual=manual
    )


def _caller() -> str:
    """The user's function that asks for a stream: the same after a restart, so that its place is found."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_INNER):
        frame = frame.f_back
    return frame.f_code.co_qualname
