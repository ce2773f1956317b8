"""What silence raises a watermark to: asked of a summary, it is what looking at all partitions says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamflow.engine.progress_board import ProgressBoard
from streamflow.state.progress import Progress
from streamflow.windows import TumblingWindow

WINDOW = TumblingWindow(1, grace_s=0.5, retain_s=100, idle_close_s=10)
T0_MS = 1_000_000
NOW_MS = 60_000.0
TIMES = st.one_of(st.none(), st.integers(T0_MS, T0_MS + 20_000))
# partition -> (event time, watermark, when it was last seen to move)
BOARDS = st.dictionaries(st.integers(0, 5), st.tuples(TIMES, TIMES, st.integers(45_000, 60_000)), max_size=6)


def plain(
    own: Progress, others: list[tuple[int | None, int | None, int]], silent_ms: float, ends: bool
) -> int | None:
    """The rule, written down."""
    assert WINDOW.idle_close_ms is not None
    if silent_ms < WINDOW.idle_close_ms:
        return None
    silences = [NOW_MS - moved for _, _, moved in others]
    if any(silence < WINDOW.idle_close_ms for silence in silences):
        return max((w for _, w, _ in others if w is not None), default=None)
    events = [e for e in [own.event_ms, *(e for e, _, _ in others)] if e is not None]
    if not events:
        return None
    time_ms = max(events) + int(min([silent_ms, *silences]))
    closes_ms = WINDOW.last_end_of(max(events)) + WINDOW.grace_ms
    if time_ms > closes_ms:
        time_ms = closes_ms + min(time_ms - closes_ms, WINDOW.retain_ms) // 60_000 * 60_000
    if own.watermark_ms is None or time_ms - own.watermark_ms >= 60_000 or ends:
        return time_ms
    return min(time_ms, max((w for _, w, _ in others if w is not None), default=own.watermark_ms))


@given(
    board=BOARDS,
    partitions=st.integers(1, 6),
    own_times=st.tuples(TIMES, TIMES),
    silent_ms=st.integers(8_000, 15_000),
    ends=st.booleans(),
)
def test_a_summary_says_what_all_partitions_say(
    board: dict[int, tuple[int | None, int | None, int]],
    partitions: int,
    own_times: tuple[int | None, int | None],
    silent_ms: int,
    ends: bool,
) -> None:
    known = ProgressBoard()
    for partition, (event_ms, watermark_ms, moved_ms) in board.items():
        seen = Progress("c", "t", partition, position=1, event_ms=event_ms, watermark_ms=watermark_ms)
        known.read(seen.record_key(), seen.record_value(), moved_ms)
    silence = known.silence("c", "t", partitions)
    for partition in range(partitions):
        own = Progress("c", "t", partition, event_ms=own_times[0], watermark_ms=own_times[1])
        others = [of for p, of in board.items() if p != partition and p < partitions]
        told = silence.idle_watermark_ms(own, silent_ms, WINDOW, NOW_MS, lambda *_: ends)
        assert told == plain(own, others, silent_ms, ends)
