"""``@app.table_route`` and ``@app.topic_route``: a request goes to the worker that owns the key.

By the app's own partitioner and the newest assignment. What is handed on is the method, the path, the
query and the body, with this worker's credentials and none of the caller's headers but the content's type.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, cast

import aiohttp
from aiohttp.web import BaseRequest
from faust.app.router import Router as FaustRouter
from faust.exceptions import SameNode
from faust.types import TopicT
from faust.types.web import Request, Web
from faust.web.exceptions import ServiceUnavailable
from yarl import URL

from streamflow.app.interface import AppT
from streamflow.app.tables.row_codecs import bytes_of_key
from streamflow.app.topics.topic import Topic
from streamflow.app.worker.peer_secret import with_secret
from streamflow.engine.engine import Engine
from streamflow.errors import DecodeError
from streamflow.web.peers import for_whom, is_peer, own_headers, owners, same_url

MISDIRECTED = 421
_HANDED_ON = ("Content-Type", "Accept")


class Router(FaustRouter):
    """``app.router``: where the rows of a key, or its messages, are worked on."""

    app: AppT

    def __init__(self, app: AppT) -> None:
        self.app = app

    @property
    def _engine(self) -> Engine:
        return self.app.engine

    def key_store(self, table_name: str, key: Hashable) -> URL:
        """The address of the worker that has this key of a table. Raises KeyError where nobody has."""
        served = self.app.worker_view
        if served is None or table_name not in served.tables:
            raise KeyError(table_name)
        if table_name in self._engine.topology.global_tables:
            return URL(served.url)  # every worker has it
        reader = served.tables[table_name]
        if isinstance(key, str):
            try:
                key = reader.parse_key(key)  # the text of a URL, by the table's key type
            except DecodeError as exc:
                raise KeyError(key) from exc
        return URL(owners(served, reader)[reader.partition_of(key)].url)

    def external_topic_key_store(self, topic: TopicT, key: Hashable) -> URL:
        """The address of the worker that takes this key's messages. Raises KeyError where nobody does."""
        name = topic.get_topic_name()
        codec = cast("Topic", topic).key_codec
        if isinstance(key, str):
            key = codec.parse_text(key)
        at = (name, self._engine.topology.topics.place(name, bytes_of_key(codec, key)))
        for member in self._engine.rebalance.members:
            if at in member.partitions:
                return URL(member.url)
        raise KeyError(key)

    def table_metadata(self, table_name: str) -> Any:
        """Address -> changelog topic -> its partitions there."""
        served = self.app.worker_view
        if served is None or table_name not in served.tables:
            return {}
        found: dict[str, dict[str, list[int]]] = {}
        for partition, member in sorted(owners(served, served.tables[table_name]).items()):
            topics = found.setdefault(member.url, {})
            topics.setdefault(self._engine.topology.topics.changelog(table_name), []).append(partition)
        return found

    def tables_metadata(self) -> Any:
        """`table_metadata` of every table."""
        found: dict[str, dict[str, list[int]]] = {}
        for name in self._engine.topology.tables:
            for url, topics in self.table_metadata(name).items():
                found.setdefault(url, {}).update(topics)
        return found

    def external_topics_metadata(self) -> Any:
        """Address -> source topic -> its partitions there."""
        found: dict[str, dict[str, list[int]]] = {}
        for member in self._engine.rebalance.members:
            for topic, partition in sorted(member.partitions):
                found.setdefault(member.url, {}).setdefault(topic, []).append(partition)
        return found

    async def _route_req(self, dest_url: URL, web: Web, request: Request) -> Any:
        served = self.app.worker_view
        assert served is not None
        if same_url(str(dest_url), served.url):
            raise SameNode
        if is_peer(cast("BaseRequest", request)):
            raise ServiceUnavailable(detail="the partitions are on the move")  # or it would go round
        headers = {name: request.headers[name] for name in _HANDED_ON if name in request.headers}
        settings = with_secret(self.app.settings.web_settings(), self.app.engine_settings.data_dir)
        own = own_headers(served, settings, str(dest_url))
        headers = {**own, **for_whom(), **headers}
        address = dest_url.join(URL(request.rel_url))
        try:
            async with self.app.http_client.request(
                request.method,
                address,
                headers=headers,
                data=await request.read(),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=settings.peer_timeout_s),
            ) as answer:
                if answer.status == MISDIRECTED:
                    raise ServiceUnavailable(detail=f"a worker of another app listens at {dest_url}")
                return web.bytes(await answer.read(), content_type=answer.content_type, status=answer.status)
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise ServiceUnavailable(detail=f"the worker at {dest_url} does not answer") from exc
