"""Lists as streams: all owners merged in order, nothing held twice, in any of `formats`.

Position, lag and completeness are in the headers, since they are known before the rows. An answer that
can't be finished is cut off, so that it never passes as whole. Peers are asked for `NDJSON` always.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import quote

import aiohttp
from aiohttp import web

from streamflow.query.merging import merged
from streamflow.query.rows import PartitionMoved, Row
from streamflow.query.slices import Slices
from streamflow.query.table_reader import TableReader
from streamflow.web import encoding
from streamflow.web.http.completeness import UNUSABLE, Completeness, with_fields
from streamflow.web.http.compression import Compressed
from streamflow.web.http.formats import NDJSON, Format
from streamflow.web.http.scatter_gather import (
    KeyPath,
    ScatterGather,
    no_such_key,
    owner_unavailable,
    scattered_key,
)
from streamflow.web.peers import PeerUnavailable, owners, same_url
from streamflow.web.query import Asked

CHUNK_ROWS: Final = 100
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
COMPLETENESS_HEADER: Final = "Streamflow-Completeness"


class RowStream:
    """One answer: the sources of its rows are added, and then `send` writes them."""

    def __init__(
        self, request: web.Request, scatter_gather: ScatterGather, reader: TableReader, asked: Asked
    ) -> None:
        self._request = request
        self._gather = scatter_gather
        self._reader = reader
        self._asked = asked
        self._whole = Completeness.of(asked)
        self._sources: list[AsyncIterator[Row]] = []
        self._stack = AsyncExitStack()

    async def of_table(self, form: Format, *, local_only: bool) -> web.StreamResponse:
        """Every row that the list asks for, of all owners."""
        reader, asked, whole = self._reader, self._asked, self._whole
        local, by_url, nobody = self._gather.split(reader, asked, local_only=local_only)
        whole.missing.update(nobody)
        if local:
            whole.add_local(reader)
        async with self._stack:
            self._sources = [reader.listed(partition, asked.rows) for partition in sorted(local)]
            path = f"/v1/tables/{quote(reader.name, safe='')}/rows"
            for url, partitions in by_url.items():
                await self._add_peer(url, path, partitions)
            if asked.stale and whole.missing:
                await self._add_standby()
                for url in () if local_only else self._gather.peers.others():
                    if whole.missing:
                        await self._add_peer(url, path, frozenset(whole.missing), stale=True)
            return await self._send(form)

    async def _add_standby(self) -> None:
        reader, whole = self._gather.standby(self._reader, self._asked), self._whole
        mine = frozenset[int]() if reader is None else whole.missing & reader.owned
        if reader is not None and mine:
            whole.found(mine)
            await whole.add_standby(reader, self._gather.served.url, sorted(mine))
            self._sources += [reader.listed(partition, self._asked.rows) for partition in sorted(mine)]

    async def of_key(self, form: Format, key: KeyPath, *, local_only: bool) -> web.StreamResponse:
        """Every row of one key. Raises Problem 404, 409 or 503."""
        reader, whole = self._reader, self._whole
        partition = reader.partition_of(key.key)
        scattered = await reader.scattered_partitions(key.key)
        if scattered:
            raise scattered_key(reader, partition, scattered)
        await self._gather.checked(reader, key, {"missing_partitions": []}, local_only=local_only)
        async with self._stack:
            if partition in reader.owned:
                whole.add_local(reader)
                await self._add_key(reader, key)
            elif local_only or not await self._add_owner(key, partition):
                await self._add_standby_of(key, partition, local_only=local_only)
            return await self._send(form)

    async def _add_key(self, reader: TableReader, key: KeyPath) -> None:
        if await reader.find(key.key) is None:
            raise no_such_key(reader, key)
        self._sources.append(reader.listed_of(key.key, self._asked.rows))

    async def _add_standby_of(self, key: KeyPath, partition: int, *, local_only: bool) -> None:
        """The rows of a key as this worker or another keeps them. Raises Problem 404 or 503."""
        gather, whole = self._gather, self._whole
        standby = gather.standby(self._reader, self._asked)
        if standby is not None and partition in standby.owned:
            whole.missing.discard(partition)
            await whole.add_standby(standby, gather.served.url, [partition])
            await self._add_key(standby, key)
            return
        path = key.path(self._reader.name, "/windows")
        for url in gather.peers.others() if self._asked.stale and not local_only else ():
            await self._add_peer(url, path, frozenset({partition}), key=key, stale=True)
            if partition not in whole.missing:
                return
        raise owner_unavailable(partition, "it can't be asked now")

    async def _add_owner(self, key: KeyPath, partition: int) -> bool:
        owner = owners(self._gather.served, self._reader).get(partition)
        if owner is None or same_url(owner.url, self._gather.served.url):
            return False
        path = key.path(self._reader.name, "/windows")
        await self._add_peer(owner.url, path, frozenset({partition}), key=key)
        return partition not in self._whole.missing

    async def _add_peer(
        self,
        url: str,
        path: str,
        partitions: frozenset[int],
        *,
        key: KeyPath | None = None,
        stale: bool = False,
    ) -> None:
        """The rows of one peer; what it can't answer for is missing. Raises Problem 404 for a key."""
        gather, whole, asked = self._gather, self._whole, self._asked
        parameters = gather.asked_of_peer(asked, None if key is not None else partitions)
        if key is not None:
            parameters.extend(key.parameters())
        try:
            response = await self._stack.enter_async_context(
                gather.peers.stream(url, path, parameters, accept=NDJSON, wait_s=gather.wait_s(asked))
            )
            if response.status == 404 and key is not None:
                raise no_such_key(self._reader, key)
            if response.status != 200:
                raise PeerUnavailable(f"{url} answered {response.status}")
            told = encoding.decode(response.headers[COMPLETENESS_HEADER])
            if stale:
                whole.found(partitions - set(map(int, told["missing_partitions"])))
            whole.add_peer(told, partitions)
        except (PeerUnavailable, *UNUSABLE):
            whole.missing.update(partitions)
            return
        self._sources.append(_lines(url, response))

    # -- writing -------------------------------------------------------------------------------

    async def _send(self, form: Format) -> web.StreamResponse:
        request = self._request
        compressed = Compressed.of(request)
        headers = {"Content-Type": form.content_type, **compressed.headers}
        response = web.StreamResponse(headers=headers)
        response.headers[COMPLETENESS_HEADER] = encoding.encode(self._whole.members()).decode()
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        try:
            async for data in self._pieces(form):
                await self._write(response, compressed, data)
            await response.write_eof(compressed.end())
        except (PartitionMoved, PeerUnavailable, *UNUSABLE):
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # the client has what it wanted
        return response

    async def _write(self, response: web.StreamResponse, compressed: Compressed, data: bytes) -> None:
        piece = compressed.piece(data)
        if piece:
            await response.write(piece)

    async def _pieces(self, form: Format) -> AsyncIterator[bytes]:
        query, fields = self._asked.rows, self._asked.fields
        slices = Slices(self._gather.served.clock)
        chunk: list[Row] = []
        count, most = 0, CHUNK_ROWS if query.limit is None else form.chunk_rows(query.limit)
        async for row in merged(self._sources, query):
            if count == query.limit:
                break
            count += 1
            chunk.append(with_fields(row, fields))
            if len(chunk) >= max(most, form.first_rows if count == len(chunk) else 0):
                yield form.rows(chunk)
                chunk = []
            if slices.over():
                await slices.rest()
        yield form.rows(chunk)
        yield form.end()


async def _lines(url: str, response: aiohttp.ClientResponse) -> AsyncIterator[Row]:
    rest = b""
    try:
        async for data in response.content.iter_any():
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                raise PeerUnavailable(f"{url} sent a line of more than {LINE_BYTES_MAX} bytes")
            for line in lines:
                yield encoding.row_from(encoding.decode(line))
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise PeerUnavailable(f"{url} broke off: {exc!r}") from exc
    if rest:
        raise PeerUnavailable(f"{url} broke off within a row")
