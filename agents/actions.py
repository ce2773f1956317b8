"""Typed handlers: one function for each type of event; a missing or unknown type is an error.

Run it: ``faust -A agents.actions worker -l info``
"""

import logging

from streamflow import App, Event

logger = logging.getLogger(__name__)

app = App("actions")
actions = app.topic("actions", key_type=str, value_type=Event)
router = app.event_router(actions)


@router.on("user_action")
async def user_action(event: Event) -> None:
    logger.info("user action %s: %s", event.id, event.data)


@router.on("system_event")
async def system_event(event: Event) -> None:
    logger.info("system event %s: %s", event.id, event.data)
