"""A circuit breaker: calls of a service that keeps failing are refused at once, until it may be well again.

As M. Nygard has it in "Release It!" (2007): closed, everything passes and failures are counted; open, nothing
passes; half-open, a few try whether it is well.
"""

from __future__ import annotations

import inspect
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, Self, TypeVar

from streamflow.clock import Clock, SystemClock
from streamflow.errors import CircuitOpen, ConfigurationError
from streamflow.processing.retries import ErrorTest, error_test, is_meant, is_seconds

logger = logging.getLogger(__name__)

CircuitState = Literal["closed", "half-open", "open"]
STATE_NUMBERS: Final[dict[CircuitState, int]] = {"closed": 0, "half-open": 1, "open": 2}
"""What the metric ``circuit_state`` says"""
SECONDS_MAX: Final = 86_400.0

COUNTED: Final = "_counted_by_circuit_breakers"
"""In an error's ``__dict__``: how often each breaker has counted it, and nobody has met it since"""

P = ParamSpec("P")
R = TypeVar("R")

_all: weakref.WeakSet[CircuitBreaker] = weakref.WeakSet()


class Call:
    """Something that began in this era; ``inner``: within another, whose place it shares.

    ``counted``: the error of a call within it that has failed.
    """

    __slots__ = ("counted", "era", "inner")

    def __init__(self, era: int, *, inner: bool) -> None:
        self.era = era
        self.inner = inner
        self.counted: BaseException | None = None

    def note(self, error: BaseException) -> None:
        """What it is around has failed, and that was counted."""
        self.counted = error

    def has_counted(self, error: BaseException) -> bool:
        """Does it fail for what was counted within it?"""
        return self.counted is not None and any(each is self.counted for each in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """It, and what it was raised for."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__


class CircuitBreaker:
    """Opens after ``failures_max`` failures within ``window_s``, then refuses everything with CircuitOpen.

    After ``open_s`` it is half-open: ``probes_max`` at a time may try. The first that succeeds closes it; one
    that fails opens it anew.

    A context manager (``async with breaker:`` and ``with breaker:``), and a decorator of functions and
    coroutine functions. As ``breaker=`` of an agent it pauses the agent's partitions while it is open instead
    of failing their events; what it lets through again begins with the event that failed. A failure counts
    once, however many of these it passes on its way out: calls within calls, and the agent around them.

    ``on``: the errors that count, as in `Retry`; by default each Exception, and for an agent each that a
    minute may cure. Others are neither a failure nor a success. It belongs to one event loop. Raises
    ConfigurationError.
    """

    def __init__(
        self,
        name: str,
        failures_max: int = 5,
        window_s: float = 60,
        open_s: float = 30,
        probes_max: int = 1,
        *,
        on: ErrorTest | None = None,
        clock: Clock | None = None,
    ) -> None:
        for what, count in (("failures_max", failures_max), ("probes_max", probes_max)):
            if type(count) is not int or count < 1:
                raise ConfigurationError(
                    f"CircuitBreaker({name!r}, {what}={count!r}) must be a whole number from 1 up"
                )
        for what, seconds in (("window_s", window_s), ("open_s", open_s)):
            if not is_seconds(seconds) or not 0 < seconds <= SECONDS_MAX:
                raise ConfigurationError(
                    f"CircuitBreaker({name!r}, {what}={seconds!r}) must be a number of seconds, up to a day"
                )
        self.name = name
        self.on = None if on is None else error_test(on, f"CircuitBreaker({name!r}, on")
        self.open_s = open_s
        self._failures_max = failures_max
        self._window_ms = window_s * 1_000
        self._probes_max = probes_max
        self._clock: Clock = clock or SystemClock()
        self._failed_ms: deque[float] = deque(maxlen=failures_max)
        self._opened_ms: float | None = None
        self._told: CircuitState = "closed"
        self._probes = 0  # on their way while it is half-open
        self._era = 0  # how often it has opened: what began before is no probe
        self._listeners: list[Callable[[CircuitBreaker, CircuitState], object]] = []
        # Of each task: what it is within, outermost first
        self._begun: ContextVar[tuple[Call, ...]] = ContextVar(f"circuit breaker {name}", default=())
        _all.add(self)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r}: {self.state}>"

    @property
    def state(self) -> CircuitState:
        if self._opened_ms is None:
            state: CircuitState = "closed"
        else:
            state = "open" if self.open_for_ms() > 0 else "half-open"
        self._tell(state)
        return state

    def open_for_ms(self) -> float:
        """How long it stays open yet; 0 where it is not."""
        if self._opened_ms is None:
            return 0.0
        return max(0.0, self._opened_ms + self.open_s * 1_000 - self._clock.monotonic_ms())

    def on_change(
        self, listener: Callable[[CircuitBreaker, CircuitState], object]
    ) -> Callable[[CircuitBreaker, CircuitState], object]:
        """Calls it with the breaker and the new state from now on; a decorator, too."""
        self._listeners.append(listener)
        return listener

    def keep_time_by(self, clock: Clock) -> None:
        """From now on. An agent's breaker goes by the clock of its app, which a test may move."""
        self._clock = clock

    # -- who is let through -------------------------------------------------------------------------

    def enter(self) -> int:
        """Something begins; what comes of it, `leave` is to be told, with what this returns.

        Raises CircuitOpen.
        """
        state = self.state
        if state == "closed":
            return self._era
        if state == "open" or self._probes >= self._probes_max:
            raise CircuitOpen(self.name, max(self.open_for_ms(), 100.0) / 1_000)
        self._probes += 1
        return self._era

    def leave(self, era: int, error: BaseException | None) -> None:
        """What began at `enter` is over, with this error or none."""
        if error is None:
            self.succeeded(era)
        elif self.counts(error):
            self.failed(era)
        elif era == self._era:
            self._probes = max(0, self._probes - 1)

    def counts(self, error: BaseException) -> bool:
        """Is it a failure? A call that was cancelled, or refused here, says nothing of the service."""
        if isinstance(error, CircuitOpen) or not isinstance(error, Exception):
            return False
        return self.on is None or is_meant(self.on, error)

    def met(self, error: BaseException) -> bool:
        """Has it counted this error, or what it was raised for? Once asked, that is forgotten."""
        for each in _chain(error):
            counted: dict[CircuitBreaker, int] = vars(each).get(COUNTED, {})
            if counted.get(self):
                counted[self] -= 1
                return True
        return False

    def succeeded(self, era: int) -> None:
        """Something that began in this era came well. Only a probe's success closes what is open."""
        if self._opened_ms is not None and era == self._era and self.state == "half-open":
            self._opened_ms = None
            self._probes = 0
            self._failed_ms.clear()
            self._tell("closed")

    def failed(self, era: int | None = None) -> None:
        """Something failed that began in this era (``None``: in the present one)."""
        if era is not None and era != self._era:
            return  # it began before the circuit opened, which has counted enough of those
        now_ms = self._clock.monotonic_ms()
        if self._opened_ms is None:
            self._failed_ms.append(now_ms)
            full = len(self._failed_ms) == self._failures_max
            if not full or now_ms - self._failed_ms[0] > self._window_ms:
                return
        elif self.state == "open":
            return
        self._opened_ms = now_ms
        self._era += 1
        self._probes = 0
        self._tell("open")

    @property
    def era(self) -> int:
        """What `succeeded` and `failed` are told with for what begins now."""
        return self._era

    def _tell(self, state: CircuitState) -> None:
        if state == self._told:
            return
        self._told = state
        logger.log(
            logging.WARNING if state == "open" else logging.INFO,
            "circuit breaker %s is %s%s",
            self.name,
            state,
            f" for {self.open_s:g} s" if state == "open" else "",
        )
        for listener in self._listeners:
            listener(self, state)

    # -- around a call ------------------------------------------------------------------------------

    def __call__(self, fun: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(fun):

            @wraps(fun)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self:
                    return await fun(*args, **kwargs)

            return awaited  # type: ignore[return-value]  # R is a coroutine here

        @wraps(fun)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return fun(*args, **kwargs)

        return called

    def __enter__(self) -> Self:
        begun = self._begun.get()
        # Within a call that tries the service it is part of that: there may be no other place.
        inner = bool(begun) and begun[-1].era == self._era and self.state == "half-open"
        self._begun.set((*begun, Call(self._era if inner else self.enter(), inner=inner)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        *outer, call = self._begun.get()
        self._begun.set(tuple(outer))
        if error is not None and self.counts(error):
            if not call.has_counted(error):
                self.failed(call.era)
                # The error goes on to whoever is around: who counts here as well is to know it again.
                counted: dict[CircuitBreaker, int] = vars(error).setdefault(COUNTED, {})
                counted[self] = counted.get(self, 0) + 1
            if outer:
                outer[-1].note(error)
        elif error is None or not call.inner:
            self.leave(call.era, error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def circuit_states() -> dict[str, CircuitState]:
    """Name -> state of each circuit breaker of this process; of several with one name the worst."""
    worst: dict[str, CircuitState] = {}
    for breaker in sorted(_all, key=lambda breaker: breaker.name):
        before = worst.get(breaker.name, "closed")
        worst[breaker.name] = max(before, breaker.state, key=lambda state: STATE_NUMBERS[state])
    return worst
