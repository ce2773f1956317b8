"""Faust's pages (``@app.page``) under the worker's own web server, behind its guard."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from aiohttp import web
from aiohttp.typedefs import Handler
from faust.types.web import Request as FaustRequest
from faust.types.web import Response as FaustResponse
from faust.web.drivers.aiohttp import Web
from yarl import URL

from streamflow.app.interface import AppT
from streamflow.web.security import is_page

SIGNALS = ("on_response_prepare", "on_startup", "on_shutdown", "on_cleanup")


class Pages(Web):
    """The app's ``web``, which Faust's own server would serve."""

    app: AppT

    def _enabled_blueprints(self) -> list[Any]:
        return []  # Faust's own show its consumers and tables, which are not at work here

    @property
    def url(self) -> URL:
        """The address of this worker, by the port that it has."""
        return self.app.web_server_url.with_path("/")


def add_pages(faust_web: Web, application: web.Application) -> None:
    """Adds what the app's web has: pages, blueprints, static files, and what was added to its routes.

    They come before ours: who declares a page of one of our addresses wants that one.
    """
    faust_web.init_server()
    inner = faust_web.web_app
    for resource in inner.router.resources():
        application.router.register_resource(resource)
    for name in SIGNALS:  # of CORS, and of who has added to them
        getattr(application, name).extend(getattr(inner, name))
    application.middlewares.append(_as_page(faust_web))


def _as_page(faust_web: Web) -> Any:
    """What surrounds a page: the app's sensors, and its own middlewares."""

    @web.middleware
    async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_page(request):
            return await handler(request)
        resource = request.match_info.route.resource
        assert resource is not None
        for middleware in reversed(faust_web.web_app.middlewares):
            handler = partial(middleware, handler=handler)
        view = faust_web.views.get(resource.canonical)
        app, asked = faust_web.app, cast("FaustRequest", request)
        state = app.sensors.on_web_request_start(app, asked, view=view)
        answer: web.StreamResponse | None = None
        try:
            answer = await handler(request)
            return answer
        finally:
            app.sensors.on_web_request_end(app, asked, cast("FaustResponse", answer), state, view=view)

    return around
