"""Rows that other workers own: asks their owners over HTTP.

With a proof that it is a worker, and the caller's rights, never the caller's headers; only addresses of
current members; no redirects; a timeout; and the peer answers from its own rows only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

from streamflow.errors import StreamflowError
from streamflow.query.table_reader import TableReader
from streamflow.transports.base import Member
from streamflow.web import encoding, tls
from streamflow.web.rights import caller_of, delegated
from streamflow.web.security import APP_HEADER, CALLER_HEADER, PEER_HEADER, peer_proof
from streamflow.web.served import Served
from streamflow.web.settings import WebSettings

log = logging.getLogger(__name__)


class PeerUnavailable(StreamflowError):
    """A peer did not answer in time, or not in a way that can be used."""


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """What a peer said: its status and its body as JSON."""

    status: int
    body: Any


def is_peer(request: web.BaseRequest) -> bool:
    """Whether a worker asks, which wants our own rows only."""
    return caller_of(request).asks_own_rows


def same_url(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def owners(served: Served, reader: TableReader) -> dict[int, Member]:
    """Table partition -> its owner by the newest assignment; without those that have none now."""
    found: dict[int, Member] = {}
    for member in served.members():
        for topic, partition in member.partitions:
            if topic == reader.source_topic and partition < reader.partitions:
                found[partition] = member
    return found


def peers_of(
    served: Served, reader: TableReader, partitions: frozenset[int]
) -> tuple[dict[str, frozenset[int]], frozenset[int]]:
    """Address of each other owner -> which of ``partitions`` it has, and those that nobody has now."""
    by_url: dict[str, set[int]] = {}
    nobody: set[int] = set()
    known = owners(served, reader)
    for partition in partitions:
        member = known.get(partition)
        if member is None or same_url(member.url, served.url):
            nobody.add(partition)
        else:
            by_url.setdefault(member.url, set()).add(partition)
    return {url: frozenset(parts) for url, parts in by_url.items()}, frozenset(nobody)


def own_headers(served: Served, settings: WebSettings, url: str) -> dict[str, str]:
    """By which the worker at ``url`` knows who asks."""
    headers = {
        PEER_HEADER: served.url,
        APP_HEADER: quote(served.app_id),
        "Accept": "application/json",
        "Accept-Encoding": "identity",  # what compressing costs is more than a local network does
    }
    if settings.worker_secret is not None:
        proof = peer_proof(settings.worker_secret, served.app_id, url)
        headers["Authorization"] = f"{PEER_HEADER} {proof}"
    return headers


def for_whom() -> dict[str, str]:
    """Tells the peer whose request is being answered, and with what rights."""
    said = delegated()
    return {} if said is None else {CALLER_HEADER: said}


class Peers:
    """One HTTP session to all peers. `start` and `stop` it with the server."""

    def __init__(self, served: Served, settings: WebSettings) -> None:
        self.served = served
        self.settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._is_told = False

    def headers(self, url: str) -> dict[str, str]:
        """For questions of our own to the worker at ``url``."""
        return own_headers(self.served, self.settings, url)

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit_per_host=32, ssl=tls.peer_context(self.settings) or True),
            trust_env=False,
        )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "peers are asked only between start and stop"
        return self._session

    def others(self) -> list[str]:
        """Addresses of all other workers."""
        return sorted({m.url for m in self.served.members() if not same_url(m.url, self.served.url)})

    def address(self, url: str, path: str, query: Mapping[str, str] | None = None) -> URL:
        """``path`` (already quoted) on a current member. Raises PeerUnavailable for any other address."""
        parts = urlsplit(url)
        known = any(same_url(member.url, url) for member in self.served.members())
        if not known or parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise PeerUnavailable(f"{url} is no worker of this app now")
        tail = f"?{urlencode(query)}" if query else ""
        return URL(f"{url.rstrip('/')}{path}{tail}", encoded=True)

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        accept: str,
        wait_s: float = 0.0,
        method: str = "GET",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is read piece by piece. ``wait_s`` is added to the peer's time."""
        address = self.address(url, path, query)
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=self.settings.peer_timeout_s,
            sock_read=self.settings.peer_timeout_s + wait_s,
        )
        try:
            async with self.session.request(
                method,
                address,
                headers={**self.headers(url), **for_whom(), "Accept": accept},
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise PeerUnavailable(f"{url}: {str(exc) or type(exc).__name__}") from exc

    async def get(
        self,
        url: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        wait_s: float = 0.0,
        method: str = "GET",
    ) -> PeerAnswer:
        """A whole JSON answer. Raises PeerUnavailable for anything else, 5xx and refusals included."""
        try:
            async with asyncio.timeout(self.settings.peer_timeout_s + wait_s):
                async with self.stream(
                    url, path, query, accept="application/json", wait_s=wait_s, method=method
                ) as response:
                    raw = await response.content.read(self.settings.peer_answer_bytes_max + 1)
                    while not response.content.at_eof() and len(raw) <= self.settings.peer_answer_bytes_max:
                        raw += await response.content.read(self.settings.peer_answer_bytes_max)
        except TimeoutError as exc:
            raise PeerUnavailable(f"{url} did not answer in time") from exc
        if len(raw) > self.settings.peer_answer_bytes_max:
            raise PeerUnavailable(f"{url} answered more than {self.settings.peer_answer_bytes_max} bytes")
        if response.status == 401 and not self._is_told:
            self._is_told = True
            log.error("%s does not take us for a worker: is its web_peer_secret another one?", url)
        if response.status >= 500 or response.status in (401, 403, 421) or 300 <= response.status < 400:
            raise PeerUnavailable(f"{url} answered {response.status}")
        try:
            return PeerAnswer(response.status, encoding.decode(raw))
        except ValueError as exc:
            raise PeerUnavailable(f"{url} answered something that is not JSON") from exc
