"""JSON Web Tokens: signed by an issuer, for us, and not expired. Needs the extra ``jwt``."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError
from streamflow.web.guesses import is_loopback
from streamflow.web.problems import unavailable
from streamflow.web.settings import WebSettings

log = logging.getLogger(__name__)

KEPT_MS: Final = 600_000.0
ASKED_AGAIN_MS: Final = 10_000.0
"""A key that is not known is asked for so often at most: anybody can name one."""
FETCH_S: Final = 5.0
KEYS_BYTES_MAX: Final = 1 << 20

Keys = Mapping[str | None, list[dict[str, Any]]]  # key id -> keys, as the set has them


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says; ``until_ms``: wall clock, when it stops being valid."""

    said: Mapping[str, object]
    until_ms: float


class JwtTokens:
    """Tokens of one issuer."""

    def __init__(self, settings: WebSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._jwt = library()
        self._leeway_ms = settings.jwt_leeway_s * 1_000
        self._keys: Keys = {}
        self._at_ms: float | None = None  # of `_keys`
        self._asked_ms: float | None = None
        self._asking = asyncio.Lock()

    @staticmethod
    def looks_like_one(token: str) -> bool:
        return token.count(".") == 2 and token.startswith("ey")

    async def claims(self, token: str) -> Claims | None:
        """Of a token that is valid, or ``None``. Raises Problem 503 where the issuer's keys can't be had."""
        try:
            header = self._jwt.get_unverified_header(token)
        except self._jwt.PyJWTError:
            return None
        key_id, algorithm = header.get("kid"), str(header.get("alg"))
        if algorithm not in self._settings.jwt_algorithms or not isinstance(key_id, str | None):
            return None
        for candidate in await self._candidates(key_id):
            claims = self._verified(token, candidate, algorithm)
            if claims is not None:
                return claims
        return None

    def _verified(self, token: str, candidate: Mapping[str, Any], algorithm: str) -> Claims | None:
        jwt, settings = self._jwt, self._settings
        if candidate.get("use", "sig") != "sig" or candidate.get("alg", algorithm) != algorithm:
            return None
        try:
            # Of that algorithm's family or none: else a public key would do as a secret.
            key = jwt.PyJWK(dict(candidate), algorithm=algorithm)
            said = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=list(settings.jwt_audience),
                issuer=settings.jwt_issuer,
                # Times are held against our own clock.
                options={
                    "require": ["exp", "iss", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.PyJWTError:
            return None
        now_ms = self._clock.now_ms()
        until_ms, from_ms = _ms(said.get("exp")), _ms(said.get("nbf", 0))
        if until_ms is None or from_ms is None:
            return None
        if now_ms >= until_ms + self._leeway_ms or now_ms < from_ms - self._leeway_ms:
            return None
        return Claims(said, until_ms + self._leeway_ms)

    async def _candidates(self, key_id: str | None) -> list[dict[str, Any]]:
        keys = await self._known(must_have=key_id)
        if key_id is None:
            return [key for some in keys.values() for key in some]
        return keys.get(key_id, []) + keys.get(None, [])

    async def _known(self, *, must_have: str | None) -> Keys:
        """The issuer's keys; asked for again when they are old, or lack one that a token names."""
        if not self._is_due(must_have):
            return self._keys
        async with self._asking:
            if self._is_due(must_have):
                self._asked_ms = self._clock.monotonic_ms()
                try:
                    self._keys = await read_keys(self._settings.jwt_keys)
                    self._at_ms = self._clock.monotonic_ms()
                except (OSError, ValueError, TimeoutError, aiohttp.ClientError) as exc:
                    reason = str(exc) or type(exc).__name__
                    place = self._settings.jwt_keys
                    log.warning("the key set %s (web_jwt_keys) can't be read: %s", place, reason)
        if self._at_ms is None:
            raise unavailable("not-ready", "the keys that tokens are signed with can't be had now")
        return self._keys

    def _is_due(self, must_have: str | None) -> bool:
        now_ms = self._clock.monotonic_ms()
        if self._asked_ms is not None and now_ms - self._asked_ms < ASKED_AGAIN_MS:
            return False
        is_old = self._at_ms is None or now_ms - self._at_ms >= KEPT_MS
        return is_old or (must_have is not None and must_have not in self._keys)


def _ms(seconds: object) -> float | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not abs(seconds) < 1e12:
        return None
    return seconds * 1_000.0


def library() -> ModuleType:
    """PyJWT, with what it needs for public keys. Raises ConfigurationError."""
    try:
        import jwt
        import jwt.algorithms
    except ImportError:
        raise ConfigurationError("web_jwt_keys needs PyJWT: the extra [jwt] of faust-streamflow") from None
    if not jwt.algorithms.has_crypto:
        raise ConfigurationError("web_jwt_keys needs cryptography: the extra [jwt] of faust-streamflow")
    return jwt


def check_algorithms(names: Iterable[str]) -> None:
    """Raises ConfigurationError for what is no algorithm of signatures."""
    known = library().algorithms.get_default_algorithms()
    for name in names:
        if name not in known or name == "none":
            raise ConfigurationError(
                f"web_jwt_algorithms: {name!r} signs nothing; there are {', '.join(known)}"
            )


def check_place(place: str) -> None:
    """Raises ConfigurationError for an address from which keys must not be taken."""
    parts = urlsplit(place)
    if parts.scheme == "http" and not (parts.hostname == "localhost" or is_loopback(parts.hostname)):
        raise ConfigurationError(f"web_jwt_keys: {place} is not https: others could give us their keys")
    if parts.scheme not in ("", "http", "https"):
        raise ConfigurationError(f"web_jwt_keys: {place} is no file and no https address")
    if not parts.scheme and not os.access(place, os.R_OK):
        raise ConfigurationError(f"web_jwt_keys: the file {place} can't be read")


async def read_keys(place: str) -> Keys:
    """The key set (RFC 7517) of a file or an address.

    Raises OSError, TimeoutError, ValueError or aiohttp.ClientError where it can't be had.
    """
    if urlsplit(place).scheme in ("http", "https"):
        raw = await _fetched(place)
    else:
        raw = await asyncio.to_thread(Path(place).read_bytes)
    try:
        said = msgspec.json.decode(raw, type=dict[str, Any])
        found: dict[str | None, list[dict[str, Any]]] = {}
        for key in said["keys"]:
            found.setdefault(key.get("kid"), []).append(key)
    except (msgspec.MsgspecError, KeyError, AttributeError, TypeError) as exc:
        raise ValueError("it is no JSON Web Key Set") from exc
    return found


async def _fetched(place: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=FETCH_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.get(place, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise ValueError(f"it answers {response.status}")
        raw = b""
        async for part in response.content.iter_chunked(1 << 16):
            raw += part
            if len(raw) > KEYS_BYTES_MAX:
                raise ValueError(f"it has more than {KEYS_BYTES_MAX} bytes")
        return raw
