"""How to reach a Redis server, and the limits of this driver. Credentials never show in ``repr``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

from streamflow.errors import ConfigurationError
from streamflow.transports.redis_streams.names import Names

TRIMS = ("off", "slowest_group")
BLOCK_MS_MAX = 2_000


class ConnectionFactory:
    """``make`` makes a connection that is not connected yet; `close` ends what finds out where to."""

    def __init__(self, make: Callable[[], Any], finders: Sequence[Any] = ()) -> None:
        self.make = make
        self._finders = finders

    async def close(self) -> None:
        for finder in self._finders:
            await finder.aclose()


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Raises ConfigurationError for what can't work.

    Attributes:
        group_id: the app's id; also the name of the streams' consumer group.
        host, port, path, db: where the server is; ``path`` is a Unix socket and wins.
        sentinels: (host, port) of each Sentinel; ``sentinel_service`` is the name they know the server by.
        slot: tells this worker from the others of its machine; the same again after a restart.
        stream_name: the name of a partition's stream, with ``{topic}`` and ``{partition}``.
        key_prefix: what the names of all other keys begin with.
        wait_replicas: a checkpoint waits until so many replicas have it.
        wait_aof: a checkpoint waits until the server's append-only file is synced (Redis 7.2).
        wait_timeout_ms: how long; then the checkpoint's fate is unknown, and state is read back.
        trim: ordinary topics keep everything (``off``) or only what a group has still to read.
        session_timeout_ms: silence after which a worker's partitions go to others.
        heartbeat_ms: how often it is heard of.
        rebalance_timeout_ms: how long a rebalance waits for a member that is alive, and busy.
        max_poll_interval_ms: how long a member whose event loop is blocked is kept in the group.
        commit_timeout_ms: when a commit that is not decided yet is given up.
        decide_timeout_ms: how long a sent decision is asked for again before its outcome is unknown.
        chunk_records, chunk_bytes: what one script writes at most, unless one record is larger: no
            call shall hold the server up for more than 10 ms.
        send_records: the same of what is sent outside of checkpoints, of which only one script is under way.
        fetch_records: entries of one partition in one batch at most.
        fetch_bytes: what one read may return in all, going by the size of the entries before.
        compact_records: a compacted partition is compacted when its stream is longer than this and than
            its snapshot.
        compact_delay_ms: how long entries stay in the stream after they were copied, for readers on the way.
        tombstone_ms: how long a tombstone stays in the snapshot.
        upkeep_ms: how often compaction and trimming look for work.
    """

    group_id: str
    host: str = "localhost"
    port: int = 6379
    path: str = ""
    db: int = 0
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_service: str = ""
    slot: str = "worker"

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None

    stream_name: str = "{topic}:{partition}"
    key_prefix: str = "streamflow"
    wait_replicas: int = 0
    wait_aof: bool = False
    wait_timeout_ms: int = 2_000
    trim: str = "off"
    standby_replicas: int = 0

    session_timeout_ms: int = 10_000
    heartbeat_ms: int = 1_000
    rebalance_timeout_ms: int = 30_000
    max_poll_interval_ms: int = 300_000
    commit_timeout_ms: int = 8_000
    decide_timeout_ms: int = 15_000
    request_timeout_ms: int = 5_000

    chunk_records: int = 500
    send_records: int = 1_000
    chunk_bytes: int = 262_144
    staged_ms: int = 60_000
    fetch_records: int = 2_000
    fetch_bytes: int = 4_194_304
    compact_records: int = 20_000
    compact_delay_ms: int = 10_000
    tombstone_ms: int = 3_600_000
    upkeep_ms: int = 2_000

    def __post_init__(self) -> None:
        if not self.group_id:
            raise ConfigurationError("id: must not be empty")
        for part in ("{topic}", "{partition}"):
            if part not in self.stream_name:
                raise ConfigurationError(
                    f"redis_stream_name: {self.stream_name!r} lacks {part}: two partitions"
                    " would be one stream"
                )
        if self.trim not in TRIMS:
            raise ConfigurationError(f"redis_trim: {self.trim!r} is none of {TRIMS}")
        if self.sentinels and not self.sentinel_service:
            raise ConfigurationError("redis_sentinel_service: the hosts are Sentinels, but of which service?")
        if not self.tls and (self.tls_ca_file or self.tls_cert_file or self.tls_key_file):
            raise ConfigurationError("redis_tls_...: files are given, but the URL is not rediss://")
        if self.tls and self.path:
            raise ConfigurationError("rediss://: a Unix socket has no TLS")
        if self.heartbeat_ms * 3 > self.session_timeout_ms:
            raise ConfigurationError(
                f"session_timeout_ms ({self.session_timeout_ms}) must be three heartbeats"
                f" ({self.heartbeat_ms} ms) at least"
            )

    @property
    def names(self) -> Names:
        return Names(self.key_prefix, self.group_id, self.stream_name)

    @property
    def where(self) -> str:
        """The server's address for messages, without credentials."""
        if self.sentinels:
            hosts = ", ".join(f"{host}:{port}" for host, port in self.sentinels)
            return f"service {self.sentinel_service} of Sentinel {hosts}"
        return self.path or f"{self.host}:{self.port}"

    def connection_factory(self) -> ConnectionFactory:
        """What makes our connections."""
        options: dict[str, Any] = {
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "client_name": "".join(c if c.isalnum() or c in "-_." else "-" for c in self.group_id),
            "socket_timeout": None,  # `Connection` has one limit for a whole request
            "socket_connect_timeout": self.request_timeout_ms / 1_000,
            "socket_read_size": 262_144,
            # Nested lists, as the second version of the protocol has them, are what is read fastest.
            "protocol": 2,
        }
        if self.tls:
            options |= {
                "ssl_ca_certs": self.tls_ca_file,
                "ssl_certfile": self.tls_cert_file,
                "ssl_keyfile": self.tls_key_file,
            }
        if self.sentinels:
            manager: Any = Sentinel(  # type: ignore[no-untyped-call]  # redis-py's own
                list(self.sentinels),
                sentinel_kwargs={"socket_timeout": self.request_timeout_ms / 1_000, "protocol": 2},
            )
            # The pool only finds the master; each of our connections has its own use and stays out of it.
            pool: Any = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # redis-py's own
                self.sentinel_service, manager, ssl=self.tls, **options
            )

            return ConnectionFactory(pool.make_connection, manager.sentinels)
        if self.path:
            return ConnectionFactory(lambda: UnixDomainSocketConnection(path=self.path, **options))
        kind = SSLConnection if self.tls else Connection
        return ConnectionFactory(lambda: kind(host=self.host, port=self.port, **options))
