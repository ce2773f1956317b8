"""What a caller may do: rights as the settings and a token's claims give them.

A right is written ``read``, ``publish`` or ``admin``, and then, each behind a colon, what it is limited
to: the kind (``table``, ``topic``, ``app``), a name and a key. ``read:table:orders:user/{sub}/*`` lets its
holder read the rows of the table ``orders`` whose keys begin with ``user/``, the claim ``sub`` of its token
and ``/``. A ``*`` at the end of a name or of a key stands for any rest. Nothing implies anything else: who
may administer may not read unless that is given too.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, Literal, cast, get_args

import msgspec
from aiohttp import web

from streamflow.errors import ConfigurationError
from streamflow.query.key_order import key_text
from streamflow.web.problems import Problem

Right = Literal["read", "publish", "admin"]
Kind = Literal["table", "topic", "app"]
RIGHTS: Final = get_args(Right)
KINDS: Final = get_args(Kind)
ANYBODY: Final = "*"
_CLAIM: Final = re.compile(r"\{(\w+)\}")
_CLAIMS_END: Final = re.compile(r"\{\w+\}\*$")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text, or with ``is_prefix`` all that begin with it."""

    text: str
    is_prefix: bool = False

    @classmethod
    def of(cls, written: str) -> Pattern:
        return cls(written[:-1], True) if written.endswith("*") else cls(written)

    def matches(self, text: str) -> bool:
        return text.startswith(self.text) if self.is_prefix else text == self.text


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The keys of one table or topic that somebody may read or write: any that one of ``patterns`` matches.

    ``None`` for all of them. Hashable, so that equal limits can share what is made for them.
    """

    patterns: frozenset[Pattern] | None = frozenset()

    def allows(self, key: object) -> bool:
        """``key`` as rows have it; its text is what prefixes are compared with everywhere."""
        if self.patterns is None:
            return True
        text = key_text(key)
        return any(pattern.matches(text) for pattern in self.patterns)

    def narrowed(self, prefix: str | None) -> str | None:
        """A prefix that all keys have which are allowed and begin with ``prefix``: lists begin there."""
        if self.patterns is None:
            return prefix
        least, most = (pick(pattern.text for pattern in self.patterns) for pick in (min, max))
        same = takewhile(lambda pair: pair[0] == pair[1], zip(least, most, strict=False))
        common = least[: sum(1 for _ in same)]
        return common if common.startswith(prefix or "") else prefix

    @property
    def texts(self) -> list[list[object]] | None:
        """In a fixed order, for fingerprints."""
        if self.patterns is None:
            return None
        return sorted([pattern.text, pattern.is_prefix] for pattern in self.patterns)


ALL_KEYS: Final = KeyLimits(None)
NO_KEYS: Final = KeyLimits()


@dataclass(frozen=True, slots=True)
class Grant:
    """One right of one caller. ``kind`` ``None``: of every kind; ``key`` ``None``: all keys."""

    right: Right
    kind: Kind | None = None
    name: Pattern = Pattern("", is_prefix=True)
    key: Pattern | None = None

    @classmethod
    def of(cls, written: str, claims: Mapping[str, object] | None = None) -> Grant:
        """For a caller with these claims.

        Raises ValueError for what is no right, and KeyError where a claim is missing.
        """
        right, *limits = written.split(":", 3)
        if right not in RIGHTS:
            raise ValueError(f"{written!r} is no right: it begins with {', '.join(RIGHTS)}")
        if not limits:
            return cls(cast("Right", right))
        kind = limits[0]
        if kind not in KINDS:
            raise ValueError(f"{written!r}: {kind!r} is not one of {', '.join(KINDS)}")
        name = limits[1] if len(limits) > 1 else "*"
        key = limits[2] if len(limits) > 2 else "*"
        if not name or not key:
            raise ValueError(f"{written!r} ends with a colon: leave it away, or write * for all")
        if _CLAIMS_END.search(key):
            raise ValueError(
                f"{written!r}: a claim right before the * would let al read what is alice's: put a sign "
                "between them that no claim holds, such as {sub}/*"
            )
        pattern = None if key == "*" else _filled_in(key, claims)
        return cls(cast("Right", right), cast("Kind", kind), Pattern.of(name), pattern)

    def covers(self, right: Right, kind: Kind, name: str) -> bool:
        return self.right == right and self.kind in (None, kind) and self.name.matches(name)


def _filled_in(key: str, claims: Mapping[str, object] | None) -> Pattern:
    """``None`` for claims: as it is written, to be looked at. Raises KeyError where a claim is missing."""
    # What a claim says is never a pattern itself, so the * is looked for before it is filled in.
    written = Pattern.of(key)
    if claims is None:
        return written

    def claim(found: re.Match[str]) -> str:
        said = claims.get(found[1])
        if isinstance(said, bool) or not isinstance(said, str | int) or said == "":
            raise KeyError(found[1])
        return str(said)

    return Pattern(_CLAIM.sub(claim, written.text), written.is_prefix)


@dataclass(frozen=True, slots=True)
class Rule:
    """A right for some callers: ``who`` is ``*``, the name of a token, or ``claim=value``."""

    who: str
    right: str

    @classmethod
    def of(cls, written: str) -> Rule:
        """``who right``. Raises ConfigurationError."""
        who, _, right = written.strip().partition(" ")
        try:
            Grant.of(right.strip())
        except ValueError as exc:
            raise ConfigurationError(
                f"setting web_rights: {written!r}: {exc}; write who and a right, such as '* read'"
            ) from exc
        return cls(who, right.strip())

    def is_for(self, name: str, claims: Mapping[str, object]) -> bool:
        claim, equals, value = self.who.partition("=")
        if not equals:
            return self.who in (ANYBODY, name)
        said = claims.get(claim)
        given = said if isinstance(said, list | tuple) else () if said is None else (said,)
        return value in map(str, given)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``is_known``: showed a valid token, or none is needed here; others have no rights.

    ``name`` is fit for logs. ``is_foreign``: a browser asks for a page of another origin, which may read
    what it has a token for, but change nothing. ``asks_own_rows``: a worker, which wants our own rows only;
    ``is_worker``: it has proved that it is one. ``until_ms``: wall clock, when its token stops being valid.
    """

    name: str = "nobody"
    grants: tuple[Grant, ...] = ()
    is_known: bool = False
    is_foreign: bool = False
    asks_own_rows: bool = False
    is_worker: bool = False
    until_ms: float | None = None

    def keys(self, right: Right, kind: Kind, name: str) -> KeyLimits:
        """The keys of this table or topic for which the caller has the right."""
        found: set[Pattern] = set()
        for grant in self.grants:
            if grant.covers(right, kind, name):
                if grant.key is None:
                    return ALL_KEYS
                found.add(grant.key)
        return KeyLimits(frozenset(found)) if found else NO_KEYS

    def may(self, right: Right, kind: Kind, name: str, key: object = None) -> bool:
        """Without a ``key``: for all keys. Who may some of them only, see `keys`, gets False."""
        if self.is_foreign and right != "read":
            return False
        limits = self.keys(right, kind, name)
        return limits.patterns is None or (key is not None and limits.allows(key))

    def may_some(self, right: Right, kind: Kind, name: str) -> bool:
        """At least for some keys: what is then shown must be held against `keys`."""
        return not (self.is_foreign and right != "read") and self.keys(right, kind, name) != NO_KEYS

    def has_any(self, right: Right, kind: Kind) -> bool:
        """Is there anything of the kind, known or not, for which the caller may have the right?"""
        if self.is_foreign and right != "read":
            return False
        return any(grant.right == right and grant.kind in (None, kind) for grant in self.grants)

    def require(self, right: Right, kind: Kind, name: str, key: object = None) -> None:
        """Raises Problem 403 unless the caller `may`. Whether there is such a thing is not told."""
        if not self.may(right, kind, name, key):
            raise self.refusal(right, kind, name)

    def require_some(self, right: Right, kind: Kind, name: str) -> KeyLimits:
        """The keys for which the caller has the right. Raises Problem 403 where there are none."""
        if not self.may_some(right, kind, name):
            raise self.refusal(right, kind, name)
        return self.keys(right, kind, name)

    def refusal(self, right: Right, kind: Kind, name: str) -> Problem:
        if self.is_foreign and right != "read":
            return Problem(403, "forbidden", "a page of another origin may not change anything here")
        what = f"{right}:{kind}" if kind == "app" else f"{right}:{kind}:{name}"
        return Problem(403, "forbidden", f"the right {what} is needed (setting web_rights)")


