"""No log line of any test here may hold what a header held, or a token."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

CANARY = "canary-of-a-header-9b1d4e"
TOLD = frozenset(
    {"host", "streamflow-peer", "streamflow-app", "accept", "content-type", "user-agent", "origin"}
    | {"upgrade", "connection", "sec-websocket-version", "sec-websocket-protocol"}
)
"""What holds addresses, names and kinds only."""
CHARACTERS_MIN = 8
"""Shorter ones are words that a log line may well have."""


class Heard(logging.Handler):
    """Every line of every logger, and every secret that was sent meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))
        self.lines: list[str] = []
        self.secrets = {CANARY}

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def note(self, secret: str) -> None:
        for part in (secret, secret.rpartition(" ")[2]):
            if len(part) >= CHARACTERS_MIN:
                self.secrets.add(part)

    def check(self) -> None:
        for line in self.lines:
            told = [secret for secret in self.secrets if secret in line]
            assert not told, f"a log line tells {told}: {line}"


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    """Held against the lines when the test has ended."""
    heard = Heard()
    root = logging.getLogger()
    level = root.level
    root.addHandler(heard)
    root.setLevel(logging.DEBUG)
    requested, sent = aiohttp.ClientSession._request, aiohttp.ClientWebSocketResponse.send_str

    async def request(self: aiohttp.ClientSession, *args: Any, **options: Any) -> Any:
        headers = {"X-Canary": CANARY, **(options.pop("headers", None) or {})}
        for name, value in headers.items():
            if name.lower() not in TOLD:
                heard.note(str(value))
        return await requested(self, *args, headers=headers, **options)

    async def send_str(self: aiohttp.ClientWebSocketResponse, data: str, *args: Any, **options: Any) -> None:
        if '"init"' in data:
            heard.note(str(json.loads(data).get("token") or ""))
        await sent(self, data, *args, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", request)
    monkeypatch.setattr(aiohttp.ClientWebSocketResponse, "send_str", send_str)
    try:
        yield heard
    finally:
        root.removeHandler(heard)
        root.setLevel(level)
    heard.check()
