"""Answers about rows, wherever they lie: this worker's from memory, the others' from their owners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from streamflow.query.row_query import RowQuery
from streamflow.query.rows import PartitionMoved, Row
from streamflow.query.table_reader import TableReader
from streamflow.web import encoding
from streamflow.web.peers import PeerAnswer, Peers, PeerUnavailable, owners, peers_of, same_url
from streamflow.web.problems import Problem, unavailable
from streamflow.web.query import cursor_after
from streamflow.web.served import Served
from streamflow.web.settings import WebSettings

POLL_MS = 20.0  # grows to `POLL_MS_MAX`, since a poll may ask peers
POLL_MS_MAX = 160.0


@dataclass(slots=True)
class Completeness:
    """How far the rows of an answer have come, and what is missing of them."""

    positions: list[Mapping[int, int]] = field(default_factory=list)  # one for each worker that answered
    lags: list[Mapping[int, int | None]] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)  # table partitions

    def add_local(self, reader: TableReader) -> None:
        status = reader.status()
        self.positions.append(status.positions)
        self.lags.append(status.lags)

    def add_peer(self, body: Mapping[str, Any]) -> None:
        """Raises KeyError, ValueError, TypeError or AttributeError for what is no answer of a worker."""
        self.positions.append(encoding.position_from(body["position"]))
        self.lags.append({int(partition): lag for partition, lag in body["lag"].items()})
        self.missing.update(map(int, body["missing_partitions"]))

    @property
    def position(self) -> dict[int, int]:
        return encoding.least_positions(self.positions)

    def members(self) -> dict[str, Any]:
        """The members that every answer about rows has."""
        return {
            "partial": bool(self.missing),
            "missing_partitions": sorted(self.missing),
            "position": encoding.position_object(self.position),
            "lag": encoding.lag_object(encoding.greatest_lags(self.lags)),
        }


@dataclass(slots=True)
class Page:
    rows: list[Row]
    next: str | None
    completeness: Completeness

    def body(self) -> dict[str, Any]:
        rows = [encoding.row_object(row) for row in self.rows]
        return {"rows": rows, "next": self.next, **self.completeness.members()}


@dataclass(frozen=True, slots=True)
class Part:
    """What one worker gives to a page: its first rows, and whether it has more than the limit."""

    rows: list[Row]
    has_more: bool = False


def page_of(rows: list[Row], query: RowQuery, whole: Completeness, *, has_more: bool = False) -> Page:
    """``rows`` are in order; one more than the limit tells that there is a next page, and so does
    ``has_more``: a peer's page was full, and nobody else had a row to put in."""
    if query.limit is None or not rows or (len(rows) <= query.limit and not has_more):
        return Page(rows, None, whole)
    rows = rows[: query.limit]
    return Page(rows, cursor_after(rows[-1], query.fingerprint), whole)


async def first_rows(rows: AsyncIterator[Row], limit: int | None) -> list[Row]:
    """The first ``limit`` rows, and one more. Raises PartitionMoved."""
    found: list[Row] = []
    async for row in rows:
        found.append(row)
        if limit is not None and len(found) > limit:
            break
    return found


@dataclass(frozen=True, slots=True)
class KeyPath:
    """A key and how the URL spelt it, so that a peer reads the same one. ``text`` is decoded."""

    key: Any
    text: str
    key_b64: str | None

    def path(self, table: str, tail: str = "") -> str:
        return f"/v1/tables/{quote(table, safe='')}/keys/{quote(self.text, safe='')}{tail}"

    def parameters(self) -> dict[str, str]:
        return {} if self.key_b64 is None else {"key_b64": self.key_b64}


UNUSABLE = (KeyError, ValueError, TypeError, AttributeError, IndexError)
"""What reading an answer raises when it is not a worker's."""


