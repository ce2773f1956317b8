"""What changes to many cost: ``python -m tests.bench.live [--clients N] [--hz N] [--out FILE]``.

A worker on memory whose table changes so many times a second, watched by so many clients of another process;
in the same run the package `websockets` sends the same messages with its `broadcast`, and a bare loop writes
one prepared frame to as many transports, which is what nobody can be cheaper than. Told are the CPU of the
sending process for each frame, the memory for each client, how long a frame is on its way from its write, and
what share of a core an agent loses that counts beside it. Times are of this machine and of what else it does;
the CPU of a frame is the figure to trust.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import pathlib
import resource
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from streamflow.query.rows import Row, RowChange
from tests.support.web_fakes import SETTINGS, Cluster, partition_of

CLIENTS, HZ, SECONDS = 2_000, 10, 5.0
VALUE = "x" * 60
HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: streamflow.v1+json\r\n\r\n"
)
MARK = b'"at":'
"""Stands before the time at which a message was written, in ns of the system's monotonic clock."""


# -- the clients, in a process of their own ------------------------------------------------------


class Reader(asyncio.Protocol):
    """One client: counts messages, and notes how old they are."""

    ages_ns: ClassVar[list[int]] = []

    def __init__(self, wants: bytes) -> None:
        self.wants = wants

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(HANDSHAKE + self.wants)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        at = data.find(MARK)
        while at >= 0:
            end = data.find(b"}", at)
            if end > 0:
                self.ages_ns.append(now - int(data[at + len(MARK) : end].strip(b'"')))
            at = data.find(MARK, at + 1)


