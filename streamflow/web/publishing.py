"""Events that clients publish, over HTTP or the WebSocket: the same checks, and the same answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from streamflow.errors import StreamflowError
from streamflow.query.publishing import Outgoing, Refused
from streamflow.web.problems import Problem, unavailable
from streamflow.web.rights import Caller
from streamflow.web.served import Served

Headers = Mapping[str, str | None] | Iterable[tuple[str, str | None]]
NONE_SENT: Final = "none was sent"


def no_such_topic(served: Served, caller: Caller, name: str) -> Problem:
    """Tells those that there are, of which the caller may read some."""
    names = [each for each in served.topics.names() if caller.may_some("read", "topic", each)]
    return Problem(404, "no-such-topic", f"this app knows no topic {name!r}", topics=names)


async def check_topic(served: Served, caller: Caller, name: str) -> None:
    """May events be published there at all? Raises Problem 404, 409 or 503."""
    topics = served.topics
    try:
        exists = await topics.exists(name)
    except StreamflowError as exc:
        raise unavailable("broker-unavailable", f"topic {name!r} can't be looked up now: {exc}") from exc
    if not exists:
        raise no_such_topic(served, caller, name)
    if name in topics.internal():
        raise Problem(409, "not-applicable", f"topic {name!r} holds the app's own state")


def header_pairs(headers: Headers) -> tuple[tuple[str, str | None], ...]:
    return tuple(headers.items() if isinstance(headers, Mapping) else headers)


def bad_event(index: int, why: str) -> Problem:
    return Problem(400, "bad-event", f"event {index}: {why}; {NONE_SENT}", event=index)


async def send(served: Served, name: str, events: Sequence[Outgoing]) -> list[tuple[int, int]]:
    """Partition and offset of each, durable.

    Raises Problem where none was sent, another StreamflowError where some may have been.
    """
    publisher = served.publisher
    if publisher is None:
        raise unavailable("not-ready", "this worker can't send yet")
    try:
        return await publisher.publish(name, events)
    except Refused as exc:
        raise bad_event(exc.index, str(exc)) from exc
