"""The topics of the app: where they begin and end, who reads them, and how far that is."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from streamflow.query.facts import TopicFacts
from streamflow.query.slices import Slices
from streamflow.transports.base import TopicPartition
from streamflow.web import encoding
from streamflow.web.http.api import Api, answer, only
from streamflow.web.http.everyone import Everyone
from streamflow.web.http.running import lags_of
from streamflow.web.http.scatter_gather import UNUSABLE
from streamflow.web.problems import tables_unknown

BLOCK_PARTITIONS = 200
"""So many are encoded at once: an app may have 10,000."""


class Topics:
    """The handlers of ``/v1/topics``."""

    def __init__(self, api: Api, everyone: Everyone) -> None:
        self._served = api.served
        self._everyone = everyone

    async def topics(self, request: web.Request) -> web.StreamResponse:
        """Positions are known to every worker, since all read the progress of all; lags to the owners."""
        only(request, ())
        served = self._served
        if not served.knows_tables():
            raise tables_unknown()
        lags = dict(served.worker().lags)
        missing = []
        for url, said in (await self._everyone.ask("/v1/workers")).items():
            try:
                lags.update(lags_of(said))
            except UNUSABLE:
                missing.append(url)
        owners = {at: member.url for member in served.members() for at in member.partitions}
        found = await served.topics.facts(served.topics.names())
        slices = Slices(served.clock)
        topics = [await _topic(facts, owners, lags, slices) for facts in found]
        unknown = any(part.end is None for facts in found for part in facts.partitions)
        body = {"topics": topics, "partial": bool(missing) or unknown, "missing": missing}
        return answer(request, body)


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