def masked(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 126
    return struct.pack("!BBI", 0x81, 0x80 | len(raw), 0) + raw


async def be_clients(port: int, clients: int) -> None:
    """Connects them all, says so, and tells what they have got when it is asked."""
    wants = masked('{"t":"init"}') + masked('{"t":"subscribe","id":"s","table":"users","snapshot":false}')
    loop = asyncio.get_running_loop()
    for _ in range(clients):
        await loop.create_connection(lambda: Reader(wants), "127.0.0.1", port)
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.strip() == "begin":
            Reader.ages_ns.clear()
        else:
            ages = sorted(Reader.ages_ns) or [0]
            told = [len(Reader.ages_ns), ages[len(ages) // 2] / 1e6, ages[len(ages) * 99 // 100] / 1e6]
            print(json.dumps(told), flush=True)


class Clients:
    """That process, as the sending one sees it."""

    def __init__(self, port: int, count: int) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.bench.live",
            "--be-clients",
            str(port),
            "--clients",
            str(count),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
        )

    async def ask(self, line: str | None) -> str:
        """Its answer to a line; to ``None``: what it says next."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        if line is not None:
            stdin.write(line + "\n")
            stdin.flush()
            if line == "begin":
                return ""
        return await asyncio.get_running_loop().run_in_executor(None, stdout.readline)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


# -- those who send ------------------------------------------------------------------------------

Send = Callable[[int], Awaitable[None]]


def resident_bytes() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def counted(meanwhile: Awaitable[Any]) -> tuple[int, float]:
    """An agent's work, in pieces as an engine walks its chunks: those that were done, and the CPU of all."""
    pieces = 0

    async def work() -> None:
        nonlocal pieces
        rows: dict[str, int] = {}
        while True:
            for n in range(512):
                key = f"k{n % 97}"
                rows[key] = rows.get(key, 0) + 1
            pieces += 1
            await asyncio.sleep(0)

    cpu = time.process_time()
    task = asyncio.create_task(work())
    await meanwhile
    task.cancel()
    return pieces, time.process_time() - cpu


async def run(
    clients: Clients, count: int, hz: float, send: Send, frames: Callable[[], float]
) -> dict[str, Any]:
    """Sends for some seconds, alone and then beside an agent that counts; ``frames`` counts what was sent."""

    async def sending(seconds: float) -> int:
        sent, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            await asyncio.sleep(max(0.0, began + sent / hz - time.monotonic()))
            await send(sent)
            sent += 1
        return sent

    await sending(1.0)
    await clients.ask("begin")
    cpu, before = time.process_time(), frames()
    await sending(SECONDS)
    await asyncio.sleep(0.5)
    cpu, sent = time.process_time() - cpu, int(frames() - before)
    got, p50_ms, p99_ms = json.loads(await clients.ask("told"))
    # What the frames of a second take of a core that an agent would fill, by the CPU that either got.
    alone, alone_s = await counted(asyncio.sleep(SECONDS))
    before = frames()
    beside, beside_s = await counted(sending(SECONDS))
    frame_s = max(0.0, beside_s - beside * alone_s / alone) / max(1.0, frames() - before)
    return {
        "us_per_frame": round(cpu / max(1, sent) * 1e6, 2),
        "delivered": f"{got}/{sent}",
        "p50_ms": round(p50_ms, 1),
        "p99_ms": round(p99_ms, 1),
        "agents_lose_percent": round(100 * frame_s * hz * count, 1),
    }


async def ours(count: int, hz: float) -> dict[str, Any]:
    cluster = Cluster(SETTINGS).with_settings(
        ws_connections_max=count, connections_max=2 * count, ws_progress_s=1.0
    )
    async with cluster.run() as (served,):
        before = await settled_bytes()
        clients = Clients(int(served.url.rpartition(":")[2]), count)
        await clients.ask(None)
        while sum(len(feed.subscriptions) for feed in cluster.hubs[0].feeds.values()) < count:
            await asyncio.sleep(0.05)
        each = (await settled_bytes() - before) / count

        async def send(number: int) -> None:
            value = {"v": VALUE, "at": str(time.monotonic_ns())}
            row = Row("k1", None, None, None, value, partition_of("k1"))
            cluster.checkpoint("users", row.partition, [RowChange("upsert", row)])

        def frames() -> float:
            return served.metrics.ws_frames_total.value

        found = await run(clients, count, hz, send, frames)
        clients.end()
    return {"name": "streamflow", **found, "kb_per_client": round(each / 1_024, 1)}


async def settled_bytes() -> int:
    await asyncio.sleep(0.5)
    gc.collect()
    return resident_bytes()


def text_of(number: int) -> str:
    """A message as long as ours."""
    row = {"op": "upsert", "key": "k1", "window": None, "value": {"v": VALUE, "at": str(time.monotonic_ns())}}
    return json.dumps(
        {"t": "changes", "id": "s", "cursor": "0123abcd.12345.0123abcd", "position": {"0": str(number)},
         "rows": [{**row, "partition": 1}], "skipped": 0}, separators=(",", ":"),
    )  # fmt: skip


async def theirs(count: int, hz: float) -> dict[str, Any]:
    from websockets import ConnectionClosed, Subprotocol
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    connections: set[ServerConnection] = set()

    async def handler(connection: ServerConnection) -> None:
        connections.add(connection)
        with contextlib.suppress(ConnectionClosed):
            async for _ in connection:
                pass

    spoken = [Subprotocol("streamflow.v1+json")]
    async with serve(
        handler, "127.0.0.1", 0, subprotocols=spoken, compression=None, open_timeout=60
    ) as server:
        before = await settled_bytes()
        clients = Clients(next(iter(server.sockets)).getsockname()[1], count)
        await clients.ask(None)
        while len(connections) < count:
            await asyncio.sleep(0.05)
        each = (await settled_bytes() - before) / count

        sent = [0]

        async def send(number: int) -> None:
            broadcast(connections, text_of(number))
            sent[0] += len(connections)

        def frames() -> float:
            return sent[0]

        found = await run(clients, count, hz, send, frames)
        clients.end()
    return {"name": "websockets", **found, "kb_per_client": round(each / 1_024, 1)}


async def floor(count: int, hz: float) -> dict[str, Any]:
    """One frame, written to each transport."""
    transports: list[asyncio.Transport] = []

    class Bare(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transports.append(transport)

    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0)
    before = await settled_bytes()
    clients = Clients(server.sockets[0].getsockname()[1], count)
    await clients.ask(None)
    while len(transports) < count:
        await asyncio.sleep(0.05)
    each = (await settled_bytes() - before) / count

    sent = [0]

    async def send(number: int) -> None:
        raw = text_of(number).encode()
        wire = b"\x81\x7e" + len(raw).to_bytes(2, "big") + raw
        for transport in transports:
            transport.write(wire)
        sent[0] += len(transports)

    def frames() -> float:
        return sent[0]

    found = await run(clients, count, hz, send, frames)
    clients.end()
    server.close()
    return {"name": "one frame, written", **found, "kb_per_client": round(each / 1_024, 1)}


CONTESTANTS = {"streamflow": ours, "websockets": theirs, "floor": floor}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.live", description=__doc__)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--hz", type=float, default=HZ, help="changes a second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="of " + ", ".join(CONTESTANTS))
    parser.add_argument("--out", type=pathlib.Path, help="where the results go, as JSON")
    parser.add_argument("--be-clients", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if options.be_clients is not None:
        asyncio.run(be_clients(options.be_clients, options.clients))
        return 0
    found: list[dict[str, Any]] = []
    for name, contestant in CONTESTANTS.items():
        if options.only in ("", name):
            rounds = [asyncio.run(contestant(options.clients, options.hz)) for _ in range(options.rounds)]
            figures = [name for name, value in rounds[0].items() if not isinstance(value, str)]
            found.append({**rounds[-1], **{n: statistics.median(r[n] for r in rounds) for n in figures}})
            print(json.dumps(found[-1]), file=sys.stderr)
    print(table(found, options.clients, options.hz))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def table(found: list[dict[str, Any]], clients: int, hz: float) -> str:
    lines = [
        f"{clients:,} clients, {hz:g} changes a second, medians",
        "",
        "| who sends | CPU a frame, us | to the reader, p50 / p99 ms | KB a client | agents lose, % |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| {one['name']} | {one['us_per_frame']} | {one['p50_ms']} / {one['p99_ms']} |"
            f" {one['kb_per_client']} | {one['agents_lose_percent']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
