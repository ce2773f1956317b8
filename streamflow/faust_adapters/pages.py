"""Faust's pages (``@app.page``) under the worker's own web server, behind its guard."""

from __future__ import annotations

from functools import partial
from typing import Any

from aiohttp import web


def add_pages(faust_web: Any, application: web.Application) -> None:
    """Adds a route for each method that a page answers; a page with no method of ours is left out."""
    middlewares = list(faust_web.web_app.middlewares)
    for path, view in faust_web.views.items():
        for method in sorted(view.get_methods()):
            application.router.add_route(method, path, _handler(view, middlewares))


def _handler(view: Any, middlewares: list[Any]) -> Any:
    async def handle(request: web.Request) -> web.StreamResponse:
        sensors = view.app.sensors
        state = sensors.on_web_request_start(view.app, request, view=view)
        answer: web.StreamResponse | None = None
        try:
            answer = await view(request)
            return answer
        finally:
            sensors.on_web_request_end(view.app, request, answer, state, view=view)

    for middleware in reversed(middlewares):
        handle = partial(middleware, handler=handle)
    return handle
