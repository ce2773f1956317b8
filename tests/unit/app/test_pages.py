"""Pages of an app: views, blueprints, errors, and requests that another worker answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from streamflow import App
from streamflow.clock import SystemClock
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import make_app, running, until

OPTIONS = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_port": 0, "env": {}}
KEYS = [f"k{number}" for number in range(12)]


def shop(broker: MemoryBroker, name: str) -> App:
    from streamflow.web import Blueprint, View  # type: ignore[attr-defined]  # lent by Faust

    app = App("shop", transport=MemoryTransport(broker, "shop", name), **OPTIONS)
    topic = app.topic("in", key_type=str, value_type=int, partitions=4)
    table, global_tables = app.Table("counts", default=int), app.GlobalTable("all", default=int)
    app.kept = topic, table  # type: ignore[attr-defined]

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for key, value in stream.items():
            table[key] += value
            global_tables[key] = value

    @app.page("/counts/{key}")
    @app.table_route(table=table, match_info="key")
    async def count(web: Any, request: Any, key: str) -> Any:
        return web.json({"key": key, "count": table[key], "by": name})

    @app.page("/all/{key}")
    @app.table_route(table=global_tables, match_info="key")
    async def of_all(web: Any, request: Any, key: str) -> Any:
        return web.json({"value": global_tables[key], "by": name})

    @app.page("/messages/")
    class Messages(View):  # type: ignore[misc]
        @app.topic_route(topic, query_param="key")  # type: ignore[arg-type]  # Faust's types know functions
        async def get(self, request: Any) -> Any:
            return self.text(name)

        @app.topic_route(topic, query_param="key")  # type: ignore[arg-type]  # likewise
        async def post(self, request: Any) -> Any:
            return self.json({"by": name, "was": await request.json()}, status=201)

        async def delete(self, request: Any) -> Any:
            raise self.NotFound("never was")

    blueprint = Blueprint("books")

    @blueprint.route("/one/", name="one")
    class One(View):  # type: ignore[misc]
        async def get(self, request: Any) -> Any:
            return self.html("<b>one</b>")

    blueprint.register(app, url_prefix="/books/")
    return app


async def test_a_routed_page_is_answered_by_the_owner_of_the_key_whoever_is_asked() -> None:
    broker = MemoryBroker(SystemClock())
    apps = [shop(broker, "one"), shop(broker, "two")]
    async with running(apps[0]), running(apps[1]), aiohttp.ClientSession() as client:
        await until(lambda: all(len(app.consumer.assignment()) == 2 for app in apps))
        topic, _ = apps[0].kept  # type: ignore[attr-defined]
        for number, key in enumerate(KEYS):
            await topic.send(key=key, value=number + 1)
        counted = lambda app: sum(app.kept[1].values())  # noqa: E731
        await until(lambda: sum(counted(app) for app in apps) == sum(range(len(KEYS) + 1)))
        by: set[str] = set()
        for asked in apps:
            url = asked.web_server_url
            for number, key in enumerate(KEYS):
                async with client.get(f"{url}/counts/{key}") as answer:
                    body = await answer.json()
                assert (body["key"], body["count"]) == (key, number + 1)
                by.add(body["by"])
                async with client.get(f"{url}/messages/?key={key}") as answer:
                    assert await answer.text() == body["by"]
                async with client.post(f"{url}/messages/?key={key}", json={"x": number}) as answer:
                    assert answer.status == 201
                    assert await answer.json() == {"by": body["by"], "was": {"x": number}}
        assert by == {"one", "two"}
        name = "one"
        async with client.get(f"{apps[0].web_server_url}/all/{KEYS[0]}") as answer:
            assert (await answer.json())["by"] == name


async def test_views_blueprints_and_their_errors_are_served() -> None:
    app = shop(MemoryBroker(SystemClock()), "one")
    async with running(app), aiohttp.ClientSession(str(app.web_server_url)) as client:
        async with client.get("/books/one/") as answer:
            assert (answer.status, await answer.text()) == (200, "<b>one</b>")
        async with client.delete("/messages/?key=k") as answer:
            assert answer.status == 404
            assert "never was" in await answer.text()
        async with client.put("/messages/?key=k") as answer:
            assert answer.status == 405
        assert app.web.url_for("books:one") == "/books/one/"
        assert app.router.key_store("counts", "k1") == app.web_server_url
        with pytest.raises(KeyError):
            app.router.key_store("none", "k1")
        assert app.router.tables_metadata()[str(app.web_server_url)]["shop-counts-changelog"] == [0, 1, 2, 3]


async def test_blueprints_static_files_and_other_origins_are_served_before_ours(
    tmp_path: Path,
) -> None:
    from streamflow.types.web import ResourceOptions  # type: ignore[import-not-found]  # lent by Faust

    from streamflow.web import Blueprint, View  # type: ignore[attr-defined]  # likewise

    (tmp_path / "a.txt").write_text("text")
    app = make_app(web_enabled=True, web_port=0, web_tokens=["secret"])
    blueprint, files = Blueprint("stats"), Blueprint("files")
    cache = blueprint.cache(timeout=300.0)
    asked: list[int] = []

    @blueprint.route("/", name="stats")
    class Stats(View):  # type: ignore[misc]
        @cache.view()  # type: ignore[untyped-decorator]
        async def get(self, request: Any) -> Any:
            asked.append(1)
            return self.json({"asked": len(asked)})

    app.web.blueprints.add("/stats/", blueprint)
    files.static("/static/", tmp_path, name="texts")
    files.register(app, url_prefix="/files/")

    @app.page("/")
    async def index(web: Any, request: Any) -> Any:
        return web.html("<b>mine</b>")

    @app.page("/{anything}/", cors_options={"https://x.org": ResourceOptions()})
    async def anything(web: Any, request: Any, anything: str) -> Any:
        return web.text(anything)

    headers = {"Authorization": "Bearer secret", "Origin": "https://x.org"}
    async with running(app), aiohttp.ClientSession(headers=headers) as client:

        async def get(path: str, **options: Any) -> tuple[int, str, Any]:
            async with client.get(f"{app.web_server_url}{path}", **options) as answer:
                return answer.status, await answer.text(), answer.headers

        assert str(app.web.url) == f"{app.web_server_url}/"
        assert [(await get("/stats/"))[:2] for _ in range(2)] == [(200, '{"asked":1}')] * 2
        assert (await get("/files/static/a.txt"))[:2] == (200, "text")
        status, text, told = await get("/")
        assert (status, text, "Content-Security-Policy" in told) == (200, "<b>mine</b>", False)
        assert (await get("/", headers={"Authorization": ""}))[0] == 401
        status, text, told = await get("/other/")
        assert (status, text, told["Access-Control-Allow-Origin"]) == (200, "other", "https://x.org")
        assert (await get("/v1/tables"))[0] == (await get("/healthz"))[0] == 200
