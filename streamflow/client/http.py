"""Questions over HTTP, asked again, the next worker first, where one does not answer or can't now."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from streamflow.client.errors import ClientError, OutcomeUnknown, Unreachable
from streamflow.client.messages import encode

FIRST_WAIT_S: Final = 0.5
NEXT_WORKER_S: Final = 0.1
"""To another worker, before all of them have been tried."""
PASSING: Final = frozenset({421, 429, 502, 503, 504})
"""Statuses that another worker, or this one a little later, may not answer."""
NOTHING_DONE: Final = frozenset({"not-ready", "another-app", "too-many-requests", "http-429"})
"""Problems behind which even what must not happen twice may be asked again. A broker that has gone may have
written some of what was sent."""

Token = str | Callable[[], "str | Awaitable[str | None] | None"] | None
Query = Mapping[str, object]


def jittered(seconds: float) -> float:
    return seconds * random.uniform(0.75, 1.25)


async def current_token(token: Token) -> str | None:
    """The token, or what its function gives now."""
    if token is None or isinstance(token, str):
        return token
    given = token()
    return await given if inspect.isawaitable(given) else given


class Workers:
    """The addresses of one app's workers, the session to talk to them, and the token that opens them."""

    def __init__(self, urls: Sequence[str], token: Token, patience_s: float, answer_s: float) -> None:
        self.urls = tuple(url.rstrip("/") for url in urls)
        self.token = token
        self.patience_s = patience_s
        self.answer_s = answer_s
        self._at = 0  # index of the one that is asked
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """Made when it is needed, since it belongs to the running loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(
        self,
        path: str,
        query: Query | None = None,
        *,
        method: str = "GET",
        body: object = None,
        headers: Mapping[str, str] | None = None,
        patience_s: float | None = None,
    ) -> bytes:
        """What a worker answers; ``path`` is percent-encoded. Raises ClientError and its subclasses."""
        tail = path + _query_text(query or {})
        loop = asyncio.get_running_loop()
        end = loop.time() + (self.patience_s if patience_s is None else patience_s)
        tries = 0
        while True:
            tries += 1
            try:
                return await self._once(self.urls[self._at] + tail, method, body, headers or {})
            except OutcomeUnknown:
                raise  # a second time is for the caller to decide
            except ClientError as exc:
                if not exc.retry:
                    raise
                self._at = (self._at + 1) % len(self.urls)
                is_round_over = tries % len(self.urls) == 0
                after_s = float(exc.details.get("retry_after_s", FIRST_WAIT_S))
                wait_s = jittered(after_s if is_round_over else NEXT_WORKER_S)
                if loop.time() + wait_s > end:
                    raise
            await asyncio.sleep(wait_s)

    async def _once(self, url: str, method: str, body: object, headers: Mapping[str, str]) -> bytes:
        sent = {"Accept": "application/json", **headers}
        token = await current_token(self.token)
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        data = None
        if body is not None:
            data = encode(body)
            sent["Content-Type"] = "application/json"
        timeout = aiohttp.ClientTimeout(total=self.answer_s)
        try:
            async with self.session.request(
                method,
                URL(url, encoded=True),
                data=data,
                headers=sent,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                raw = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            # Nothing was sent: even what must not happen twice may be sent to another worker.
            raise Unreachable("unreachable", f"{url} does not answer: {exc!r}", retry=True) from exc
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            if method == "GET":
                raise Unreachable("unreachable", f"{url} does not answer: {exc!r}", retry=True) from exc
            text = f"{url} was lost before it had answered: {exc!r}"
            raise OutcomeUnknown("outcome-unknown", text, retry=True) from exc
        if response.status < 300:
            return raw
        problem = _problem(url, response, raw)
        if method != "GET" and problem.status in PASSING and problem.code not in NOTHING_DONE:
            raise OutcomeUnknown(
                problem.code, problem.message, status=problem.status, retry=True, details=problem.details
            )
        raise problem


def _problem(url: str, response: aiohttp.ClientResponse, raw: bytes) -> ClientError:
    try:
        said = msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.DecodeError:
        said = {}  # something between us and the worker has answered
    code = str(said.pop("code", f"http-{response.status}"))
    message = str(said.pop("detail", f"{url}: {response.status} {response.reason}"))
    after = response.headers.get("Retry-After", "")
    if after.isascii() and after.isdigit():
        said["retry_after_s"] = int(after)
    status = response.status
    return ClientError(code, message, status=status, retry=status in PASSING, details=said)


def _query_text(query: Query) -> str:
    """Without what is ``None``; a list is a parameter that is given several times."""
    pairs = [
        (name, _parameter(each))
        for name, value in query.items()
        for each in (value if isinstance(value, list | tuple) else [value])
        if each is not None
    ]
    return f"?{urlencode(pairs, quote_via=quote)}" if pairs else ""


def _parameter(value: object) -> str:
    return value if isinstance(value, str) else encode(value).decode()


def segment(text: str) -> str:
    """``text`` as a segment of a path. A dot, or two, would be taken for a step in it."""
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")
