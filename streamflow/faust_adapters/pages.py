"""Faust's pages (``@app.page``) under the worker's own web server, behind its guard."""

from __future__ import annotations

from typing import Any

from aiohttp import web


def add_pages(faust_web: Any, application: web.Application) -> None:
    """Adds a route for each method that a page answers; a page with no method of ours is left out."""
    for path, view in faust_web.views.items():
        for method in sorted(view.get_methods()):
            application.router.add_route(method, path, _handler(view))


def _handler(view: Any) -> Any:
    async def handle(request: web.Request) -> web.StreamResponse:
        answer: web.StreamResponse = await view(request)
        return answer

    return handle
