"""What came too late, of all partitions, and its way back into closed windows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

from streamflow.errors import StreamflowError
from streamflow.query.rows import LateRow
from streamflow.query.table_reader import TableReader
from streamflow.web import encoding, query
from streamflow.web.http.api import Api, answer, only
from streamflow.web.peers import PeerAnswer, PeerUnavailable, is_peer, peers_of
from streamflow.web.problems import Problem, unavailable
from streamflow.web.rights import caller_of

LIMIT_DEFAULT: Final = 100
APPLY_WAIT_S: Final = 15.0
"""What a peer may take for the checkpoint that makes it durable, besides the usual time."""
OUTCOMES: Final = ("applied", "expired", "unsupported")


class LateEvents:
    """The handlers of the late-event store."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def late(self, request: web.Request) -> web.StreamResponse:
        """The late events in the order of their places (partition, offset), page by page."""
        reader = self._api.reader(request)
        parameters = only(request, ("limit", "cursor"))
        limit = _number(parameters, "limit", LIMIT_DEFAULT, 1, self._api.settings.rows_max)
        after = _cursor(parameters.get("cursor"))
        seen = reader.late()
        found = [_event(reader, at, event) for at, of in seen.items() for event in of.events]
        totals = {str(partition): dict(of.totals) for partition, of in seen.items()}
        missing: set[int] = set()
        if reader.window is not None and reader.kind == "aggregate":
            missing = set(range(reader.partitions)) - set(seen)
        if not is_peer(request) and missing:
            tail = {"limit": str(self._api.settings.rows_max)}
            if "cursor" in parameters:
                tail["cursor"] = parameters["cursor"]
            for said in await self._ask(reader, frozenset(missing), "GET", tail):
                found += said["late"]
                totals |= said["totals"]
                missing -= {int(partition) for partition in said["totals"]}
        found = sorted((e for e in found if _place(e) > after), key=_place)
        page = found[:limit]
        body = {
            "late": page,
            "next": f"{page[-1]['partition']}:{page[-1]['offset']}" if len(found) > limit else None,
            "totals": dict(sorted(totals.items())),
            "partial": bool(missing),
            "missing_partitions": sorted(missing),
        }
        return answer(request, body)

    async def late_apply(self, request: web.Request) -> web.StreamResponse:
        """Folds them into closed windows. Each worker does its own partitions, each event exactly once."""
        caller_of(request).require("admin", "table", request.match_info["table"])
        reader = self._api.reader(request)
        only(request, ())
        if reader.kind != "aggregate" or reader.window is None:
            detail = f"table {reader.name!r} is no declared aggregate with windows: nothing can be applied"
            raise Problem(409, "not-applicable", detail)
        owned = set(reader.late())
        try:
            done = dict(await self._api.served.apply_late(reader.name))
        except StreamflowError as exc:
            raise unavailable("owner-unavailable", str(exc)) from exc
        missing = set(range(reader.partitions)) - owned
        if not is_peer(request) and missing:
            for said in await self._ask(reader, frozenset(missing), "POST", {}):
                missing -= set(said["partitions"])
                for name in OUTCOMES:
                    done[name] += said[name]
        body = {
            **{name: done[name] for name in OUTCOMES},
            "partitions": sorted(set(range(reader.partitions)) - missing),
            "partial": bool(missing),
            "missing_partitions": sorted(missing),
        }
        return answer(request, body)

    async def _ask(
        self, reader: TableReader, partitions: frozenset[int], method: str, parameters: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """What the other owners of these partitions say; who does not answer is left out."""
        by_url, _ = peers_of(self._api.served, reader, partitions)
        path = f"/v1/tables/{quote(reader.name, safe='')}/late"
        peers = self._api.scatter_gather.peers

        async def ask(url: str) -> PeerAnswer | None:
            try:
                wait_s = APPLY_WAIT_S if method == "POST" else 0.0
                return await peers.get(url, path, parameters, wait_s=wait_s, method=method)
            except PeerUnavailable:
                return None

        answers = await asyncio.gather(*map(ask, by_url))
        return [a.body for a in answers if a is not None and a.status == 200 and isinstance(a.body, dict)]


def _event(reader: TableReader, partition: int, event: LateRow) -> dict[str, Any]:
    return {
        "key": event.key,
        "windows": [
            {"start": encoding.time_text(start), "end": encoding.time_text(end)}
            for start, end in event.windows
        ],
        "time": encoding.time_text(event.time_ms),
        "behind_ms": event.behind_ms,
        "topic": reader.source_topic,
        "partition": partition if event.partition is None else event.partition,
        "offset": str(event.offset),
        "applies": event.applies,
    }


def _place(event: Mapping[str, Any]) -> tuple[int, int]:
    return event["partition"], int(event["offset"])


def _number(parameters: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = parameters.get(name, str(default))
    if not (encoding.is_number(text) and least <= int(text) <= most):
        raise query.bad_parameter(name, f"{text!r} is no whole number from {least} to {most}")
    return int(text)


def _cursor(text: str | None) -> tuple[int, int]:
    if text is None:
        return (-1, -1)
    partition, _, offset = text.partition(":")
    if not (encoding.is_number(partition) and encoding.is_number(offset)):
        raise Problem(400, "bad-cursor", f"{text!r} is no cursor of this list")
    return int(partition), int(offset)
