"""The same random topics through Kafka Streams' own processors and through the engine: the same rows.

For all that comes within the grace, whatever the window. Beyond it Kafka Streams lets an event reopen a
session that it has closed, and loses one whose only sliding window is closed from windows that begin later;
there the engine keeps to the definition (see tests/property).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window
from tests.bench.setups import Unavailable
from tests.property.engine_runs import run_engine
from tests.property.oracle import OracleEvent, ask
from tests.support.kafka_streams import KafkaStreams, kafka_streams

T0_MS = 1_760_000_000_000
SEEDS = 150  # through the definition, of which every tenth goes through the engine too


@pytest.fixture(scope="module")
def judge() -> Iterator[KafkaStreams]:
    try:
        with kafka_streams() as running:
            yield running
    except Unavailable as exc:
        pytest.skip(f"no Kafka Streams: {exc}")


def drawn(
    kind: str, seed: int, *, beyond_grace: bool
) -> tuple[Window, dict[str, int], list[tuple[int, str]]]:
    dice = random.Random(f"{kind}:{seed}")
    size = dice.choice((2, 5, 10, 17))  # Kafka Streams can't do a sliding window of 1 ms
    step, grace = dice.randint(1, size), dice.choice((0, 1, 3, 20))
    times = {"grace_s": grace / 1_000, "retain_s": 10**6, "idle_close_s": None}
    windows: dict[str, Window] = {
        "tumbling": TumblingWindow(size / 1_000, **times),  # type: ignore[arg-type]  # mixed
        "hopping": HoppingWindow(size / 1_000, step / 1_000, **times),  # type: ignore[arg-type]  # mixed
        "sliding": SlidingWindow(size / 1_000, **times),  # type: ignore[arg-type]  # mixed
        "session": SessionWindow(size / 1_000, **times),  # type: ignore[arg-type]  # mixed
    }
    time_ms = mark = T0_MS
    events = []
    for _ in range(60):
        time_ms += dice.choice((0, 0, 1, 1, 2, 3, 7, 12, 40))
        later = (grace + 1, grace + size, grace + size + 1, 60) if beyond_grace else ()
        at = time_ms - dice.choice((0, 0, 0, 1, 2, 5, grace, *later))
        mark = max(mark, at)
        if not beyond_grace:
            at = max(at, mark - grace)
        events.append((at, dice.choice("abc")))
    return windows[kind], {"size_ms": size, "grace_ms": grace, "step_ms": step}, events


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kind, beyond_grace",
    [
        ("tumbling", False),
        ("tumbling", True),
        ("hopping", False),
        ("hopping", True),
        ("sliding", False),
        ("session", False),
    ],
)
def test_kafka_streams_and_the_engine_make_the_same_rows(
    judge: KafkaStreams, kind: str, beyond_grace: bool
) -> None:
    for seed in range(SEEDS):
        window, times, events = drawn(kind, seed, beyond_grace=beyond_grace)
        theirs = judge.counts(kind, events, **times)
        taken = [OracleEvent(t, key, 0) for t, key in events]
        active = {at: len(values) for at, values in ask(window, [taken]).rows.items()}
        assert theirs == active, f"seed {seed}: {window} of {events}"
        if seed % 10 == 0:
            run = run_engine(window, [taken], seed)
            for by in ("key", "field"):
                found = {(s, e, key[-1]): value["n"] for (s, e, key), value in run.rows[by].items()}
                assert theirs == found, f"seed {seed}, by {by}: {window} of {events}"
