"""The console: one page, its scripts and styles, served from the package, nothing from elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from aiohttp import web

from streamflow.web.security import PAGE_POLICY

TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".ts": "text/plain",
    ".svg": "image/svg+xml",
}


class Dashboard:
    """Holds the few static files in memory; ``files`` is path -> (content type, bytes, ETag).

    All pages of the console are one document: its script reads from the address which one is meant.
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, bytes, str]] = {}
        for path, entry in _files(resources.files("streamflow.web").joinpath("static"), ""):
            suffix = path[path.rfind(".") :]
            if suffix in TYPES:
                raw = entry.read_bytes()
                tag = f'"{hashlib.blake2b(raw, digest_size=12).hexdigest()}"'
                self.files[path] = (TYPES[suffix], raw, tag)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/", self.page, name="dashboard")
        router.add_get("/console/{page:.*}", self.page, name="console")
        router.add_get("/static/{name:.+}", self.file, name="static")

    async def page(self, request: web.Request) -> web.StreamResponse:
        return self._answer(request, "index.html")

    async def file(self, request: web.Request) -> web.StreamResponse:
        return self._answer(request, request.match_info["name"])

    def _answer(self, request: web.Request, name: str) -> web.StreamResponse:
        if name not in self.files:
            raise web.HTTPNotFound
        content_type, raw, tag = self.files[name]
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Security-Policy": PAGE_POLICY}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=raw, content_type=content_type, charset="utf-8", headers=headers)


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    """Every file below ``folder``, with its path."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry
