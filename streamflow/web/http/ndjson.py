"""Lists as ``application/x-ndjson``: one row a line, all owners merged in order, nothing held twice.

Position, lag and completeness are in the headers, since they are known before the rows. An answer that
can't be finished is cut off, so that it never passes as whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final
from urllib.parse import quote

import aiohttp
from aiohttp import web

from streamflow.query.merging import merged
from streamflow.query.row_query import RowQuery
from streamflow.query.rows import PartitionMoved, Row
from streamflow.query.table_reader import TableReader
from streamflow.web import encoding
from streamflow.web.http.scatter_gather import UNUSABLE, Completeness, ScatterGather
from streamflow.web.peers import PeerUnavailable, is_peer, peers_of

NDJSON: Final = "application/x-ndjson"
CHUNK_ROWS: Final = 500
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
COMPLETENESS_HEADER: Final = "Streamflow-Completeness"


def is_wanted(request: web.Request) -> bool:
    return NDJSON in request.headers.get("Accept", "")


async def answer(
    request: web.Request,
    scatter_gather: ScatterGather,
    reader: TableReader,
    query: RowQuery,
    parameters: Mapping[str, str],
) -> web.StreamResponse:
    """Streams the rows; all of them unless a ``limit`` is given."""
    if "limit" not in parameters:
        query = replace(query, limit=None)
    asked = query.partitions if query.partitions is not None else frozenset(range(reader.partitions))
    local = asked & reader.owned
    by_url: dict[str, frozenset[int]] = {}
    nobody = asked - local
    if not is_peer(request):
        by_url, nobody = peers_of(scatter_gather.served, reader, asked - local)
    whole = Completeness(missing=set(nobody))
    if local:
        whole.add_local(reader)
    async with AsyncExitStack() as stack:
        sources = [reader.listed(partition, query) for partition in sorted(local)]
        for url, partitions in by_url.items():
            source = await _peer_source(stack, scatter_gather, reader, url, partitions, parameters, whole)
            if source is not None:
                sources.append(source)
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
        response.headers[COMPLETENESS_HEADER] = encoding.encode(whole.members()).decode()
        await response.prepare(request)
        try:
            await _write(response, merged(sources, query), query.limit)
        except (PartitionMoved, PeerUnavailable, *UNUSABLE):
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # the client has what it wanted
        else:
            await response.write_eof()
    return response


async def _write(response: web.StreamResponse, rows: AsyncIterator[Row], limit: int | None) -> None:
    chunk: list[bytes] = []
    count = 0
    async for row in rows:
        if limit is not None and count == limit:
            break
        count += 1
        chunk.append(encoding.encode(encoding.row_object(row)))
        if len(chunk) == CHUNK_ROWS:
            await response.write(b"\n".join(chunk) + b"\n")
            chunk = []
    if chunk:
        await response.write(b"\n".join(chunk) + b"\n")


async def _peer_source(
    stack: AsyncExitStack,
    scatter_gather: ScatterGather,
    reader: TableReader,
    url: str,
    partitions: frozenset[int],
    parameters: Mapping[str, str],
    whole: Completeness,
) -> AsyncIterator[Row] | None:
    """The rows of one peer, its completeness added to ``whole``; ``None`` if it does not answer."""
    asked = {**parameters, "partitions": ",".join(map(str, sorted(partitions)))}
    asked.pop("min_position", None)
    path = f"/v1/tables/{quote(reader.name, safe='')}/rows"
    try:
        response = await stack.enter_async_context(
            scatter_gather.peers.stream(url, path, asked, accept=NDJSON)
        )
        if response.status != 200:
            raise PeerUnavailable(f"{url} answered {response.status}")
        whole.add_peer(encoding.decode(response.headers[COMPLETENESS_HEADER]))
    except (PeerUnavailable, *UNUSABLE):
        whole.missing.update(partitions)
        return None
    return _lines(url, response)


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
