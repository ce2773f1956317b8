"""Where code stands: of a thread that runs, and of a task that waits."""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
from collections.abc import Iterator
from types import FrameType

FRAMES_MAX = 25
LOOP = ("asyncio/events.py", "asyncio\\events.py", "asyncio/runners.py", "asyncio\\runners.py")
"""Files whose frames, and all outside of them, are the event loop's and tell nothing."""
AWAITED = ("cr_await", "gi_yieldfrom", "ag_await")
FRAMES = ("cr_frame", "gi_frame", "ag_frame")


def stack_of_thread(ident: int) -> str:
    """What the thread runs now, without the event loop around it; the innermost call last."""
    frame = sys._current_frames().get(ident)
    if frame is None:
        return ""
    stack = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
    inner = list(stack)
    for depth, each in enumerate(inner):
        if each.filename.endswith(LOOP):
            inner = inner[:depth]
            break
    return _text(inner[:FRAMES_MAX][::-1])


def stack_of_task(task: asyncio.Task[None] | None) -> str:
    """Where a task waits; the innermost call last. Empty for one that has ended, or runs."""
    if task is None or task.done():
        return ""
    walked = [(frame, frame.f_lineno) for frame in _awaited(task.get_coro())]
    stack = traceback.StackSummary.extract(iter(walked), lookup_lines=False)
    return _text(list(stack)[-FRAMES_MAX:])


def _awaited(awaited: object) -> Iterator[FrameType]:
    """The frames of what awaits, outermost first."""
    for _ in range(10 * FRAMES_MAX):
        frame = next((f for name in FRAMES if (f := getattr(awaited, name, None)) is not None), None)
        if frame is not None:
            yield frame
            inner = next((a for name in AWAITED if (a := getattr(awaited, name, None)) is not None), None)
        else:
            # What steps through an async generator does not say through which.
            inner = next((each for each in gc.get_referents(awaited) if hasattr(each, "ag_frame")), None)
        if inner is None:
            return
        awaited = inner


def _text(frames: list[traceback.FrameSummary]) -> str:
    return "".join(traceback.StackSummary.from_list(frames).format()).rstrip()
