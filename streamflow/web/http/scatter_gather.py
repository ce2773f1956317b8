"""Answers about rows, wherever they lie: this worker's from memory, the others' from their owners.

Where an owner can't be asked, and the caller takes what is stale, whoever keeps its partition as a standby
answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from multidict import MultiDict

from streamflow.query.merging import merged
from streamflow.query.rows import PartitionMoved, Row
from streamflow.query.slices import Slices
from streamflow.query.table_reader import StandbyReader, TableReader
from streamflow.web import encoding
from streamflow.web.http.completeness import ROWS_AT_ONCE, UNUSABLE, Completeness, Page, page_of
from streamflow.web.peers import PeerAnswer, Peers, PeerUnavailable, owners, peers_of, same_url
from streamflow.web.problems import Problem, unavailable
from streamflow.web.query import Asked
from streamflow.web.served import Served
from streamflow.web.settings import WebSettings

POLL_MS = 20.0  # grows to `POLL_MS_MAX`, since a poll may ask peers
POLL_MS_MAX = 160.0
Found = Awaitable[dict[str, Any]]
STALE_WAIT_S = 0.5
"""So long an owner may take where what is stale would do."""


async def first_rows(rows: AsyncIterator[Row], limit: int | None, slices: Slices) -> list[Row]:
    """The first ``limit`` rows, and one more. Raises PartitionMoved."""
    found: list[Row] = []
    async for row in rows:
        found.append(row)
        if limit is not None and len(found) > limit:
            break
        if len(found) % ROWS_AT_ONCE == 0 and slices.over():
            await slices.rest()
    return found


async def each_of(rows: list[Row]) -> AsyncIterator[Row]:
    for row in rows:
        yield row


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


class ScatterGather:
    """Reads tables across workers. ``local_only`` in its methods: a peer asks, which wants our rows only."""

    def __init__(self, served: Served, settings: WebSettings, peers: Peers) -> None:
        self.served = served
        self.settings = settings
        self.peers = peers

    def wait_s(self, asked: Asked) -> float:
        """What a peer may take besides the usual time."""
        if asked.scans:
            return self.settings.scan_wait_s
        return min(0.0, STALE_WAIT_S - self.settings.peer_timeout_s) if asked.stale else 0.0

    def asked_of_peer(self, asked: Asked, partitions: frozenset[int] | None) -> MultiDict[str]:
        """The parameters for a peer: what is chosen of the values is chosen here."""
        parameters = MultiDict(asked.parameters)
        for name in ("min_position", "fields"):
            parameters.popall(name, None)
        if partitions is not None:
            parameters["partitions"] = ",".join(map(str, sorted(partitions)))
        return parameters

    def split(
        self, reader: TableReader, asked: Asked, *, local_only: bool
    ) -> tuple[frozenset[int], dict[str, frozenset[int]], frozenset[int]]:
        """The partitions that are wanted: our own, those of each peer by its address, and those of nobody."""
        wanted = asked.rows.partitions
        if wanted is None:
            wanted = frozenset(range(reader.partitions))
        local = wanted & reader.owned
        if local_only:
            return local, {}, wanted - local
        by_url, nobody = peers_of(self.served, reader, wanted - local)
        return local, by_url, nobody

    def standby(self, reader: TableReader, asked: Asked) -> StandbyReader | None:
        """What this worker keeps of the table for others, where the caller takes that."""
        return self.served.standby(reader.name) if asked.stale else None

    # -- lists ---------------------------------------------------------------------------------

    async def page(self, reader: TableReader, asked: Asked, *, local_only: bool) -> Page:
        """One page of rows, merged from all owners."""
        query, whole = asked.rows, Completeness.of(asked)
        local, by_url, nobody = self.split(reader, asked, local_only=local_only)
        whole.missing.update(nobody)
        answers = await asyncio.gather(
            self._local_rows(reader, asked, local, whole),
            *(self._peer_rows(reader, url, parts, asked, whole) for url, parts in by_url.items()),
        )
        lists = [rows for rows in answers if rows]
        if asked.stale and whole.missing:
            lists += await self._stale_rows(reader, asked, whole, local_only=local_only)
        if len(lists) > 1:
            lists = [await self._first(merged(list(map(each_of, lists)), query), query.limit)]
        return page_of(lists[0] if lists else [], query, whole)

    async def _first(self, rows: AsyncIterator[Row], limit: int | None) -> list[Row]:
        return await first_rows(rows, limit, Slices(self.served.clock))

    async def _local_rows(
        self, reader: TableReader, asked: Asked, partitions: frozenset[int], whole: Completeness
    ) -> list[Row]:
        if not partitions:
            return []
        whole.add_local(reader)
        rows = await self._rows_of(reader, asked, partitions, whole)
        whole.end_local(reader, asked.cursor)
        return rows

    async def _rows_of(
        self, reader: TableReader, asked: Asked, partitions: frozenset[int], whole: Completeness
    ) -> list[Row]:
        """The first rows of those of these partitions that stay while they are read."""
        while True:
            sources = [while_owned(reader, partition, asked, whole) for partition in sorted(partitions)]
            rows = await self._first(merged(sources, asked.rows), asked.rows.limit)
            if not partitions & whole.missing:
                return rows
            partitions -= whole.missing

    async def _peer_rows(
        self,
        reader: TableReader,
        url: str,
        partitions: frozenset[int],
        asked: Asked,
        whole: Completeness,
    ) -> list[Row]:
        try:
            body = await self._peer_list(reader, url, partitions, asked)
            rows = [encoding.row_from(row) for row in body["rows"]]
            whole.add_peer(body, partitions)
        except (PeerUnavailable, *UNUSABLE):
            whole.missing.update(partitions)
            return []
        return [row for row in rows if row.partition in partitions]

    async def _peer_list(
        self, reader: TableReader, url: str, partitions: frozenset[int], asked: Asked
    ) -> Mapping[str, Any]:
        """What a peer answers to the same list of some partitions. Raises PeerUnavailable."""
        path = f"/v1/tables/{quote(reader.name, safe='')}/rows"
        parameters = self.asked_of_peer(asked, partitions)
        answer = await self.peers.get(url, path, parameters, wait_s=self.wait_s(asked))
        if answer.status != 200 or not isinstance(answer.body, dict):
            raise PeerUnavailable(f"{url} answered {answer.status}")
        return answer.body

    async def _stale_rows(
        self, reader: TableReader, asked: Asked, whole: Completeness, *, local_only: bool
    ) -> list[list[Row]]:
        """The rows of missing partitions as standbys have them: our own, else those of others."""
        lists: list[list[Row]] = []
        standby = self.standby(reader, asked)
        if standby is not None:
            mine = whole.missing & standby.owned
            whole.found(mine)
            await whole.add_standby(standby, self.served.url, sorted(mine))
            lists.append(await self._rows_of(standby, asked, frozenset(mine), whole))
        if local_only or not whole.missing:
            return lists
        for partitions, body in await self._ask_standbys(reader, asked, frozenset(whole.missing)):
            found = [encoding.row_from(row) for row in body["rows"]]
            whole.found(partitions)
            whole.add_peer({**body, "missing_partitions": ()}, partitions)
            lists.append([row for row in found if row.partition in partitions])
        return lists

    async def _ask_standbys(
        self, reader: TableReader, asked: Asked, partitions: frozenset[int]
    ) -> list[tuple[frozenset[int], Mapping[str, Any]]]:
        """Which of these partitions each of the other workers is to answer for, and its answer."""

        async def ask(url: str) -> Mapping[str, Any]:
            try:
                return await self._peer_list(reader, url, partitions, asked)
            except PeerUnavailable:
                return {}

        left, found = set(partitions), []
        for body in await asyncio.gather(*map(ask, self.peers.others())):
            try:
                mine = frozenset(left - set(map(int, body["missing_partitions"])))
                if mine and all("window" in row for row in body.get("rows", ())):
                    found.append((mine, body))
                    left -= mine
            except UNUSABLE:
                continue
        return found

    async def count(self, reader: TableReader, asked: Asked, *, local_only: bool) -> dict[str, Any]:
        """How many rows a list wants, of all owners."""
        whole = Completeness.of(asked)
        local, by_url, nobody = self.split(reader, asked, local_only=local_only)
        whole.missing.update(nobody)
        counts = await asyncio.gather(
            self._local_count(reader, asked, local, whole),
            *(self._peer_count(reader, url, parts, asked, whole) for url, parts in by_url.items()),
        )
        count = sum(counts)
        if asked.stale and whole.missing:
            count += await self._stale_count(reader, asked, whole, local_only=local_only)
        return {"count": count, **whole.members(), "pinned": whole.pinned}

    async def _local_count(
        self, reader: TableReader, asked: Asked, partitions: frozenset[int], whole: Completeness
    ) -> int:
        if not partitions:
            return 0
        whole.add_local(reader)
        count = 0
        for partition in sorted(partitions):
            try:
                count += await reader.counted(partition, asked.rows)
            except PartitionMoved:
                whole.missing.add(partition)
        whole.end_local(reader, None)
        return count

    async def _peer_count(
        self, reader: TableReader, url: str, partitions: frozenset[int], asked: Asked, whole: Completeness
    ) -> int:
        try:
            body = await self._peer_list(reader, url, partitions, asked)
            count = int(body["count"])
            whole.add_peer(body, partitions)
        except (PeerUnavailable, *UNUSABLE):
            whole.missing.update(partitions)
            return 0
        return count

    async def _stale_count(
        self, reader: TableReader, asked: Asked, whole: Completeness, *, local_only: bool
    ) -> int:
        count, standby = 0, self.standby(reader, asked)
        if standby is not None:
            mine = sorted(whole.missing & standby.owned)
            await whole.add_standby(standby, self.served.url, mine)
            for partition in mine:
                count += await standby.counted(partition, asked.rows)
                whole.missing.discard(partition)
        if local_only:
            return count
        # One by one: of several together nobody says what each has.
        for partition in sorted(whole.missing):
            for partitions, body in await self._ask_standbys(reader, asked, frozenset({partition})):
                count += int(body["count"])
                whole.found(partitions)
                whole.add_peer({**body, "missing_partitions": ()}, partitions)
        return count

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
                    whole.add_peer(answer.body, frozenset())
        return whole.position

    async def ask_each(self, urls: list[str], path: str) -> list[PeerAnswer | PeerUnavailable]:
        """Asks several peers at once; an answer or its failure for each, in the order of ``urls``."""

        async def ask(url: str) -> PeerAnswer | PeerUnavailable:
            try:
                return await self.peers.get(url, path)
            except PeerUnavailable as exc:
                return exc

        return list(await asyncio.gather(*(ask(url) for url in urls)))

    # -- one key -------------------------------------------------------------------------------

    async def key_windows(
        self, reader: TableReader, key: KeyPath, asked: Asked, *, local_only: bool
    ) -> dict[str, Any]:
        """A page of one key's rows, or their number. Raises Problem 404, 409 or 503."""

        async def local() -> dict[str, Any]:
            whole = Completeness.of(asked)
            whole.add_local(reader)
            return await self._windows_of(reader, key, asked, whole)

        async def stale(standby: StandbyReader) -> dict[str, Any]:
            whole = Completeness.of(asked)
            await whole.add_standby(standby, self.served.url, [reader.partition_of(key.key)])
            return await self._windows_of(standby, key, asked, whole)

        parameters = self.asked_of_peer(asked, None)
        return await self._of_key(reader, key, asked, (local, stale), "/windows", parameters, local_only)

    async def _windows_of(
        self, reader: TableReader, key: KeyPath, asked: Asked, whole: Completeness
    ) -> dict[str, Any]:
        if asked.counts:
            count = await reader.counted_of(key.key, asked.rows)
            return {"count": count, **whole.members(), "pinned": whole.pinned}
        rows = await self._first(reader.listed_of(key.key, asked.rows), asked.rows.limit)
        if not rows and await reader.find(key.key) is None:
            raise no_such_key(reader, key)
        whole.end_local(reader, asked.cursor)
        return await page_of(rows, asked.rows, whole).body(None, self.served.clock)

    async def key_row(
        self, reader: TableReader, key: KeyPath, asked: Asked, *, local_only: bool
    ) -> dict[str, Any]:
        """One row with position, lag and completeness. Raises Problem 404, 409 or 503."""
        at_ms = asked.rows.at_ms

        async def found(of: TableReader, whole: Completeness) -> dict[str, Any]:
            row = await of.find(key.key, at_ms)
            if row is None:
                raise no_such_key(reader, key)
            return {**encoding.row_object(row), **whole.members()}

        async def local() -> dict[str, Any]:
            whole = Completeness.of(asked)
            whole.add_local(reader)
            return await found(reader, whole)

        async def stale(standby: StandbyReader) -> dict[str, Any]:
            whole = Completeness.of(asked)
            await whole.add_standby(standby, self.served.url, [reader.partition_of(key.key)])
            return await found(standby, whole)

        parameters: MultiDict[str] = MultiDict()
        if at_ms is not None:
            parameters["at"] = str(at_ms)
        if asked.stale:
            parameters["stale"] = "ok"
        return await self._of_key(reader, key, asked, (local, stale), "", parameters, local_only)

    async def _of_key(
        self,
        reader: TableReader,
        key: KeyPath,
        asked: Asked,
        here: tuple[Callable[[], Found], Callable[[StandbyReader], Found]],
        tail: str,
        parameters: MultiDict[str],
        local_only: bool,
    ) -> dict[str, Any]:
        """What this worker, its owner, or a standby answers, in this order."""
        local, stale = here
        try:
            if await self._is_local(reader, key):
                body = await local()
            else:
                wait_s = self.wait_s(asked)
                body = await self._ask_owner(
                    reader, key, tail, parameters, wait_s=wait_s, local_only=local_only
                )
        except Problem as problem:
            if not asked.stale or problem.status != 503:
                raise
            standby = self.standby(reader, asked)
            if standby is not None and reader.partition_of(key.key) in standby.owned:
                return await stale(standby)
            if local_only:
                raise
            return await self._ask_standbys_for(reader, key, tail, parameters, problem)
        return await self.checked(reader, key, body, local_only=local_only)

    async def _ask_standbys_for(
        self, reader: TableReader, key: KeyPath, tail: str, parameters: MultiDict[str], problem: Problem
    ) -> dict[str, Any]:
        """What another worker keeps of a key's partition. Raises ``problem`` where none does."""
        path = key.path(reader.name, tail)
        query = MultiDict({**key.parameters()})
        query.extend(parameters)

        async def ask(url: str) -> PeerAnswer | PeerUnavailable:
            try:
                return await self.peers.get(url, path, query)
            except PeerUnavailable as exc:
                return exc

        answers = await asyncio.gather(*map(ask, self.peers.others()))
        for answer in answers:
            if isinstance(answer, PeerAnswer) and isinstance(answer.body, dict):
                if answer.status == 200:
                    return answer.body
                if answer.status == 404 and answer.body.get("code") == "no-such-key":
                    raise no_such_key(reader, key)
        raise problem

    async def _is_local(self, reader: TableReader, key: KeyPath) -> bool:
        partition = reader.partition_of(key.key)
        scattered = await reader.scattered_partitions(key.key)
        if scattered:
            raise scattered_key(reader, partition, scattered)
        return partition in reader.owned

    async def _ask_owner(
        self,
        reader: TableReader,
        key: KeyPath,
        tail: str,
        parameters: MultiDict[str],
        *,
        wait_s: float,
        local_only: bool,
    ) -> dict[str, Any]:
        partition = reader.partition_of(key.key)
        owner = owners(self.served, reader).get(partition)
        if owner is None or local_only or same_url(owner.url, self.served.url):
            raise owner_unavailable(partition, "it is moving between workers")
        query = MultiDict({**key.parameters()})
        query.extend(parameters)
        try:
            answer = await self.peers.get(owner.url, key.path(reader.name, tail), query, wait_s=wait_s)
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

    async def checked(
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


async def while_owned(
    reader: TableReader, partition: int, asked: Asked, whole: Completeness
) -> AsyncIterator[Row]:
    """The rows of one partition; if it goes under way it is missing."""
    try:
        async for row in reader.listed(partition, asked.rows):
            yield row
    except PartitionMoved:
        whole.missing.add(partition)


def no_such_key(reader: TableReader, key: KeyPath) -> Problem:
    return Problem(404, "no-such-key", f"table {reader.name!r} has no row for the key {key.key!r}")


def owner_unavailable(partition: int, why: str) -> Problem:
    return unavailable("owner-unavailable", f"partition {partition}: {why}", missing_partitions=[partition])


def scattered_key(reader: TableReader, home: int, scattered: tuple[int, ...]) -> Problem:
    """409: an agent wrote this key from events of several partitions, and no partition has the whole."""
    partitions = sorted({home, *scattered})
    detail = f"rows of this key of table {reader.name!r} lie in the partitions {partitions}: see /rows"
    return Problem(409, "scattered-key", detail, partitions=partitions)
