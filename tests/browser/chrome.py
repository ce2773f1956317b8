"""Headless Chromium over its DevTools protocol: enough to open a page, ask it things and press keys."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
START_S: Final = 30.0
ANSWER_S: Final = 20.0
CODES: Final = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowUp": 38, "ArrowDown": 40}
CODES_OF_SIGNS: Final = {"/": 191, "?": 191}


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. ``console`` holds what the page complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._count = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.console: list[str] = []

    async def listen(self) -> None:
        async for received in self._socket:
            said = received.json()
            if "id" in said:
                answer = self._answers.pop(said["id"], None)
                if answer is not None and not answer.done():
                    answer.set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.console.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.console.append(said["params"]["entry"]["text"])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._count] = answer
        await self._socket.send_json({"id": self._count, "method": method, "params": parameters})
        async with asyncio.timeout(ANSWER_S):
            said = await answer
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def go(self, url: str) -> None:
        """Another address in the same page, as if it were typed."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, JSON-able."""
        said = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def until(self, expression: str, wait_s: float = 15.0) -> Any:
        """Waits for the expression to be true; fails naming it."""
        try:
            async with asyncio.timeout(wait_s):
                while not (value := await self.ask(expression)):  # noqa: ASYNC110  - it is another process
                    await asyncio.sleep(0.05)
        except TimeoutError:
            shown = await self.ask("document.body.innerText")
            raise AssertionError(
                f"never true: {expression}\nconsole: {self.console}\npage: {shown}"
            ) from None
        return value

    async def press(self, key: str, code: int = 0) -> None:
        """One key: a character, or a name such as ``Enter`` with its Windows code."""
        code = code or CODES.get(key) or CODES_OF_SIGNS.get(key) or ord(key.upper())
        for kind in ("keyDown", "keyUp"):
            typed = "\r" if key == "Enter" else key if len(key) == 1 else ""
            text = {"text": typed} if typed and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    async def look(self, *, width: int, height: int, dark: bool = False, still: bool = False) -> None:
        """Size of the window, and what the page is told that its reader prefers."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self) -> bytes:
        """The whole page as PNG."""
        said = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(said["data"])


class Chromium:
    """One headless browser for many tests; each `page` has cookies and storage of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self._port = port

    @asynccontextmanager
    async def page(self) -> AsyncIterator[Page]:
        """A fresh empty page, gone afterwards."""
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{self._port}/json/version") as response:
                address = (await response.json(content_type=None))["webSocketDebuggerUrl"]
            async with _connected(session, address) as whole:
                context = (await whole.call("Target.createBrowserContext"))["browserContextId"]
                made = await whole.call("Target.createTarget", url="about:blank", browserContextId=context)
                address = f"ws://127.0.0.1:{self._port}/devtools/page/{made['targetId']}"
                try:
                    async with _connected(session, address) as page:
                        yield page
                finally:
                    await whole.call("Target.disposeBrowserContext", browserContextId=context)


@asynccontextmanager
async def _connected(session: aiohttp.ClientSession, address: str) -> AsyncIterator[Page]:
    async with session.ws_connect(address, max_msg_size=0) as socket:
        page = Page(socket)
        listening = asyncio.create_task(page.listen())
        try:
            yield page
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@contextmanager
def browser(chromium: str) -> Iterator[Chromium]:
    """A fresh Chromium; gone afterwards, with its profile."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Chromium(process, _port(Path(profile) / "DevToolsActivePort"))
        finally:
            process.kill()
            process.wait()


def _port(path: Path) -> int:
    """Of the DevTools, once the browser has written it down."""
    deadline = time.monotonic() + START_S
    while not (text := _read(path)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the browser has not started within {START_S:g} s")
        time.sleep(0.05)
    return int(text.splitlines()[0])


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
