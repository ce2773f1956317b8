"""What users write against: one client for all workers of an app."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit

import msgspec

from streamflow.client.connection import Connection
from streamflow.client.errors import ClientError
from streamflow.client.http import Token, Workers, segment
from streamflow.client.live import LiveTable, Mode
from streamflow.client.messages import Place, Row, State, key_text, position_text, time_text
from streamflow.client.rows import Rows
from streamflow.client.subscription import CLOSED
from streamflow.client.topics import LiveTopic
from streamflow.errors import ConfigurationError

Time = datetime | str
"""An aware datetime, or RFC 3339."""
_row: msgspec.json.Decoder[Row] = msgspec.json.Decoder(Row)


class _Places(msgspec.Struct):
    positions: list[Place]


class Client:
    """Asks the workers of one app, the next one where one has gone.

    ``urls``: the address of a worker, or of several. ``token``: text, or a function (async or not) that
    gives one each time when it is needed. ``patience_s``: how long a question is asked again while no
    worker answers it.

    All methods raise `ClientError`, with the problem's ``code``. Use it as ``async with Client(...) as
    client``, or close it; it belongs to one event loop.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: Token = None,
        patience_s: float = 15.0,
        answer_s: float = 10.0,
    ) -> None:
        listed = [urls] if isinstance(urls, str) else list(urls)
        for url in listed:
            if urlsplit(url).scheme not in ("http", "https"):
                raise ConfigurationError(f"{url!r} is no address of a worker: write http://host:6066")
        if not listed:
            raise ConfigurationError("a client needs the address of a worker")
        self._workers = Workers(listed, token, patience_s, answer_s)
        self._connection = Connection(self._workers)

    @property
    def state(self) -> State:
        """Of the connection for what is live: ``connecting``, ``live``, ``stale`` or ``closed``."""
        return self._connection.state

    @property
    def features(self) -> frozenset[str]:
        """What the worker offers beyond tables (``topics``, ``publish``), known once it is live."""
        return self._connection.features

    async def close(self) -> None:
        """Ends what is live, and the connections. Idempotent."""
        await self._connection.stop(CLOSED)
        await self._workers.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- questions -----------------------------------------------------------------------------

    async def tables(self) -> list[dict[str, Any]]:
        """What the app says of its tables, as ``/v1/tables`` does."""
        return list((await self.json("/v1/tables"))["tables"])

    async def table(self, table: str) -> dict[str, Any]:
        return dict(await self.json(_path(table)))

    async def get(
        self,
        table: str,
        key: object,
        *,
        at: Time | None = None,
        min_position: Mapping[str, str] | None = None,
    ) -> Row | None:
        """The row of a key, of its newest window or of the one that holds ``at``; ``None``: there is none.

        ``min_position``: waits until the table shows what stands before these offsets.
        """
        query = {"at": time_text(at), "min_position": position_text(min_position)}
        try:
            return _row.decode(await self._workers.ask(_key_path(table, key), query))
        except ClientError as exc:
            if exc.code == "no-such-key":
                return None
            raise

    def rows(
        self,
        table: str,
        *,
        start: Time | None = None,
        end: Time | None = None,
        min_position: Mapping[str, str] | None = None,
        partial: bool = False,
        **parameters: object,
    ) -> Rows:
        """All rows, page by page. ``parameters`` are those of ``/rows``: ``prefix``, ``state``, ``sort``,
        ``limit`` (rows of a page)…; a list is one that is given several times. ``partial``: takes pages
        of which partitions are missing.
        """
        query = {
            "start": time_text(start),
            "end": time_text(end),
            "min_position": position_text(min_position),
        }
        return Rows(self._workers, f"{_path(table)}/rows", {**query, **parameters}, takes_partial=partial)

    def windows(
        self,
        table: str,
        key: object,
        *,
        start: Time | None = None,
        end: Time | None = None,
        partial: bool = False,
        **parameters: object,
    ) -> Rows:
        """The windows of a key, likewise."""
        query = {"start": time_text(start), "end": time_text(end), **parameters}
        return Rows(self._workers, f"{_key_path(table, key)}/windows", query, takes_partial=partial)

    async def json(self, path: str, **query: object) -> Any:
        """Any other question to a worker: what it answers, decoded. ``path`` is percent-encoded."""
        return msgspec.json.decode(await self._workers.ask(path, query))

    # -- live ----------------------------------------------------------------------------------

    def live(
        self,
        table: str,
        *,
        keys: Sequence[object] | None = None,
        prefix: str | None = None,
        window: Literal["current", "closed", "all"] = "all",
        mode: Mode = "latest",
        max_hz: float | None = None,
    ) -> LiveTable:
        """A table that keeps itself up to date: all of it, some ``keys``, or those with a ``prefix``.

        ``window``: only windows that are open, or that have closed. ``max_hz``: at most so many messages a
        second.
        """
        wanted: dict[str, Any] = {
            "keys": None if keys is None else list(keys),
            "prefix": prefix,
            "max_hz": max_hz,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        live = LiveTable(self._connection, table, mode, {"window": window, **given})
        self._connection.add(live)
        return live

    def topic(self, topic: str, *, where: str | None = None, since: str | None = None) -> LiveTopic:
        """The events of a topic as they are committed, those of which ``where`` holds (``"total >= 10"``).

        ``since``: a cursor of an earlier one.
        """
        live = LiveTopic(self._connection, topic, {} if where is None else {"where": where}, since)
        self._connection.add(live)
        return live

    # -- sending -------------------------------------------------------------------------------

    async def send(
        self,
        topic: str,
        value: object,
        *,
        key: object = None,
        headers: Mapping[str, str] | None = None,
        timestamp: Time | None = None,
        partition: int | None = None,
        idempotency_key: str | None = None,
    ) -> Place:
        """One event into a topic, where the app allows it; its place. See `send_many`."""
        event = {
            "key": key,
            "value": value,
            "headers": None if headers is None else dict(headers),
            "timestamp": time_text(timestamp),
            "partition": partition,
        }
        given = {name: member for name, member in event.items() if member is not None or name == "value"}
        return (await self._send(topic, given, idempotency_key))[0]

    async def send_many(
        self, topic: str, events: Sequence[Mapping[str, object]], *, idempotency_key: str | None = None
    ) -> list[Place]:
        """Several events at once: ``{"key", "value", "headers", "timestamp", "partition"}`` each.

        Raises OutcomeUnknown when the connection is lost before the answer: they may be there, or not. With
        an ``idempotency_key`` of one's own they may be sent again without doubling, as far as the worker
        remembers it.
        """
        return await self._send(topic, {"events": [dict(event) for event in events]}, idempotency_key)

    async def _send(self, topic: str, body: object, idempotency_key: str | None) -> list[Place]:
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        raw = await self._workers.ask(
            f"/v1/topics/{quote(topic, safe='')}", method="POST", body=body, headers=headers
        )
        return msgspec.json.decode(raw, type=_Places).positions

    async def publish(
        self, topic: str, value: object, *, key: object = None, headers: Mapping[str, str] | None = None
    ) -> Place:
        """One event over the WebSocket, where the app allows it. May raise OutcomeUnknown, as `send_many`."""
        members = {
            "topic": topic,
            "value": value,
            "key": key,
            "headers": None if headers is None else dict(headers),
        }
        given = {name: member for name, member in members.items() if member is not None or name == "value"}
        return await self._connection.publish(given, self._workers.patience_s)


def _path(table: str) -> str:
    return f"/v1/tables/{segment(table)}"


def _key_path(table: str, key: object) -> str:
    return f"{_path(table)}/keys/{segment(key_text(key))}"
