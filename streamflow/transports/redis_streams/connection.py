"""One connection to the server and what comes back on it, whole replies of several commands at a time.

The commands are packed here in one piece: redis-py's own client costs more per command than the server.
From redis-py come the connections: TLS, authentication, Sentinel, the parser of hiredis.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)

from streamflow.errors import ConfigurationError, TransportError

Arg = bytes | str | int


class Script:
    """A Lua script: the shared part and its own, called by its hash."""

    def __init__(self, name: str, *, allow_oom: bool = False) -> None:
        lua = files("streamflow.transports.redis_streams") / "lua"
        shebang = "#!lua flags=allow-oom\n" if allow_oom else ""
        text = shebang + (lua / "lib.lua").read_text() + (lua / f"{name}.lua").read_text()
        self.name = name
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


SEND = Script("send")
COMMIT = Script("commit")
# What is decided is published also where memory is full: it takes no more than it frees.
PUBLISH = Script("publish", allow_oom=True)
# Nor do leases run out because memory is full; the group's keys do not grow.
GROUP = Script("group", allow_oom=True)
COMPACT = Script("compact")
TRIM = Script("trim")
RESET = Script("reset")


class LostConnection(TransportError):
    """The connection broke, or no answer came in time: what was asked may have been done."""


def pack(*commands: Sequence[Arg]) -> bytes:
    """The commands as the server reads them."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for arg in command:
            data = arg if isinstance(arg, bytes) else str(arg).encode()
            parts.append(b"$%d\r\n" % len(data))
            parts.append(data)
            parts.append(b"\r\n")
    return b"".join(parts)


class Connection:
    """One connection, made anew after it broke. One request at a time; others wait for their turn.

    A request that is cancelled breaks the connection, so that no answer is taken for another's.

    ``timeout_s`` is for a whole request. redis-py's own limits would make two tasks of each, and those cost
    more than packing a thousand records: its connections have none.
    """

    def __init__(self, make: Callable[[], Any], where: str, timeout_s: float) -> None:
        self._make = make
        self._where = where
        self._timeout_s = timeout_s
        self._connection: Any = None
        self._turn = asyncio.Lock()
        self._is_cut_off = False

    async def ask(self, *commands: Sequence[Arg]) -> list[Any]:
        """One reply for each command, `ResponseError` objects among them.

        Raises TransportError (LostConnection where it may have been done), ConfigurationError.
        """
        return await self.ask_packed(pack(*commands), len(commands))

    async def ask_packed(self, packed: bytes, count: int) -> list[Any]:
        async with self._turn:
            connection = await self._connected()
            try:
                async with asyncio.timeout(self._timeout_s):
                    await connection.send_packed_command(packed, check_health=False)
                    replies = [await self._reply(connection) for _ in range(count)]
            except TimeoutError as exc:
                await connection.disconnect(nowait=True)
                raise LostConnection(f"{self._where}: no answer within {self._timeout_s:g} s") from exc
            except (RedisError, OSError) as exc:
                raise LostConnection(f"{self._where}: {exc}") from exc
            pass_on_cancellation()
            return replies

    async def one(self, *command: Arg) -> Any:
        """The reply of one command. Raises TransportError, ConfigurationError for what is not allowed."""
        (reply,) = await self.ask(command)
        if isinstance(reply, ResponseError):
            raise meaning(str(command[0]), reply) from reply
        return reply

    async def all(self, commands: Iterable[Sequence[Arg]]) -> list[Any]:
        """The replies of several commands; raises for the first that was refused."""
        wanted = list(commands)
        if not wanted:
            return []
        replies = await self.ask(*wanted)
        for command, reply in zip(wanted, replies, strict=True):
            if isinstance(reply, ResponseError):
                raise meaning(str(command[0]), reply) from reply
        return replies

    async def call(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Any:
        """Runs a script. Raises as `one` does."""
        (reply,) = await self.ask(("EVALSHA", script.sha, len(keys), *keys, *args))
        if isinstance(reply, NoScriptError):
            # The server has started since: EVAL also keeps the script.
            (reply,) = await self.ask(("EVAL", script.text, len(keys), *keys, *args))
        if isinstance(reply, ResponseError):
            raise meaning(f"script {script.name}", reply) from reply
        return reply

    def cut_off(self) -> None:
        """For tests: the server can't be reached any more."""
        self._is_cut_off = True

    async def close(self) -> None:
        """A request under way fails; the next one would connect anew. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisError, OSError):
                await connection.disconnect()

    async def _connected(self) -> Any:
        if self._is_cut_off:
            raise TransportError(f"no server at {self._where}: cut off")
        if self._connection is None:
            self._connection = self._make()
        if not self._connection.is_connected:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._connection.connect()
            except TimeoutError as exc:
                await self._connection.disconnect(nowait=True)
                raise TransportError(
                    f"no server at {self._where}: no answer within {self._timeout_s:g} s"
                ) from exc
            except (AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError) as exc:
                raise ConfigurationError(
                    f"{self._where}: {exc}; the settings redis_username and redis_password, or"
                    " broker_credentials, say who we are"
                ) from exc
            except ResponseError as exc:
                raise meaning("connecting", exc) from exc
            except (RedisError, OSError) as exc:
                raise TransportError(f"no server at {self._where}: {exc}") from exc
            pass_on_cancellation()
        return self._connection

    @staticmethod
    async def _reply(connection: Any) -> Any:
        try:
            return await connection.read_response(disconnect_on_error=True)
        except ResponseError as exc:
            return exc


def pass_on_cancellation() -> None:
    """Raises what `asyncio.wait_for`, which redis-py uses, swallows when its future is done just then."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def meaning(what: str, error: ResponseError) -> Exception:
    """What the server said no to, as one of our errors."""
    if isinstance(error, NoPermissionError):
        return ConfigurationError(f"{what}: {error}; docs/how-to/run-on-redis.md lists the rights needed")
    if isinstance(error, OutOfMemoryError) or "OOM" in str(error)[:60]:
        return TransportError(f"{what}: the server's memory is full (maxmemory): {error}")
    if str(error).startswith("WRONGSTREAM"):
        return ConfigurationError(f"{what}: {error}; another key has the name that redis_stream_name gives")
    return TransportError(f"{what}: {error}")
