"""An app with its web view in this process, asked over HTTP as anybody would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import jsonschema

from streamflow import App
from streamflow.web import encoding
from tests.support.running import make_app, running


def make_web_app(**options: Any) -> App:
    """As `make_app`, with a web view on any free port."""
    return make_app(**{"web_enabled": True, "web_port": 0, **options})


class Asker:
    """Asks one worker; every answer is held against what its OpenAPI document says."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url.rstrip("/")
        self._document: dict[str, Any] = {}

    async def ask(
        self, path: str, *, method: str = "get", body: object = None, raw: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """(status, the answer's JSON)"""
        data = raw if raw is not None else None if body is None else encoding.encode(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            named.setdefault("Content-Type", "application/json")
        async with self.session.request(method, self.url + path, data=data, headers=named) as response:
            text = await response.read()
            return response.status, encoding.decode(text) if text else None

    async def ok(self, path: str, route: str, **how: Any) -> Any:
        """The answer, which is what ``route`` (as OpenAPI writes it) says."""
        status, body = await self.ask(path, **how)
        assert status == 200, body
        if not self._document:
            _, self._document = await self.ask("/v1/openapi.json")
        operation = self._document["paths"][route][how.get("method", "get")]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        whole = {**schema, "components": self._document["components"]}
        jsonschema.validate(body, whole, cls=jsonschema.Draft202012Validator)
        return body

    async def problem(self, path: str, status: int, code: str, **how: Any) -> Any:
        """The problem+json that the answer is."""
        found, body = await self.ask(path, **how)
        assert (found, body["code"]) == (status, code), body
        return body


@asynccontextmanager
async def served(app: App) -> AsyncIterator[Asker]:
    """Runs the app, and asks its worker."""
    async with running(app), aiohttp.ClientSession() as session:
        yield Asker(session, str(app.web_server_url))
