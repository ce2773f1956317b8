"""The HTTP API: tables, rows and keys; health and metrics. `routes` says what each answers."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from aiohttp import web

from streamflow.errors import DecodeError
from streamflow.query.rows import PartitionMoved
from streamflow.query.table_reader import TableReader
from streamflow.query.value_paths import ValuePath
from streamflow.settings import version
from streamflow.web import asyncapi, encoding, query
from streamflow.web.http import formats, openapi
from streamflow.web.http.completeness import chosen_value
from streamflow.web.http.compression import ENCODERS, PIECE_BYTES, Compressed
from streamflow.web.http.describe import Describing
from streamflow.web.http.row_streams import RowStream
from streamflow.web.http.scatter_gather import KeyPath, ScatterGather
from streamflow.web.peers import Peers, is_peer, owners
from streamflow.web.problems import Problem, tables_unknown, unavailable
from streamflow.web.rights import KeyLimits, as_worker, caller_of
from streamflow.web.served import Served
from streamflow.web.settings import WebSettings

COUNT_WAIT_S: Final = 0.5


class Api:
    """One handler for each route of `routes.ROUTES`, named like it."""

    def __init__(self, served: Served, settings: WebSettings, peers: Peers) -> None:
        self.served = served
        self.settings = settings
        self.version = version()
        self._counting: asyncio.Future[list[int | BaseException]] | None = None  # the rows of each table
        self.scatter_gather = ScatterGather(served, settings, peers)
        self.describing = Describing(served, self.scatter_gather)

    def reader(self, request: web.Request) -> TableReader:
        """The table of the URL, for who may read all of it.

        Raises Problem 403, whether there is such a table or not; 404, or 503 before tables are known.
        """
        caller_of(request).require("read", "table", request.match_info["table"])
        return self._reader(request)

    def reader_of_some(self, request: web.Request) -> tuple[TableReader, KeyLimits]:
        """The same for who may read some of its keys, and which: what is shown must be held against them."""
        limits = caller_of(request).require_some("read", "table", request.match_info["table"])
        return self._reader(request), limits

    def _reader(self, request: web.Request) -> TableReader:
        name = request.match_info["table"]
        reader = self.served.tables.get(name)
        if reader is None:
            self._check_known()
            caller = caller_of(request)
            names = [each for each in sorted(self.served.tables) if caller.may_some("read", "table", each)]
            raise Problem(404, "no-such-table", f"this app has no table {name!r}", tables=names)
        return reader

    def _check_known(self) -> None:
        if not self.served.knows_tables():
            raise tables_unknown()

    async def tables(self, request: web.Request) -> web.StreamResponse:
        only(request, ())
        self._check_known()
        caller = caller_of(request)
        names = [name for name in sorted(self.served.tables) if caller.may_some("read", "table", name)]
        tables = await asyncio.gather(*(self._described(request, self.served.tables[name]) for name in names))
        return answer(request, {"tables": tables, "partial": any(table["partial"] for table in tables)})

    async def table(self, request: web.Request) -> web.StreamResponse:
        only(request, ())
        reader, _ = self.reader_of_some(request)
        return answer(request, await self._described(request, reader))

    async def _described(self, request: web.Request, reader: TableReader) -> dict[str, Any]:
        """A table; who may read some of its keys is not told how many there are of others."""
        with as_worker():
            table = await self.describing.table(reader, local_only=is_peer(request))
        if not caller_of(request).may("read", "table", reader.name):
            table |= {"rows": None, "counters": {}}
        return table

    async def rows(self, request: web.Request) -> web.StreamResponse:
        reader, limits = self.reader_of_some(request)
        parameters = only(request, query.PARAMETERS)
        local = is_peer(request)
        asked = query.parse(reader, parameters, self.settings.rows_max, limits)
        await self.scatter_gather.reach(reader, query.parse_min_position(parameters), local_only=local)
        if asked.counts:
            return answer(request, await self.scatter_gather.count(reader, asked, local_only=local))
        form = await formats.chosen(request, reader, asked)
        if form is not None:
            stream = RowStream(request, self.scatter_gather, reader, asked.streamed())
            return await stream.of_table(form, local_only=local)
        page = await self.scatter_gather.page(reader, asked, local_only=local)
        return await listed(request, await page.body(asked.fields, self.served.clock))

    async def key(self, request: web.Request) -> web.StreamResponse:
        reader, limits = self.reader_of_some(request)
        parameters = only(request, ("at", "key_b64", "stale", "fields", "min_position"))
        key = read_key(request, reader, parameters)
        check_key(reader, key.key, limits)
        asked = query.parse_of_key(reader, key.key, parameters, self.settings.rows_max)
        local = is_peer(request)
        await self.scatter_gather.reach(reader, query.parse_min_position(parameters), local_only=local)
        try:
            body = await self.scatter_gather.key_row(reader, key, asked, local_only=local)
        except PartitionMoved as exc:
            raise unavailable("owner-unavailable", str(exc)) from exc
        return answer(request, chosen_of(body, asked.fields))

    async def key_windows(self, request: web.Request) -> web.StreamResponse:
        reader, limits = self.reader_of_some(request)
        parameters = only(request, ("key_b64", *query.WINDOW_LIST))
        key = read_key(request, reader, parameters)
        check_key(reader, key.key, limits)
        asked = query.parse_of_key(reader, key.key, parameters, self.settings.rows_max)
        local = is_peer(request)
        await self.scatter_gather.reach(reader, query.parse_min_position(parameters), local_only=local)
        try:
            form = None if asked.counts else await formats.chosen(request, reader, asked)
            if form is not None:
                stream = RowStream(request, self.scatter_gather, reader, asked.streamed())
                return await stream.of_key(form, key, local_only=local)
            body = await self.scatter_gather.key_windows(reader, key, asked, local_only=local)
        except PartitionMoved as exc:
            raise unavailable("owner-unavailable", str(exc)) from exc
        rows = [chosen_of(row, asked.fields) for row in body.get("rows", ())]
        return await listed(request, {**body, "rows": rows} if "rows" in body else body)

    async def key_location(self, request: web.Request) -> web.StreamResponse:
        reader, limits = self.reader_of_some(request)
        key = read_key(request, reader, only(request, ("key_b64",)))
        check_key(reader, key.key, limits)
        partition = reader.partition_of(key.key)
        owner = owners(self.served, reader).get(partition)
        body = {
            "key": key.key,
            "partition": partition,
            "owner": self.served.url if partition in reader.owned else owner.url if owner else None,
            "scattered": sorted(await reader.scattered_partitions(key.key)),
        }
        return answer(request, body)

    async def status(self, request: web.Request) -> web.StreamResponse:
        caller_of(request).require("read", "app", self.served.app_id)
        only(request, ())
        if is_peer(request):
            return answer(request, {"app_id": self.served.app_id, "workers": [self.describing.worker()]})
        return answer(request, await self.describing.workers())

    async def openapi_json(self, request: web.Request) -> web.StreamResponse:
        return answer(request, openapi.document(self.version))

    async def asyncapi_json(self, request: web.Request) -> web.StreamResponse:
        return answer(request, asyncapi.document(self.version))

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        health = dict(self.served.health())
        # Not while it is recovering: whoever restarts what is unhealthy would never let it finish.
        status = 200 if health.get("error") is None else 503
        if not caller_of(request).may("read", "app", self.served.app_id):
            health = {"status": health.get("status")}  # an error's text may tell more than a probe may know
        return answer(request, health, status=status)

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        knows = caller_of(request).may("read", "app", self.served.app_id)
        if not self.served.ready():
            # The reason holds no more than what is away: a broker's error text may tell too much to a probe.
            reason = self.served.health().get("reason") if knows else None
            detail = (
                reason or "no partitions are assigned yet, tables are being rebuilt, or the broker is away"
            )
            raise unavailable("not-ready", str(detail))
        # A slow agent costs no readiness: rows are served all the same, and work may take its time.
        slow = self.served.health().get("slow") if knows else None
        return answer(request, {"status": "ready", **({"slow": slow} if slow else {})})

    async def _count_rows(self) -> None:
        """Brings up to date what takes its time; a large first count goes on beside the answer."""
        if self._counting is None or self._counting.done():
            readers = list(self.served.tables.values())
            counts = (each.count_rows() for each in readers)
            self._counting = asyncio.gather(*counts, return_exceptions=True)
        await asyncio.wait({self._counting}, timeout=COUNT_WAIT_S)

    async def _note_unowned(self) -> None:
        """Whoever has a partition tells its lag; of one that nobody has every worker does."""
        lags = self.served.metrics.unowned_lag_records
        owned = {at for member in self.served.members() for at in member.partitions}
        found = await self.served.topics.unowned_lags(owned)
        lags.clear()
        for at, lag in found.items():
            lags.labels(*at).set(lag)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        caller_of(request).require("read", "app", self.served.app_id)
        await self._count_rows()
        await self._note_unowned()
        body, content_type = self.served.metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


def only(request: web.Request, names: tuple[str, ...]) -> query.Parameters:
    """The parameters of the URL. Raises Problem 400 for one that is not in ``names`` or is given twice.

    A misspelt filter that is silently ignored would answer with the wrong rows.
    """
    for name in request.query:
        if name not in names:
            known = f"there are {', '.join(names)}" if names else "there are none here"
            raise query.bad_parameter(name, f"there is no parameter {name!r}: {known}")
        if len(request.query.getall(name)) > 1 and name not in query.SEVERAL:
            raise query.bad_parameter(name, f"{name!r} is given more than once")
    return request.query


def chosen_of(body: dict[str, Any], fields: tuple[ValuePath, ...] | None) -> dict[str, Any]:
    """A row as JSON, with some members of its value."""
    return body if fields is None else {**body, "value": chosen_value(body["value"], fields)}


def read_key(request: web.Request, reader: TableReader, parameters: Mapping[str, str]) -> KeyPath:
    """The key of the URL, percent-decoded once and read by the table's key type.

    Raises Problem 404 for a table without keys, 400 for text that is no key.
    """
    if not reader.keyed:
        detail = f"the rows of table {reader.name!r} have no key: find them by their window, with /rows"
        raise Problem(404, "no-such-key", detail)
    # Not from match_info, which decodes "%2525" and leaves what is not UTF-8 as it stands.
    raw = unquote_to_bytes(request.rel_url.raw_path.split("/")[5])
    key_b64 = parameters.get("key_b64")
    try:
        if key_b64 is not None:
            padded = key_b64.replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")
            key_bytes = base64.b64decode(padded.encode() + b"=" * (-len(padded) % 4), validate=True)
            return KeyPath(reader.parse_key_bytes(key_bytes), "-", key_b64)
        text = raw.decode()
        return KeyPath(read_key_text(reader, text), text, None)
    except binascii.Error:
        raise Problem(400, "bad-key", "key_b64 is not base64") from None
    except UnicodeDecodeError:
        raise Problem(400, "bad-key", "the key is not UTF-8: give its bytes as ?key_b64=") from None
    except DecodeError as exc:
        raise Problem(400, "bad-key", f"table {reader.name!r}: {exc.message}") from None


def check_key(reader: TableReader, key: object, limits: KeyLimits) -> None:
    """Raises Problem 403 for a key that the caller may not read, whether there is a row of it or not."""
    if not limits.allows(key):
        raise Problem(403, "forbidden", f"the right read:table:{reader.name} is needed for this key")


def read_key_text(reader: TableReader, text: str) -> Any:
    """Raises Problem 400 for text that is no key of the table."""
    try:
        return reader.parse_key(text)
    except DecodeError as exc:
        raise Problem(400, "bad-key", f"table {reader.name!r}: {exc.message}") from None


def answer(request: web.Request, body: object, *, status: int = 200) -> web.Response:
    """JSON with an ETag; 304 without a body when the client has the same already."""
    raw = encoding.encode(body)
    headers = {"ETag": _tag(raw), "Cache-Control": "no-cache"}
    if status == 200 and request.method in ("GET", "HEAD") and _has(request, headers["ETag"]):
        return web.Response(status=304, headers=headers)
    return web.Response(status=status, body=raw, content_type="application/json", headers=headers)


async def listed(request: web.Request, body: object) -> web.Response:
    """`answer`, compressed as the client takes it: piece by piece, others work in between."""
    await asyncio.sleep(0)  # a large page was a slice of work already
    raw = encoding.encode(body)
    tag, compressed = _tag(raw), Compressed.of(request, len(raw))
    shown = f'{tag[:-1]}-{compressed.name}"' if compressed.name else tag
    headers = {"ETag": shown, "Cache-Control": "no-cache", **compressed.headers}
    if request.method in ("GET", "HEAD") and _has(request, tag):
        headers.pop("Content-Encoding", None)
        return web.Response(status=304, headers=headers)
    if compressed.name:
        pieces: list[bytes] = []
        for at in range(0, len(raw), PIECE_BYTES):
            pieces.append(compressed.piece(raw[at : at + PIECE_BYTES]))
            await asyncio.sleep(0)
        raw = b"".join((*pieces, compressed.end()))
    return web.Response(body=raw, content_type="application/json", headers=headers)


def _tag(raw: bytes) -> str:
    return f'"{hashlib.blake2b(raw, digest_size=12).hexdigest()}"'


def _has(request: web.Request, tag: str) -> bool:
    """Has the client this, in whichever encoding?"""
    known = [part.strip().removeprefix("W/") for part in request.headers.get("If-None-Match", "").split(",")]
    encoded = [f'{tag[:-1]}-{name}"' for name in ENCODERS]
    return "*" in known or any(each in known for each in (tag, *encoded))
