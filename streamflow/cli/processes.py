"""``streamflow worker --processes N``: N workers as child processes, and their sum on one line.

Each child is the worker that ``--web-port`` would start by hand: a port of its own, counted up from the
first, and with it a transactional id of its own that stays the same over restarts. A child that dies is
started again, with growing waits; meanwhile the others take its partitions. One that ended by itself and
never became ready would not the next time either: it ends them all. SIGKILL comes from outside, and says
nothing about the next time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from streamflow.clock import SystemClock
from streamflow.web.settings import WebSettings

PORTS_TRIED_MAX = 100
RESTART_FIRST_MS = 1_000.0
RESTART_MAX_MS = 30_000.0
STEADY_MS = 60_000.0
"""A child that lived so long begins its next restarts with the shortest wait again."""
STOP_S = 30.0
LOOK_MS = 1_000.0
LOOK_TIMEOUT_S = 2.0
TELL_MS = 10_000.0
"""Where there is no terminal, the sum is a line of the log so often."""
LINE_BYTES_MAX = 1 << 20


@dataclass(slots=True)
class Plan:
    """What each child is started as. ``ports`` are empty without a web view."""

    count: int
    command: Callable[[int], Sequence[str]]  # number of the child, from 0
    slots: Sequence[str]  # setting transactional_slot of each
    ports: Sequence[int]
    host: str = "127.0.0.1"
    token: str | None = None
    tls: ssl.SSLContext | None = None  # what the children are asked with


@dataclass(slots=True)
class Child:
    """One worker. ``events`` were counted by its former lives too."""

    number: int
    process: asyncio.subprocess.Process | None = None
    was_ready: bool = False
    ready: bool = False  # in this life
    restarts: int = 0
    events: float = 0.0
    before: float = 0.0  # what former lives counted
    lag: float | None = None

    def begin(self, process: asyncio.subprocess.Process) -> None:
        """A new life."""
        self.process = process

    def hear(self, is_ready: bool) -> None:
        """It said whether it is ready."""
        self.ready = is_ready
        self.was_ready |= is_ready

    def assume_ready(self) -> None:
        """Nobody can ask it."""
        self.was_ready = True

    def count(self, events: float, lag: float) -> None:
        """Its own figures, of this life."""
        self.events = self.before + events
        self.lag = lag

    def be_silent(self) -> None:
        """It does not answer."""
        self.lag = None

    def end(self) -> None:
        """The life is over; its events still count. Whether it was ready is asked until the next begins."""
        self.before = self.events
        self.lag = None

    def restart(self) -> None:
        self.restarts += 1
        self.ready = False


def free_ports(settings: WebSettings, count: int) -> list[int]:
    """Ports counted up from the setting's; busy ones are passed over where nobody asked for that port.

    Raises ClickException where one that was asked for is busy.
    """
    if settings.port == 0:
        return [0] * count
    found: list[int] = []
    for port in range(settings.port, min(settings.port + PORTS_TRIED_MAX + count, 65_536)):
        try:
            with socket.create_server((settings.host, port)):
                found.append(port)
        except OSError as exc:
            if settings.port_explicit:
                raise click.UsageError(
                    f"web port {port} is busy ({exc}): {count} processes need {settings.port} to"
                    f" {settings.port + count - 1}"
                ) from exc
        if len(found) == count:
            return found
    raise click.UsageError(f"no {count} web ports are free from {settings.port} on")


class Processes:
    """Starts, watches and ends the children; `run` returns the exit code."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan = plan
        self._console = console
        self._clock = SystemClock()
        self._children = [Child(number) for number in range(plan.count)]
        self._stopping = asyncio.Event()
        self._signals = 0
        self._code = 0

    async def run(self) -> int:
        """Until a signal ends it, or a child that can't start: 0 when every worker ended cleanly."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(each, self._on_signal, each)
        keepers = [asyncio.create_task(self._keep(child)) for child in self._children]
        looking = asyncio.create_task(self._look())
        try:
            await asyncio.gather(*keepers)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            for child in self._children:
                self._tell(child, signal.SIGKILL)
        return self._code

    def _on_signal(self, received: int) -> None:
        self._signals += 1
        name = signal.Signals(received).name
        if self._signals == 1:
            self._say(f"{name}: each worker makes a last checkpoint and gives its partitions back")
        at_once = self._signals > (1 if received == signal.SIGINT else 2)  # the second Ctrl-C
        self._end(signal.SIGKILL if at_once else signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        self._stopping.set()
        for child in self._children:
            self._tell(child, how)

    def _tell(self, child: Child, how: signal.Signals) -> None:
        if child.process is not None and child.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(how)

    # -- one child --------------------------------------------------------------------------------

    async def _keep(self, child: Child) -> None:
        wait_ms = RESTART_FIRST_MS
        while not self._stopping.is_set():
            began_ms = self._clock.monotonic_ms()
            code = await self._live(child)
            if self._stopping.is_set():
                if code != 0:
                    self._code = 1
                return
            killed = code == -signal.SIGKILL
            if not child.was_ready and not killed:
                self._say(f"worker {child.number} ended with {said(code)} before it was ready: ending all")
                self._code = code if code > 0 else 1
                self._end(signal.SIGTERM)
                return
            if self._clock.monotonic_ms() - began_ms > STEADY_MS or (killed and child.ready):
                wait_ms = RESTART_FIRST_MS
            self._say(f"worker {child.number} ended with {said(code)}: again in {wait_ms / 1_000:g} s")
            child.restart()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_ms / 1_000)
            wait_ms = min(2 * wait_ms, RESTART_MAX_MS)

    async def _live(self, child: Child) -> int:
        """One life; the exit code, negative for a signal."""
        plan = self._plan
        environ = dict(os.environ)
        environ["STREAMFLOW_TRANSACTIONAL_SLOT"] = plan.slots[child.number]
        process = await asyncio.create_subprocess_exec(
            *plan.command(child.number),
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_BYTES_MAX,
            start_new_session=True,  # Ctrl-C reaches us alone; the children hear of it from us
            preexec_fn=end_with_parent,
        )
        child.begin(process)
        if self._stopping.is_set():
            self._tell(child, signal.SIGTERM)
        printing = asyncio.create_task(self._print(child, process))
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await asyncio.wait({ended}, timeout=STOP_S)
                if not ended.done():
                    self._say(f"worker {child.number} did not end within {STOP_S:g} s: SIGKILL")
                    self._tell(child, signal.SIGKILL)
            code = await ended
            await printing
            return code
        finally:
            stopping.cancel()
            printing.cancel()
            child.end()

    async def _print(self, child: Child, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # a line of more than LINE_BYTES_MAX
            if not line:
                return
            text = Text.assemble((f"{child.number} ", "dim"), Text.from_ansi(line.decode(errors="replace")))
            self._console.print(text, soft_wrap=True)

    # -- their sum ----------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Asks each worker for its figures, and shows the sum."""
        if not self._plan.ports or not all(self._plan.ports):
            for child in self._children:
                child.assume_ready()
            return
        timeout = aiohttp.ClientTimeout(total=LOOK_TIMEOUT_S)
        headers = {"Authorization": f"Bearer {self._plan.token}"} if self._plan.token else {}
        terminal = self._console.is_terminal
        live = Live(console=self._console, auto_refresh=False, transient=True) if terminal else None
        connector = aiohttp.TCPConnector(ssl=self._plan.tls or True)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as session:
            with live or contextlib.nullcontext():
                told_events, told_ms = 0.0, self._clock.monotonic_ms()
                while True:
                    await self._clock.sleep_ms(LOOK_MS)
                    await asyncio.gather(*(self._ask(session, child) for child in self._children))
                    now_ms = self._clock.monotonic_ms()
                    if live is None and now_ms - told_ms < TELL_MS:
                        continue
                    events = sum(child.events for child in self._children)
                    line = self.line(max(0.0, events - told_events) / (now_ms - told_ms) * 1_000)
                    told_events, told_ms = events, now_ms
                    if live is not None:
                        live.update(Text(line, style="bold"), refresh=True)
                    else:
                        self._say(line)

    async def _ask(self, session: aiohttp.ClientSession, child: Child) -> None:
        scheme = "http" if self._plan.tls is None else "https"
        base = f"{scheme}://{self._plan.host}:{self._plan.ports[child.number]}"
        try:
            if not child.ready:
                async with session.get(f"{base}/readyz") as answer:
                    child.hear(answer.status == 200)
            async with session.get(f"{base}/metrics") as answer:
                found = figures(await answer.text())
        except (aiohttp.ClientError, TimeoutError, OSError):
            child.be_silent()
            return
        child.count(
            found.get("streamflow_records_total", 0.0), found.get("streamflow_consumer_lag_records", 0.0)
        )

    def line(self, rate: float) -> str:
        """``3 of 4 workers, 12,345 events/s, 678,901 events in all, lag 17``."""
        up = [child for child in self._children if child.lag is not None]
        events = sum(child.events for child in self._children)
        lag = f"{sum(child.lag or 0.0 for child in up):,.0f}" if up else "?"
        restarts = sum(child.restarts for child in self._children)
        again = f", {restarts} restarts" if restarts else ""
        workers = f"{len(up)} of {len(self._children)} workers"
        return f"{workers}, {rate:,.0f} events/s, {events:,.0f} events in all, lag {lag}{again}"

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def figures(metrics: str) -> dict[str, float]:
    """Name -> sum over its labels, of Prometheus text."""
    found: dict[str, float] = {}
    for line in metrics.splitlines():
        name, _, value = line.rpartition(" ")
        if name and not line.startswith("#"):
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def said(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def end_with_parent() -> None:
    """On Linux the child gets SIGTERM when we end, even by SIGKILL: no worker stays behind unseen."""
    if _PRCTL is not None:
        pr_set_pdeathsig = 1
        _PRCTL(pr_set_pdeathsig, signal.SIGTERM)


_PRCTL: Any = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def run(plan: Plan) -> int:
    """Runs the children until they end; the exit code."""
    return asyncio.run(Processes(plan, Console(highlight=False)).run())
