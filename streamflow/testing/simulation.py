"""An event loop whose time is virtual, so that a whole cluster runs in one thread, the same way each time.

When nothing is ready the loop jumps to its next timer. Tasks can belong to an *owner*, a simulated
process, which the loop can freeze (SIGSTOP), thaw (SIGCONT) and kill (SIGKILL: nothing of it runs any
more, no ``finally`` either). With a seed, the order in which owners get their turns is shuffled;
within an owner it stays as asyncio has it. There is no I/O: no sockets, no threads, no signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

CLEAN_UP_STEPS = 100_000

_owner: contextvars.ContextVar[str | None] = contextvars.ContextVar("simulated_process", default=None)


class SimulationError(Exception):
    """The simulated program can't go on, or does not end."""


class Deadlock(SimulationError):
    """Nothing is ready and no timer is set, but the program is not done."""


class Endless(SimulationError):
    """The program has used up its steps or its time."""


class SimulationLoop(asyncio.BaseEventLoop):
    """See the module. ``steps_max`` and ``time_max_s`` bound a run, in callbacks and virtual seconds."""

    # What the base class keeps, and its own methods fill: handles to be run, and a heap of timers.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(
        self, seed: int | None = None, *, steps_max: int = 5_000_000, time_max_s: float = 100_000.0
    ) -> None:
        super().__init__()
        self._random = random.Random(seed) if seed is not None else None
        self._now_s = 0.0
        self._steps_left = steps_max
        self._time_max_s = time_max_s
        self._frozen: dict[str, list[asyncio.Handle]] = {}  # owner -> what waits until it is thawed
        self._killed: set[str] = set()
        self._owned: dict[str, dict[asyncio.Task[Any], None]] = {}  # owner -> its tasks, oldest first
        self.errors: list[dict[str, Any]] = []  # what asyncio reports: exceptions that nobody took
        self.set_exception_handler(lambda _, context: self.errors.append(context))
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self._now_s

    def limit(self, steps_max: int, time_max_s: float) -> None:
        """So many callbacks more at most, and until then."""
        self._steps_left = steps_max
        self._time_max_s = time_max_s

    # Simulated processes

    @property
    def owner(self) -> str | None:
        """The simulated process that is running now."""
        return _owner.get()

    @contextlib.contextmanager
    def owned_by(self, owner: str) -> Iterator[None]:
        """Tasks created inside belong to ``owner``, and so does what they create."""
        token = _owner.set(owner)
        try:
            yield
        finally:
            _owner.reset(token)

    def freeze(self, owner: str) -> None:
        """Nothing of the owner runs until `thaw`; its timers wait with it. Takes effect at its next await."""
        self._frozen.setdefault(owner, [])

    def thaw(self, owner: str) -> None:
        self._ready.extend(self._frozen.pop(owner, ()))

    def kill(self, owner: str) -> None:
        """Nothing of the owner ever runs again. Takes effect at its next await."""
        self._killed.add(owner)
        self._frozen.pop(owner, None)
        for task in self._owned.get(owner, {}):
            _leave_pending(task)

    def alive(self, owner: str) -> bool:
        return owner not in self._killed

    def bury(self) -> None:
        """Closes what was killed. At the end of a run: its ``finally`` blocks see a world that is over."""
        for owner in self._killed:
            for task in self._owned.pop(owner, {}):
                if not task.done():
                    with contextlib.suppress(BaseException):
                        task.get_coro().close()

    # What the base class calls

    def _run_once(self) -> None:
        """One round: all that is ready now, and the timers that are due."""
        if not self._ready:
            self._jump()
        while self._scheduled and self._scheduled[0].when() <= self._now_s:
            self._ready.append(self._pop_timer())
        for handle in self._turns():
            owner = handle._context.get(_owner)  # type: ignore[attr-defined]  # no public name for it
            if handle.cancelled() or owner in self._killed:
                continue
            if owner is not None and owner in self._frozen:
                self._frozen[owner].append(handle)
                continue
            self._steps_left -= 1
            if self._steps_left < 0:
                raise Endless(f"still running at {self._now_s:.3f} s")
            handle._run()

    def _turns(self) -> list[asyncio.Handle]:
        """What is ready, in the order in which it runs: each owner's own order kept, owners interleaved."""
        ready = list(self._ready)
        self._ready.clear()
        if self._random is None or len(ready) < 2:
            return ready
        queues: dict[str | None, deque[asyncio.Handle]] = {}
        for handle in ready:
            owner = handle._context.get(_owner)  # type: ignore[attr-defined]  # no public name for it
            queues.setdefault(owner, deque()).append(handle)
        order = [owner for owner, queue in queues.items() for _ in queue]
        if len(queues) > 1:
            self._random.shuffle(order)
        return [queues[owner].popleft() for owner in order]

    def _pop_timer(self) -> asyncio.TimerHandle:
        timer = heapq.heappop(self._scheduled)
        timer._scheduled = False  # type: ignore[attr-defined]  # as the base class does
        return timer

    def _jump(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            self._pop_timer()
        if not self._scheduled:
            waiting = sorted(task.get_name() for task in asyncio.all_tasks(self))
            raise Deadlock(
                f"at {self._now_s:.3f} s nothing can happen any more; waiting: {', '.join(waiting)}"
            )
        self._now_s = max(self._now_s, self._scheduled[0].when())
        if self._now_s > self._time_max_s:
            raise Endless(f"not done after {self._now_s:.3f} s")

    def _process_events(self, event_list: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]  # the base class is loosely typed
        """Runs it at once, in this thread: a simulation has no other."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as exc:  # noqa: BLE001  # the future hands it on
            future.set_exception(exc)
        return future


def _leave_pending(task: asyncio.Task[Any]) -> None:
    """It may be destroyed while it waits: no warning."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio has no public name for it


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    assert isinstance(loop, SimulationLoop)
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
    context = options.get("context")
    owner = _owner.get() if context is None else context.get(_owner)
    if owner is not None:
        # Held until it is done: what was killed must not be collected, for that would run its `finally`.
        mine = loop._owned.setdefault(owner, {})
        mine[task] = None
        task.add_done_callback(lambda done: mine.pop(done, None))
        if not loop.alive(owner):
            _leave_pending(task)
    return task


def run_simulation(
    main: Callable[[SimulationLoop], Coroutine[Any, Any, T]],
    seed: int | None = None,
    *,
    steps_max: int = 5_000_000,
    time_max_s: float = 100_000.0,
) -> T:
    """Runs ``main`` on a new `SimulationLoop` to its end and returns its result.

    Raises Deadlock or Endless where it has none, and SimulationError where a task died unheard.
    """
    loop = SimulationLoop(seed, steps_max=steps_max, time_max_s=time_max_s)
    try:
        result = loop.run_until_complete(main(loop))
        heard = list(loop.errors)
    finally:
        _clean_up(loop)
    if heard:
        raise SimulationError(heard[0]["message"]) from heard[0].get("exception")
    return result


def _clean_up(loop: SimulationLoop) -> None:
    """Ends what is left, so that nothing of it wakes up in a later test. What it raises no longer matters."""
    loop.limit(CLEAN_UP_STEPS, loop.time() + 1.0)
    loop.bury()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    with contextlib.suppress(SimulationError):
        loop.call_later(0.5, loop.stop)
        loop.run_forever()
    for task in asyncio.all_tasks(loop):
        _leave_pending(task)  # buried, or deaf to being cancelled
    loop.close()
