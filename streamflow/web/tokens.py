"""Tokens that the settings know by their hashes only, and how they are made.

The settings hold ``scrypt:n:r:p:salt:hash:name``. A token that `make` made names its salt, so that one look
finds the hash that it must have, and what no entry knows costs nothing. A hash is computed once in a worker's
life for each token that is right: what was right is remembered, under a key of this process.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from streamflow.errors import ConfigurationError

SCHEME: Final = "scrypt"
N, R, P = 2**14, 8, 5
"""16 MiB and about 0.2 s: what OWASP has for a memory of 16 MiB."""
MEMORY_BYTES_MAX: Final = 256 * 1024 * 1024
PREFIX: Final = "sf_"
_MADE: Final = re.compile(r"sf_([0-9a-f]{16})_[\w-]{43}")
_NAME: Final = re.compile(r"[\w.-]{1,64}")
_ENTRY: Final = re.compile(r"scrypt:(\d+):(\d+):(\d+):([\w-]+):([\w-]+)(?::([\w.-]{1,64}))?")
UNNAMED: Final = "a-token"


@dataclass(frozen=True, slots=True)
class HashedToken:
    """One entry of the settings; ``name`` is what `web_rights` calls it by."""

    n: int
    r: int
    p: int
    salt: str
    digest: bytes = field(repr=False)
    name: str = UNNAMED

    @classmethod
    def of(cls, entry: str) -> HashedToken:
        """Raises ConfigurationError, which does not tell the entry."""
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise ConfigurationError(
                "web_tokens: an entry begins with scrypt: and is not one that `streamflow token` makes"
            )
        n, r, p = (int(number) for number in found.group(1, 2, 3))
        if n < 2 or n & (n - 1) or not r or not p or p > 64 or 128 * n * r > MEMORY_BYTES_MAX:
            raise ConfigurationError(f"web_tokens: scrypt can't work with the numbers {n}, {r}, {p}")
        try:
            digest = base64.urlsafe_b64decode(found[5] + "=" * (-len(found[5]) % 4))
        except binascii.Error:
            digest = b""
        if len(digest) < 16:
            raise ConfigurationError("web_tokens: the hash of an entry is cut off")
        return cls(n, r, p, found[4], digest, found[6] or UNNAMED)

    @property
    def text(self) -> str:
        digest = base64.urlsafe_b64encode(self.digest).rstrip(b"=").decode()
        tail = "" if self.name == UNNAMED else f":{self.name}"
        return f"{SCHEME}:{self.n}:{self.r}:{self.p}:{self.salt}:{digest}{tail}"

    def is_of(self, token: str) -> bool:
        """Takes as long as it is meant to: not for the event loop."""
        digest = _scrypt(token, self.salt, self.n, self.r, self.p, len(self.digest))
        return hmac.compare_digest(digest, self.digest)


def _scrypt(token: str, salt: str, n: int, r: int, p: int, size: int) -> bytes:
    memory = 128 * r * (n + p + 2) + 1024 * 1024
    shown = token.encode(errors="surrogatepass")
    return hashlib.scrypt(shown, salt=salt.encode(), n=n, r=r, p=p, maxmem=memory, dklen=size)


def make(name: str = UNNAMED, token: str | None = None) -> tuple[str, str]:
    """A token and its entry for the settings; of ``token``, where there is one already.

    Raises ConfigurationError for a name or a token that can't be one.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no name of a token: letters, digits, and . _ - only")
    if token is None:
        salt = secrets.token_hex(8)
        token = f"{PREFIX}{salt}_{secrets.token_urlsafe(32)}"
    elif not token or not token.isascii() or not token.isprintable():
        raise ConfigurationError("a web token is empty, or not printable ASCII")
    else:
        salt = secrets.token_urlsafe(16)
    return token, HashedToken(N, R, P, salt, _scrypt(token, salt, N, R, P, 32), name).text


def is_hashed(entry: str) -> bool:
    return entry.startswith(SCHEME + ":")


class KnownTokens:
    """The tokens of the settings, plain and hashed."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._plain = [entry.encode() for entry in entries if not is_hashed(entry)]
        hashed = [HashedToken.of(entry) for entry in entries if is_hashed(entry)]
        self._by_salt = {entry.salt: entry for entry in hashed}
        self._chosen = [entry for entry in hashed if not re.fullmatch("[0-9a-f]{16}", entry.salt)]
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, str] = {}  # keyed hash of a token that was right -> its name
        self._computing = asyncio.Lock()  # one at a time: they take memory, and a core

    def __bool__(self) -> bool:
        return bool(self._plain or self._by_salt)

    def remembered(self, token: str) -> str | None:
        """The name of a token that was right before."""
        return self._right.get(self.mark(token))

    async def name_of(self, token: str) -> str | None:
        """The name of a token that is right, or ``None``."""
        shown = token.encode(errors="surrogatepass")
        # A list, not any(): how long it takes must not tell which token came close.
        if any([hmac.compare_digest(shown, known) for known in self._plain]):  # noqa: C419
            name: str | None = UNNAMED
        else:
            name = await self._hashed(token)
        if name is not None:
            self._right[self.mark(token)] = name
        return name

    async def _hashed(self, token: str) -> str | None:
        made = _MADE.fullmatch(token)
        known = self._by_salt.get(made[1]) if made is not None else None
        entries = [known] if known is not None else self._chosen
        if not entries:
            return None
        async with self._computing:
            remembered = self.remembered(token)  # by who waited before us
            if remembered is not None:
                return remembered
            for entry in entries:
                if await asyncio.to_thread(entry.is_of, token):
                    return entry.name
        return None

    def mark(self, token: str) -> bytes:
        """The same for the same token, and nothing outside of this process."""
        return hashlib.blake2b(token.encode(errors="surrogatepass"), key=self._key, digest_size=32).digest()
