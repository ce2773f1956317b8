"""What was answered to requests that name a key of their own, so that asking again does nothing again.

Kept in this worker's memory: for `KEPT_MS`, and of `KEYS_MAX` keys the newest.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Final

from streamflow.clock import Clock
from streamflow.web.problems import Problem

KEPT_MS: Final = 3_600_000.0
KEYS_MAX: Final = 10_000
KEY_LENGTH_MAX: Final = 256

Name = tuple[str, str, str]
"""(who asks, of which topic, the key)"""


class Asked:
    """One key: ``answer`` is there once it was given. Who holds ``lock`` finds it out."""

    def __init__(self, body: bytes, at_ms: float) -> None:
        self.body = body
        self.at_ms = at_ms
        self.answer: dict[str, Any] | None = None
        self.lock = asyncio.Lock()

    def remember(self, answer: dict[str, Any]) -> None:
        self.answer = answer


class Remembered:
    """The newest keys."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked: dict[Name, Asked] = {}  # oldest first

    def of(self, name: Name, body: bytes) -> Asked:
        """What is known of a key. Raises Problem 409 where another body came with it."""
        now_ms = self._clock.monotonic_ms()
        while self._asked:
            oldest = next(iter(self._asked))
            if len(self._asked) < KEYS_MAX and now_ms - self._asked[oldest].at_ms < KEPT_MS:
                break
            del self._asked[oldest]
        asked = self._asked.setdefault(name, Asked(body, now_ms))
        if asked.body != body:
            raise Problem(409, "key-reused", "another body came with this Idempotency-Key before")
        return asked


def checked_key(text: str | None) -> str | None:
    """The header's text. Raises Problem 400."""
    if text is not None and not (0 < len(text) <= KEY_LENGTH_MAX and text.isascii() and text.isprintable()):
        raise Problem(
            400, "bad-request", f"Idempotency-Key: 1 to {KEY_LENGTH_MAX} printable ASCII characters"
        )
    return text


def fingerprint(kind: str, body: bytes) -> bytes:
    """By which a body is known again."""
    return hashlib.blake2b(kind.encode() + b"\0" + body, digest_size=16).digest()
