"""Node with our client in it, asked like a page of the browser."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from tests.clients import HERE, MODULE

ANSWER_S: Final = 30.0


def find_node() -> list[str] | None:
    """The command that runs a program with a WebSocket, which Node has since version 22."""
    node = shutil.which("node")
    if node is None:
        return None
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    major = int(version.lstrip("v").partition(".")[0])
    if major < 20:
        return None
    return [node, "--experimental-websocket"] if major < 22 else [node]


class Script(Protocol):
    """Where JavaScript runs: Node, or a page."""

    async def ask(self, expression: str) -> Any:
        """The value of an expression, JSON-able."""
        ...

    async def until(self, expression: str, wait_s: float = 15.0) -> Any:
        """Waits for the expression to be true; fails naming it."""
        ...


class Node:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._count = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            answer = self._answers.pop(said["id"], None)
            if answer is not None and not answer.done():
                answer.set_result(said)

    async def ask(self, expression: str) -> Any:
        self._count += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._count] = answer
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": self._count, "ask": expression}).encode() + b"\n")
        async with asyncio.timeout(ANSWER_S):
            said = await answer
        assert "error" not in said, said["error"]
        return said["value"]

    async def until(self, expression: str, wait_s: float = 15.0) -> Any:
        try:
            async with asyncio.timeout(wait_s):
                while not (value := await self.ask(expression)):  # noqa: ASYNC110  - it is another process
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"never true: {expression}") from None
        return value


@asynccontextmanager
async def node(command: list[str]) -> AsyncIterator[Node]:
    """A fresh Node, gone afterwards; the client's module is ``lib`` in it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        "--no-warnings",
        str(HERE / "repl.mjs"),
        Path(MODULE).as_uri(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=64 * 1024 * 1024,
    )
    script = Node(process)
    listening = asyncio.create_task(script.listen())
    try:
        yield script
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
