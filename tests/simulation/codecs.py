"""The plainest codec of events: JSON objects with their time in ``timestamp``. Keys are text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from streamflow.codecs import KeyCodec
from streamflow.engine.decoding import TopicSource
from streamflow.errors import DecodeError
from streamflow.transports.base import Batch
from tests.simulation.scenario import EVENTS, SOURCES

Bad = tuple[int, DecodeError]


class JsonEvent:
    name = "json"
    time_field = "timestamp"

    def decode_column(
        self, values: Sequence[bytes | None], timestamps_ms: Sequence[int]
    ) -> tuple[list[Any], list[int], list[Bad]]:
        """Events, their times, and (index, why) of what is none; such have ``None`` and the record's time."""
        events: list[Any] = []
        times_ms: list[int] = []
        bad: list[Bad] = []
        for index, (value, stamp_ms) in enumerate(zip(values, timestamps_ms, strict=True)):
            try:
                event = orjson.loads(value or b"")
                events.append(event)
                times_ms.append(event["timestamp"])
            except orjson.JSONDecodeError as exc:
                bad.append((index, DecodeError("not-json", str(exc))))
                events.append(None)
                times_ms.append(stamp_ms)
        return events, times_ms, bad

    def decode_batch(self, batch: Batch) -> tuple[list[Any], list[int], list[Bad]]:
        return self.decode_column(batch.values, batch.timestamps_ms)

    def lies_in_free_json(self, path: str) -> bool:
        """Whatever is asked for."""
        return True

    def project(self, paths: Sequence[str]) -> None:
        """Whole events always."""
        return


def type_of(event: dict[str, Any]) -> str:
    found: str = event["type"]
    return found


def source() -> TopicSource:
    return TopicSource(EVENTS, KeyCodec(str), JsonEvent(), SOURCES)  # type: ignore[arg-type]  # plainer than the real ones
