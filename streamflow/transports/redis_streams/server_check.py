"""What a server must be: told once, at the start, in words that name the setting."""

from __future__ import annotations

import logging
import re

from redis.exceptions import ResponseError

from streamflow.errors import ConfigurationError
from streamflow.transports.redis_streams.connection import Connection
from streamflow.transports.redis_streams.settings import RedisSettings

log = logging.getLogger(__name__)

VERSION_MIN = (7, 0)
VERSION_WAITAOF = (7, 2)


def parse_info(text: bytes) -> dict[str, str]:
    """The reply of INFO as name -> value."""
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def check(info: dict[str, str], settings: RedisSettings) -> None:
    """Raises ConfigurationError for a server that can't keep what a checkpoint promises."""
    where = settings.where
    version = _version(info.get("redis_version", ""))
    if version < VERSION_MIN:
        raise ConfigurationError(
            f"the server at {where} is version {info.get('redis_version')}: Redis 7.0 or Valkey is needed"
            " (XGROUP SETID ... ENTRIESREAD, scripts that are replicated by their effects)"
        )
    if info.get("cluster_enabled") == "1" or info.get("redis_mode") == "cluster":
        raise ConfigurationError(
            f"the server at {where} runs with cluster-enabled yes: a checkpoint writes to many streams in one"
            " step, and in a cluster these lie in different slots; use one server, with replicas and Sentinel"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigurationError(
            f"the server at {where} has maxmemory-policy {policy}: it would throw away streams and offsets"
            " when memory is full; set maxmemory-policy noeviction"
        )
    if info.get("role") == "slave":
        raise ConfigurationError(
            f"the server at {where} is a read-only replica; the broker URL must name the master"
        )
    if settings.wait_aof:
        if version < VERSION_WAITAOF:
            raise ConfigurationError(
                f"redis_wait_aof: WAITAOF needs version 7.2, the server at {where} is"
                f" {info.get('redis_version')}"
            )
        if info.get("aof_enabled") != "1":
            raise ConfigurationError(f"redis_wait_aof: the server at {where} runs with appendonly no")


def tell_loss(aof_enabled: bool, appendfsync: str, settings: RedisSettings) -> None:
    """Says at the start what the server may lose if it is killed. ``appendfsync`` is empty if not known."""
    if settings.wait_replicas or settings.wait_aof:
        return
    if not aof_enabled:
        log.warning(
            "The server at %s has no append-only file (appendonly no): what is committed goes with it",
            settings.where,
        )
    elif appendfsync == "no":
        log.warning(
            "The server at %s has appendfsync no: a power cut costs what the system has not written yet",
            settings.where,
        )
    elif appendfsync == "everysec":
        log.info(
            "The server at %s has appendfsync everysec: if it is killed, up to two seconds may be lost,"
            " events and their counts alike (appendfsync always, or redis_wait_aof, loses nothing)",
            settings.where,
        )


async def check_server(connection: Connection, settings: RedisSettings) -> None:
    """Raises ConfigurationError, TransportError."""
    info: dict[str, str] = {}
    for section in ("server", "memory", "persistence", "replication", "cluster"):
        info |= parse_info(await connection.one("INFO", section))
    check(info, settings)
    # An embedded server is started by us, and syncs as its URL says.
    if not settings.path:
        (reply,) = await connection.ask(("CONFIG", "GET", "appendfsync"))
        # Not everybody may ask, and nothing depends on it.
        told = [] if isinstance(reply, ResponseError) else reply
        tell_loss(info.get("aof_enabled") == "1", told[1].decode() if len(told) > 1 else "", settings)


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
