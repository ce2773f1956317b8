"""Closed and expired windows leave memory, the stores and the logs."""

from __future__ import annotations

from streamflow.aggregates.late_events import EVENTS_MAX
from tests.soak.retention import KEPT_WINDOWS, PARTITIONS, SHOPS, soak


async def test_what_stays_is_bounded_by_the_retention_and_not_by_the_time() -> None:
    samples = await soak(400_000, 10_000, samples=8)
    assert len(samples) == 8
    late_kept = PARTITIONS * 2 * EVENTS_MAX
    # Rows of the key, partials of each source partition in the final stage: all of the windows that are kept,
    # and those that one chunk of events opens and no checkpoint has closed yet.
    open_windows = 10_000 * 10_000 // 400_000
    windows = KEPT_WINDOWS + 2 * open_windows
    bound = windows * (PARTITIONS + PARTITIONS * SHOPS * 2) + late_kept + 100
    for sample in samples:
        assert sample.rows <= bound
        # Every row has its record, and a partial has two until its window closes.
        assert sample.live <= 2 * bound
    assert samples[-1].late > 500
    # As many rows at the end as after a quarter, though four times as many windows have gone by.
    assert samples[-1].rows - samples[-1].late <= samples[1].rows * 1.2
    first, last = samples[3].memory_bytes, samples[-1].memory_bytes
    assert last - first < 30_000_000, f"{first} bytes half way, {last} at the end"