class ScatterGather:
    """Reads tables across workers. ``local_only`` in its methods: a peer asks, which wants our rows only."""

    def __init__(self, served: Served, settings: WebSettings, peers: Peers) -> None:
        self.served = served
        self.settings = settings
        self.peers = peers

    async def page(
        self, reader: TableReader, query: RowQuery, parameters: Mapping[str, str], *, local_only: bool
    ) -> Page:
        """One page of rows, merged from all owners; ``parameters`` are those of the URL, for the peers."""
        asked = query.partitions if query.partitions is not None else frozenset(range(reader.partitions))
        local = asked & reader.owned
        whole = Completeness()
        by_url: dict[str, frozenset[int]] = {}
        nobody = asked - local
        if not local_only:
            by_url, nobody = peers_of(self.served, reader, asked - local)
        whole.missing.update(nobody)
        answers = await asyncio.gather(
            self._local_rows(reader, query, local, whole),
            *(self._peer_rows(reader, url, parts, parameters, whole) for url, parts in by_url.items()),
        )
        count = None if query.limit is None else query.limit + 1
        rows = query.best((row for page in answers for row in page.rows), count)
        return page_of(rows, query, whole, has_more=any(page.has_more for page in answers))

    async def _local_rows(
        self,
        reader: TableReader,
        query: RowQuery,
        partitions: frozenset[int],
        whole: Completeness,
    ) -> Part:
        if not partitions:
            return Part([])
        # Before the rows: they may be newer than the position says, never older.
        whole.add_local(reader)
        rows: list[Row] = []
        for partition in sorted(partitions):
            try:
                rows.extend(await first_rows(reader.listed(partition, query), query.limit))
            except PartitionMoved:
                whole.missing.add(partition)  # it went while the rows were read
        return Part(rows)

    async def _peer_rows(
        self,
        reader: TableReader,
        url: str,
        partitions: frozenset[int],
        parameters: Mapping[str, str],
        whole: Completeness,
    ) -> Part:
        asked = {**parameters, "partitions": ",".join(map(str, sorted(partitions)))}
        asked.pop("min_position", None)
        path = f"/v1/tables/{quote(reader.name, safe='')}/rows"
        try:
            answer = await self.peers.get(url, path, asked)
            if answer.status != 200:
                raise PeerUnavailable(f"{url} answered {answer.status}")
            rows = [encoding.row_from(row) for row in answer.body["rows"]]
            has_more = answer.body["next"] is not None
            whole.add_peer(answer.body)
        except (PeerUnavailable, *UNUSABLE):
            whole.missing.update(partitions)
            return Part([])
        return Part(rows, has_more)

    async def reach(self, reader: TableReader, wanted: Mapping[int, int], *, local_only: bool) -> None:
        """Waits until the table shows what stands before the positions ``wanted``.

        Raises Problem 503 when that takes longer than ``min_position_wait_s``.
        """
        if not wanted:
            return
        clock = self.served.clock
        deadline = clock.monotonic_ms() + self.settings.min_position_wait_s * 1_000
        wait_ms = POLL_MS
        while True:
            shown = await self.position(reader, local_only=local_only)
            if all(shown.get(partition, -1) >= offset for partition, offset in wanted.items()):
                return
            if clock.monotonic_ms() >= deadline:
                raise unavailable(
                    "position-not-reached",
                    f"table {reader.name!r} has not come so far in {self.settings.min_position_wait_s:g} s",
                    position=encoding.position_object(shown),
                )
            await clock.sleep_ms(wait_ms)
            wait_ms = min(wait_ms * 2, POLL_MS_MAX)

    async def position(self, reader: TableReader, *, local_only: bool) -> dict[int, int]:
        """What all owners show, as source partition -> next offset."""
        local = reader.owned
        whole = Completeness()
        if local:
            whole.add_local(reader)
        if not local_only:
            others = frozenset(range(reader.partitions)) - local
            by_url, _ = peers_of(self.served, reader, others)
            path = f"/v1/tables/{quote(reader.name, safe='')}"
            for answer in await self.ask_each(list(by_url), path):
                if isinstance(answer, PeerAnswer) and answer.status == 200:
                    whole.add_peer(answer.body)
        return whole.position

    async def ask_each(self, urls: list[str], path: str) -> list[PeerAnswer | PeerUnavailable]:
        """Asks several peers at once; an answer or its failure for each, in the order of ``urls``."""

        async def ask(url: str) -> PeerAnswer | PeerUnavailable:
            try:
                return await self.peers.get(url, path)
            except PeerUnavailable as exc:
                return exc

        return list(await asyncio.gather(*(ask(url) for url in urls)))

    async def key_windows(
        self,
        reader: TableReader,
        key: KeyPath,
        query: RowQuery,
        parameters: Mapping[str, str],
        *,
        local_only: bool,
    ) -> dict[str, Any]:
        """A page of one key's rows; ``parameters`` are those of the URL. Raises Problem 404, 409 or 503."""
        if await self._is_local(reader, key):
            whole = Completeness()
            whole.add_local(reader)
            rows = await first_rows(reader.listed_of(key.key, query), query.limit)
            if not rows and await reader.find(key.key) is None:
                raise no_such_key(reader, key)
            body = page_of(rows, query, whole).body()
        else:
            body = await self._ask_owner(reader, key, "/windows", parameters, local_only=local_only)
        return await self._checked(reader, key, body, local_only=local_only)

    async def key_row(
        self, reader: TableReader, key: KeyPath, at_ms: int | None, *, local_only: bool
    ) -> dict[str, Any]:
        """One row with position, lag and completeness. Raises Problem 404, 409 or 503."""
        if await self._is_local(reader, key):
            whole = Completeness()
            whole.add_local(reader)
            row = await reader.find(key.key, at_ms)
            if row is None:
                raise no_such_key(reader, key)
            body = {**encoding.row_object(row), **whole.members()}
        else:
            at = {} if at_ms is None else {"at": str(at_ms)}
            body = await self._ask_owner(reader, key, "", at, local_only=local_only)
        return await self._checked(reader, key, body, local_only=local_only)

    async def _is_local(self, reader: TableReader, key: KeyPath) -> bool:
        partition = reader.partition_of(key.key)
        scattered = await reader.scattered_partitions(key.key)
        if scattered:
            raise scattered_key(reader, partition, scattered)
        return partition in reader.owned

    async def _ask_owner(
        self, reader: TableReader, key: KeyPath, tail: str, parameters: Mapping[str, str], *, local_only: bool
    ) -> dict[str, Any]:
        partition = reader.partition_of(key.key)
        owner = owners(self.served, reader).get(partition)
        if owner is None or local_only or same_url(owner.url, self.served.url):
            raise owner_unavailable(partition, "it is moving between workers")
        try:
            answer = await self.peers.get(
                owner.url, key.path(reader.name, tail), {**key.parameters(), **parameters}
            )
        except PeerUnavailable as exc:
            raise owner_unavailable(partition, str(exc)) from exc
        if not isinstance(answer.body, dict):
            raise owner_unavailable(partition, f"{owner.url} answered something else")
        if answer.status == 200:
            return answer.body
        # By its code: that another version of the app has no such table says nothing of the key.
        code = answer.body.get("code")
        if answer.status == 404 and code == "no-such-key":
            raise no_such_key(reader, key)
        if answer.status == 409 and code == "scattered-key":
            raise scattered_key(reader, partition, tuple(answer.body.get("partitions", ())))
        raise owner_unavailable(partition, f"{owner.url} answered {answer.status} {code or ''}".rstrip())

    async def _checked(
        self, reader: TableReader, key: KeyPath, body: dict[str, Any], *, local_only: bool
    ) -> dict[str, Any]:
        """Makes sure that no other worker holds rows of this key, before its row passes as the whole."""
        if local_only or reader.kind != "agent":
            return body  # only writes of agents can scatter
        urls = self.peers.others()
        if not urls:
            return body
        tail = key.path(reader.name, "/location")
        if key.key_b64 is not None:
            tail += f"?key_b64={quote(key.key_b64, safe='')}"
        missing = set(body["missing_partitions"])
        for url, answer in zip(urls, await self.ask_each(urls, tail), strict=True):
            if isinstance(answer, PeerAnswer) and answer.status == 200 and isinstance(answer.body, dict):
                scattered = tuple(answer.body.get("scattered", ()))
                if scattered:
                    raise scattered_key(reader, reader.partition_of(key.key), scattered)
            else:
                missing.update(p for p, owner in owners(self.served, reader).items() if owner.url == url)
        return {**body, "partial": bool(missing), "missing_partitions": sorted(missing)}


def no_such_key(reader: TableReader, key: KeyPath) -> Problem:
    return Problem(404, "no-such-key", f"table {reader.name!r} has no row for the key {key.key!r}")


def owner_unavailable(partition: int, why: str) -> Problem:
    return unavailable("owner-unavailable", f"partition {partition}: {why}", missing_partitions=[partition])


def scattered_key(reader: TableReader, home: int, scattered: tuple[int, ...]) -> Problem:
    """409: an agent wrote this key from events of several partitions, and no partition has the whole."""
    partitions = sorted({home, *scattered})
    detail = f"rows of this key of table {reader.name!r} lie in the partitions {partitions}: see /rows"
    return Problem(409, "scattered-key", detail, partitions=partitions)
