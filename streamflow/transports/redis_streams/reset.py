"""Deletes what an app has made on a server: its group, the group's offsets, and topics of its own."""

from __future__ import annotations

from collections.abc import Iterable

from redis.exceptions import ResponseError

from streamflow.errors import ConfigurationError
from streamflow.transports.redis_streams.commits import Commits
from streamflow.transports.redis_streams.connection import RESET, Connection, meaning
from streamflow.transports.redis_streams.settings import RedisSettings
from streamflow.transports.redis_streams.topics import Topics


async def reset(
    connection: Connection,
    topics: Topics,
    commits: Commits,
    settings: RedisSettings,
    wanted: Iterable[str],
    *,
    group: bool,
) -> None:
    """The group first: while a worker is in it, nothing is deleted. ``wanted``: names of topics.

    ``group``: the group and its offsets are deleted too.

    Raises ConfigurationError while workers run, TransportError for what the server refuses.
    """
    names = settings.names
    # Step 1. The group.
    if group:
        parts = ("group", "members", "leases", "ready", "assigned", "news")
        living = await connection.call(RESET, [names.of_group(part) for part in parts], ())
    else:
        seconds, micros = await connection.one("TIME")
        now_ms = int(seconds) * 1_000 + int(micros) // 1_000
        living = await connection.one("ZRANGEBYSCORE", names.of_group("leases"), f"({now_ms}", "+inf")
    if living:
        raise ConfigurationError(
            f"workers of {settings.group_id!r} are running: stop them first (one that was killed counts for"
            f" {settings.session_timeout_ms // 1_000} s more)"
        )
    # Step 2. Its offsets, and their copies in the streams' own groups.
    if group:
        await _forget_offsets(connection, settings)
    # Step 3. Topics, when nothing can come into them any more.
    await commits.publish_decided()
    for name, count in (await topics.counts(wanted)).items():
        for spot in ((name, p) for p in range(count)):
            # Not DEL: what is large is freed beside other clients' commands.
            await connection.one(
                "UNLINK",
                *(names.stream(spot), names.snapshot(spot), names.marks(spot), names.tombstones(spot)),
            )
        await connection.one("HDEL", names.topics, name)
    topics.forget()


async def _forget_offsets(connection: Connection, settings: RedisSettings) -> None:
    names = settings.names
    fields = [field.decode() for field in await connection.one("HKEYS", names.offsets)]
    for field in fields:
        topic, _, partition = field.rpartition(":")
        if partition.isdigit():
            (reply,) = await connection.ask(
                ("XGROUP", "DESTROY", names.stream((topic, int(partition))), settings.group_id)
            )
            if isinstance(reply, ResponseError) and "key to exist" not in str(reply):
                raise meaning("XGROUP DESTROY", reply)
    await connection.one("DEL", names.offsets)
