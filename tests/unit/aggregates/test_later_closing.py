"""A final stage whose own commit comes back late, behind what the log says of the next owner's closing."""

from __future__ import annotations

import orjson

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.aggregates.shuffle.partial import partial_key
from streamflow.aggregates.spec import AggregateSpec
from streamflow.state.cut import Cut
from streamflow.transports.base import Batch, Record
from streamflow.windows import TumblingWindow


def read(stage: FinalStage, key: bytes, value: bytes) -> None:
    offset = stage.position
    stage.read(
        Batch("shuffle", 0, range(offset, offset + 1), [key], [value], [0], None, offset + 1, offset + 1)
    )


def watermark(stage: FinalStage, time_ms: int) -> None:
    read(stage, orjson.dumps(["watermarks", 0]), orjson.dumps([[0, time_ms, time_ms, 0]]))


def test_what_another_has_closed_since_stays_closed() -> None:
    spec = AggregateSpec("t", "events", "type", TumblingWindow(1), RowFunctions(Count()))
    stage = FinalStage(
        spec, "shuffle", 0, 1, lambda start, group, state: Record("closed", 0, None, str(start).encode())
    )
    stage.begin(0)
    read(stage, partial_key(0, "click", 0), b"1")
    read(stage, partial_key(0, "click", 1_000), b"1")
    watermark(stage, 1_000)
    late, later = Cut(0.0), Cut(0.0)
    stage.cut(late)
    assert [record.value for record in late.closed] == [b"0"]
    # It stands still in the commit. Another one has its partition, closes both, and is gone again.
    watermark(stage, 2_000)
    read(stage, orjson.dumps(["closed"]), orjson.dumps({"closed_to_ms": 2_000}))
    stage.committed({})
    assert stage.closed_to_ms == 2_000
    stage.hold()
    stage.begin(stage.position)
    watermark(stage, 3_000)
    stage.cut(later)
    assert [record.value for record in later.closed] == []
