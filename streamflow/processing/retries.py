"""How often a failed event is tried, for how long, and how long the waits between are.

An outage is not a bug: what a minute may cure (a connection that is refused, a request that takes too long)
is worth waiting for, what the event itself brings about is not. `Transient` tells them apart by the error's
class, as Kafka's own clients do with their retriable errors.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

from streamflow.errors import ConfigurationError, EventTypeError, ProcessDied, TransientError

TRANSIENT: Final[tuple[type[BaseException], ...]] = (OSError, TimeoutError, TransientError)
"""Errors that a minute may cure, wherever they come from: files, sockets, time limits, open circuits."""
TRANSIENT_S: Final = 60.0
"""For so long an event is tried that fails for such an error, unless `Retry` says otherwise."""
ATTEMPTS: Final = 3
"""So often an event is tried that fails for another."""

_WAIT_S_MAX = 86_400.0
_TOPIC_WAIT_S_MIN = 0.1
_DOUBLINGS_MAX = 64

ErrorTest = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]


class Uniform(Protocol):
    """What a wait asks of a source of chance: `random` itself, or a seeded ``random.Random``."""

    def uniform(self, a: float, b: float) -> float: ...


def is_seconds(value: object) -> bool:
    """Is it a number, as settings have them?"""
    return isinstance(value, int | float) and not isinstance(value, bool)


def error_test(test: ErrorTest, what: str) -> ErrorTest:
    """``test``, if errors can be told by it: an exception class, a tuple of such, or a function of the error.

    Raises ConfigurationError.
    """
    classes = test if isinstance(test, tuple) else (test,)
    are_errors = bool(classes) and all(isinstance(c, type) and issubclass(c, BaseException) for c in classes)
    if not are_errors and (not callable(test) or isinstance(test, type)):
        raise ConfigurationError(
            f"{what}={test!r} must be an exception class, a tuple of them, or a function"
        )
    return test


def is_meant(test: ErrorTest, error: BaseException) -> bool:
    """Is it one of the errors of a test that `error_test` has let through?"""
    if isinstance(test, type | tuple):
        return isinstance(error, test)
    return bool(test(error))


@dataclass(frozen=True, slots=True)
class Retry:
    """How an event that an agent raised for is tried again, at first at its place: later ones of its key .

    It is tried until ``attempts`` (the first one counts: 1 means that nothing is tried again) or ``for_s``
    seconds after its first failure, whichever ends first. With neither, errors that a minute may cure
    (OSError, TimeoutError, aiohttp's ClientError, CircuitOpen, and those of the setting ``transient_errors``)
    are tried for a minute, and all others three times within a second. ``on``: only these errors are tried
    again, for a minute unless ``attempts`` or ``for_s`` says otherwise; an exception class, a tuple of such,
    or a function of the error.

    The waits are exponential: ``first_wait_s``, then twice as long each time, up to ``wait_max_s``. With
    ``jitter`` a wait is random between half of it and all, so that what failed together is tried apart.

    ``topics_s``: when the attempts in place are over (three for all errors, unless ``attempts`` or ``for_s``
    says otherwise), the event waits so many seconds in a retry topic, ``<topic>-retry-5s``, for one more
    attempt; then in the next one. Its partition goes on: the order of its key is given up.
    Raises ConfigurationError.
    """

    attempts: int | None = None
    for_s: float | None = None
    first_wait_s: float = 0.1
    wait_max_s: float = 10
    jitter: bool = True
    on: ErrorTest | None = None
    topics_s: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.attempts is not None and (type(self.attempts) is not int or self.attempts < 1):
            raise ConfigurationError(f"Retry(attempts={self.attempts!r}) must be a whole number from 1 up")
        for name in ("first_wait_s", "wait_max_s", "for_s"):
            wait_s = getattr(self, name)
            if wait_s is None and name == "for_s":
                continue
            if not is_seconds(wait_s) or not 0 <= wait_s <= _WAIT_S_MAX:  # NaN fails every comparison
                raise ConfigurationError(f"Retry({name}={wait_s!r}) must be a number of seconds, 0 to a day")
        if self.on is not None:
            error_test(self.on, "Retry(on")
        _check_waits(self.topics_s)

    def steps(self, topic: str) -> tuple[RetryStep, ...]:
        """The retry topics of this topic, in the order in which an event goes through them."""
        return tuple(
            RetryStep(f"{topic}-retry-{duration(round(wait_s * 1_000))}", round(wait_s * 1_000))
            for wait_s in self.topics_s
        )

    def may_cure(self, error: BaseException) -> bool:
        """May it help to try the event again, however much later?"""
        if isinstance(error, EventTypeError | ProcessDied):
            return False
        return self.on is None or is_meant(self.on, error)

    def is_over(self, error: BaseException, attempts: int, failing_ms: float, transient: Transient) -> bool:
        """Is the event given up, that has failed ``attempts`` times within ``failing_ms``?"""
        if isinstance(error, EventTypeError):
            return True  # an event without a handler has none the next time either
        if self.on is not None and not is_meant(self.on, error):
            return True
        attempts_max, for_s = self.attempts, self.for_s
        if attempts_max is None and for_s is None:
            if not self.topics_s and (self.on is not None or transient.holds(error)):
                for_s = TRANSIENT_S
            else:
                attempts_max = ATTEMPTS
        too_often = attempts_max is not None and attempts >= attempts_max
        return too_often or (for_s is not None and failing_ms >= for_s * 1_000)

    def wait_ms(self, attempt: int, rng: Uniform = random) -> float:
        """How long to wait after the ``attempt``-th one failed (1: the first)."""
        wait_s: float = min(self.wait_max_s, self.first_wait_s * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX))
        return wait_s * 1_000 * (rng.uniform(0.5, 1.0) if self.jitter else 1.0)


class RetryStep(NamedTuple):
    """A retry topic, and how long an event waits there."""

    topic: str
    wait_ms: int


_UNITS_MS: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


def duration(ms: int) -> str:
    """As short as it can be said in one unit: 5s, 90s, 10m, 1h."""
    return next(f"{ms // unit_ms}{name}" for name, unit_ms in _UNITS_MS if ms % unit_ms == 0)


def _check_waits(topics_s: object) -> None:
    """Raises ConfigurationError unless these are the waits of retry topics."""
    if not isinstance(topics_s, tuple | list):
        raise ConfigurationError(
            f"Retry(topics_s={topics_s!r}) must be seconds in a tuple, such as (5, 60, 600)"
        )
    for wait_s in topics_s:
        if not is_seconds(wait_s) or not _TOPIC_WAIT_S_MIN <= wait_s <= _WAIT_S_MAX:
            raise ConfigurationError(
                f"Retry(topics_s={topics_s!r}): {wait_s!r} must be a number of seconds, from 0.1 to a day"
            )
    if any(later <= before for before, later in pairwise(topics_s)):
        raise ConfigurationError(
            f"Retry(topics_s={topics_s!r}): each wait must be longer than the one before it"
        )


@dataclass(frozen=True, slots=True)
class Transient:
    """The errors of one app that a minute may cure: `TRANSIENT`, and ``more``."""

    more: tuple[type[BaseException], ...] = ()

    def holds(self, error: BaseException) -> bool:
        return isinstance(error, (*TRANSIENT, *self.more))


class Failing:
    """Of one event: how often it has failed where it is, and since when."""

    __slots__ = ("attempts", "once", "since_ms")

    def __init__(self, now_ms: float, *, once: bool = False) -> None:
        self.attempts = 0
        self.since_ms = now_ms
        self.once = once  # it has one attempt here

    def again(self) -> Failing:
        """It has failed once more."""
        self.attempts += 1
        return self

    def restart(self, now_ms: float) -> None:
        """What it has failed for was not its own fault, and does not count."""
        self.attempts = 0
        self.since_ms = now_ms
