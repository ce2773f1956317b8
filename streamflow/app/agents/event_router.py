"""Handlers by event type: ``router.on("user_action")``."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Callable
from typing import Any

from streamflow.errors import ConfigurationError, MissingEventType, UnknownEventType

Handler = Callable[[Any], Any]


class EventRouter:
    """Hands each event to the handler of its ``type``; handlers may be async.

    Raises MissingEventType and UnknownEventType inside the agent: such events are not tried again but
    set aside with the reasons ``missing-type`` and ``unknown-type``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.handlers: dict[str, Handler] = {}

    def on(self, event_type: str) -> Callable[[Handler], Handler]:
        """Declares the handler of a type. Raises ConfigurationError for a second one."""

        def declare(handler: Handler) -> Handler:
            if event_type in self.handlers:
                raise ConfigurationError(f"router {self.name!r} has two handlers for type {event_type!r}")
            self.handlers[event_type] = handler
            return handler

        return declare

    async def dispatch(self, event: object) -> None:
        """Calls the event's handler."""
        kind = getattr(event, "type", None)
        if not kind:
            raise MissingEventType("the event has no type")
        handler = self.handlers.get(kind)
        if handler is None:
            raise UnknownEventType(f"no handler is declared for type {kind!r}")
        result = handler(event)
        if inspect.isawaitable(result):
            await result

    async def run(self, stream: AsyncIterable[object]) -> None:
        """The agent: one event at a time."""
        async for event in stream:
            await self.dispatch(event)
