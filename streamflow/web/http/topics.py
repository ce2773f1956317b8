"""The topics of the app: where they begin and end, who reads them, how far that is; and their records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

from streamflow.errors import ConfigurationError, StreamflowError
from streamflow.query.browse import Message
from streamflow.query.facts import TopicFacts
from streamflow.query.shown import shown_headers
from streamflow.query.slices import Slices
from streamflow.transports.base import TopicPartition
from streamflow.web import encoding, query
from streamflow.web.http.api import Api, answer, only
from streamflow.web.http.completeness import UNUSABLE
from streamflow.web.http.everyone import Everyone
from streamflow.web.http.running import lags_of
from streamflow.web.problems import Problem, tables_unknown, unavailable
from streamflow.web.publishing import no_such_topic
from streamflow.web.rights import caller_of
from streamflow.web.served import LogServed

LIMIT_DEFAULT: Final = 100
EARLIEST, LATEST = "earliest", "latest"
BLOCK_PARTITIONS: Final = 200
"""So many are encoded at once: an app may have 10,000."""


class Topics:
    """The handlers of ``/v1/topics``."""

    def __init__(self, api: Api, everyone: Everyone) -> None:
        self._api = api
        self._served = api.served
        self._everyone = everyone

    async def topics(self, request: web.Request) -> web.StreamResponse:
        """Positions are known to every worker, since all read the progress of all; lags to the owners."""
        only(request, ())
        served, caller = self._served, caller_of(request)
        self._check_known()
        lags = dict(served.worker().lags)
        missing = []
        for url, said in (await self._everyone.ask("/v1/workers")).items():
            try:
                lags.update(lags_of(said))
            except UNUSABLE:
                missing.append(url)
        owners = {at: member.url for member in served.members() for at in member.partitions}
        names = [name for name in served.topics.names() if caller.may("read", "topic", name)]
        found = await served.topics.facts(names)
        slices = Slices(served.clock)
        topics = [await _topic(facts, owners, lags, slices) for facts in found]
        unknown = any(part.end is None for facts in found for part in facts.partitions)
        body = {"topics": topics, "partial": bool(missing) or unknown, "missing": missing}
        return answer(request, body)

    def _check_known(self) -> None:
        if not self._served.knows_tables():
            raise tables_unknown()

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Any worker reads any partition itself: no other has to answer."""
        name = request.match_info["topic"]
        limits = caller_of(request).require_some("read", "topic", name)
        asked = _asked(only(request, ("partition", "offset", "time", "limit")), self._api.settings.rows_max)
        self._check_known()
        count = self._served.log.partitions(name)
        if not count:
            raise no_such_topic(self._served, caller_of(request), name)
        if name in self._served.topics.internal():
            detail = f"topic {name!r} holds the app's own state: its rows are in /v1/tables"
            raise Problem(409, "not-applicable", detail)
        if asked.partition is not None and asked.partition >= count:
            raise query.bad_parameter("partition", f"topic {name!r} has the partitions 0 to {count - 1}")
        try:
            found, following = await self._look(name, asked)
        except ConfigurationError as exc:
            raise query.bad_parameter("partition", str(exc)) from exc
        except StreamflowError as exc:
            raise unavailable("broker-unavailable", f"topic {name!r} can't be read now: {exc}") from exc
        slices = Slices(self._served.clock)
        shown: list[bytes] = []
        for message in found:
            body = message_object(self._served.log, message)
            if limits.allows(body["key"]):
                shown.append(encoding.encode(body))
            if slices.over():
                await slices.rest()
        return answer(request, {"messages": msgspec.Raw(b"[%b]" % b",".join(shown)), "next": following})

    async def _look(self, name: str, asked: _Asked) -> tuple[list[Message], dict[str, Any] | None]:
        log, partition = self._served.log, asked.partition
        if partition is None:
            return await log.of_all(name, asked.limit, asked.time_ms), None
        if asked.newest:
            look = await log.newest(name, partition, asked.limit)
        else:
            look = await log.page(name, partition, asked.limit, offset=asked.offset, time_ms=asked.time_ms)
        following = None if look.next is None else {"partition": partition, "offset": str(look.next)}
        return look.messages, following


@dataclass(frozen=True, slots=True)
class _Asked:
    """``offset`` ``None``: from the time, or the beginning; ``partition`` ``None``: of all."""

    partition: int | None
    offset: int | None
    newest: bool
    time_ms: int | None
    limit: int


def _asked(parameters: Mapping[str, str], limit_max: int) -> _Asked:
    """Raises Problem 400."""
    partition, offset = parameters.get("partition"), parameters.get("offset")
    limit = parameters.get("limit", str(min(LIMIT_DEFAULT, limit_max)))
    if not (encoding.is_number(limit) and 1 <= int(limit) <= limit_max):
        raise query.bad_parameter("limit", f"limit={limit!r} is not a number from 1 to {limit_max}")
    if partition is not None and not encoding.is_number(partition):
        raise query.bad_parameter("partition", f"partition={partition!r} is no number")
    if offset is not None and offset not in (EARLIEST, LATEST) and not encoding.is_number(offset):
        raise query.bad_parameter("offset", f"offset={offset!r} is no number, nor {EARLIEST} or {LATEST}")
    if offset is not None and "time" in parameters:
        raise query.bad_parameter("time", "begin at an offset or at a time, not at both")
    if partition is None and offset not in (None, LATEST):
        raise query.bad_parameter("offset", "an offset is one of a partition: name that too")
    return _Asked(
        None if partition is None else int(partition),
        int(offset) if offset is not None and encoding.is_number(offset) else None,
        offset == LATEST,
        query.parse_instant("time", parameters["time"]) if "time" in parameters else None,
        int(limit),
    )


def message_object(log: LogServed, message: Message) -> dict[str, Any]:
    """``error`` is there where the topic's readers set the record aside, ``bytes`` where it is cut."""
    seen = log.show(message)
    body: dict[str, Any] = {
        "partition": message.partition,
        "offset": str(message.offset),
        "timestamp": encoding.time_text(message.timestamp_ms),
        "key": seen.key,
        "value": seen.value,
        "headers": shown_headers(message.headers),
    }
    if seen.error is not None:
        body["error"] = seen.error
    if seen.bytes is not None:
        body["bytes"] = seen.bytes
    return body


async def _topic(
    facts: TopicFacts,
    owners: dict[TopicPartition, str],
    lags: dict[TopicPartition, int | None],
    slices: Slices,
) -> dict[str, Any]:
    """One topic; its partitions are encoded already, block by block."""
    blocks: list[bytes] = []
    for first in range(0, len(facts.partitions), BLOCK_PARTITIONS):
        block = [
            {
                "partition": part.partition,
                "owner": owners.get((facts.name, part.partition)),
                "start": None if part.start is None else str(part.start),
                "end": None if part.end is None else str(part.end),
                "position": None if part.position is None else str(part.position),
                "lag": lags.get((facts.name, part.partition)),
            }
            for part in facts.partitions[first : first + BLOCK_PARTITIONS]
        ]
        blocks.append(encoding.encode(block)[1:-1])
        if slices.over():
            await slices.rest()
    return {
        "topic": facts.name,
        "partitions": msgspec.Raw(b"[%b]" % b",".join(blocks)),
        "internal": facts.internal,
        "agents": list(facts.agents),
        "tables": list(facts.tables),
    }