NOBODY: Final = Caller()
EVERYTHING: Final = tuple(Grant(right) for right in RIGHTS)
_CALLER: Final = web.RequestKey("caller", Caller)
_asking: Final[ContextVar[Caller | None]] = ContextVar("asking", default=None)
_delegate: Final = msgspec.json.Decoder(tuple[str, tuple[Grant, ...]])


def caller_of(request: web.BaseRequest) -> Caller:
    """Who sent ``request``, as the middleware found out; `NOBODY` before it has."""
    caller: Caller = request.get(_CALLER, NOBODY)
    return caller


def remember(request: web.BaseRequest, caller: Caller) -> None:
    """For `caller_of`, and for `delegated` within the task that answers the request."""
    request[_CALLER] = caller
    _asking.set(caller)


def delegated() -> str | None:
    """Whose request is being answered here, and with what rights, for the peers that are asked for it.

    ``None`` for this worker's own questions. So a peer answers with what the caller may read, whatever way
    the question takes.
    """
    caller = _asking.get()
    if caller is None or caller.grants == EVERYTHING:
        return None
    return base64.urlsafe_b64encode(msgspec.json.encode((caller.name, caller.grants))).decode()


@contextmanager
def as_worker() -> Iterator[None]:
    """Within it peers are asked for what this worker wants to know, and nobody else."""
    token = _asking.set(None)
    try:
        yield
    finally:
        _asking.reset(token)


def delegate_of(text: str) -> tuple[str, tuple[Grant, ...]]:
    """The name and the rights that `delegated` has written. Raises Problem 400."""
    try:
        return _delegate.decode(base64.urlsafe_b64decode(text))
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise Problem(400, "bad-request", "the caller's rights can't be read") from None


def grants_for(rules: Iterable[Rule], name: str, claims: Mapping[str, object]) -> tuple[Grant, ...]:
    """What the settings give to a caller of this name with these claims."""
    return _grants([rule.right for rule in rules if rule.is_for(name, claims)], claims)


def grants_in(said: object, claims: Mapping[str, object]) -> tuple[Grant, ...]:
    """The rights among what a claim says, a list or a text with spaces; other words are not ours."""
    words = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
    return _grants([word for word in words if isinstance(word, str)], claims)


def _grants(written: Iterable[str], claims: Mapping[str, object]) -> tuple[Grant, ...]:
    found: list[Grant] = []
    for right in written:
        # What is no right is another's word; one whose claim is missing opens nothing.
        with suppress(ValueError, KeyError):
            found.append(Grant.of(right, claims))
    return tuple(found)
