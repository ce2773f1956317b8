"""Who takes part, and the command that starts each."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.bench.setups import kafka_streams_class_path, quix_python

RULER = "hand_written"
REDIS_RULER = "redis_hand_written"
REDIS_PRODUCING_RULER = "redis_packed"
REDIS_EVENTS_MAX = 300_000  # they all lie in the server's memory
CHEAP_ROUNDS = 5
PROGRAMS = "tests.bench.programs"


@dataclasses.dataclass(frozen=True)
class Contestant:
    """``grouping``: what it counts by (key, type, window); ``events_max``: where more would take too long."""

    name: str
    title: str
    guarantee: str
    command: Callable[[], list[str]]  # raises setups.Unavailable
    grouping: str = "key"
    events_max: int | None = None
    rounds: int = 1
    server: str = "kafka"  # or redis
    ruler: str = RULER
    produces: bool = False  # it writes the events, and counts what the server then has


def contestants() -> list[Contestant]:
    """In the order of the table. The cheap ones run often: a round is short and the machine is shared."""
    return [
        Contestant(
            RULER,
            "hand-written: aiokafka getmany, msgspec, dict",
            "at least once",
            lambda: python("hand_written"),
            rounds=CHEAP_ROUNDS,
        ),
        Contestant(
            "hand_written_lean",
            "the same, decoding nothing but the timestamp",
            "at least once",
            lambda: [*python("hand_written"), "--only-time"],
            rounds=CHEAP_ROUNDS,
        ),
        *streamflow_contestants(),
        Contestant(
            "kafka_streams_memory",
            "Kafka Streams, 1 thread, in memory",
            "at least once",
            lambda: kafka_streams("memory", "at_least_once"),
        ),
        Contestant(
            "kafka_streams_rocksdb",
            "Kafka Streams, 1 thread, RocksDB",
            "exactly once v2",
            lambda: kafka_streams("rocksdb", "exactly_once_v2"),
        ),
        Contestant(
            "quix_streams",
            "Quix Streams, tumbling count, RocksDB",
            "at least once",
            lambda: [quix_python(), "-m", f"{PROGRAMS}.quix_streams"],
            events_max=100_000,
        ),
        Contestant(
            "stock_faust",
            "stock Faust, memory store, tumbling table",
            "at least once",
            lambda: faust_worker("stock_faust"),
            events_max=20_000,
        ),
        *redis_contestants(),
    ]


def streamflow_contestants() -> list[Contestant]:
    return [
        Contestant(
            "streamflow_agent",
            "streamflow: async for, windowed table",
            "exactly once",
            lambda: faust_worker("streamflow_agent"),
            rounds=CHEAP_ROUNDS,
        ),
        Contestant(
            "streamflow_agent_expires",
            "streamflow: the same, windows open for 10 s",
            "exactly once",
            lambda: faust_worker("streamflow_agent_expires"),
            rounds=CHEAP_ROUNDS,
        ),
        Contestant(
            "streamflow_record",
            "streamflow: the same with a Record of Faust's",
            "exactly once",
            lambda: faust_worker("streamflow_record"),
            rounds=CHEAP_ROUNDS,
        ),
        Contestant(
            "streamflow_key",
            "streamflow: app.aggregate by Key()",
            "exactly once",
            lambda: faust_worker("streamflow_key"),
            rounds=CHEAP_ROUNDS,
        ),
        Contestant(
            "streamflow_field",
            'streamflow: app.aggregate by "type"',
            "exactly once",
            lambda: faust_worker("streamflow_field"),
            grouping="type",
            rounds=CHEAP_ROUNDS,
        ),
        Contestant(
            "streamflow_window",
            "streamflow: app.aggregate by None",
            "exactly once",
            lambda: faust_worker("streamflow_window"),
            grouping="window",
            rounds=CHEAP_ROUNDS,
        ),
    ]


def redis_contestants() -> list[Contestant]:
    """The same count on Redis Streams, beside the loop by hand there; and the writing of the events."""
    counting = [
        (REDIS_RULER, "Redis, hand-written: XREADGROUP, msgspec, dict, XACK", "at least once", True),
        ("redis_streamflow_agent", "Redis, streamflow: async for, windowed table", "exactly once", False),
        ("redis_streamflow_key", "Redis, streamflow: app.aggregate by Key()", "exactly once", False),
    ]
    producing = [
        (REDIS_PRODUCING_RULER, "Redis, producing: packed XADD by hand", "--packed"),
        ("redis_producing", "Redis, producing: streamflow's transport", "--streamflow"),
    ]
    shared: dict[str, Any] = {"events_max": REDIS_EVENTS_MAX, "rounds": CHEAP_ROUNDS, "server": "redis"}
    found = []
    for name, title, guarantee, by_hand in counting:
        start = partial(python, name) if by_hand else partial(faust_worker, name.removeprefix("redis_"))
        found.append(Contestant(name, title, guarantee, start, ruler=REDIS_RULER, **shared))
    for name, title, option in producing:
        start = partial(python, "redis_produce", option)
        active = Contestant(name, title, "acknowledged", start, ruler=REDIS_PRODUCING_RULER, **shared)
        found.append(dataclasses.replace(active, produces=True))
    return found


def python(program: str, *options: str) -> list[str]:
    return [sys.executable, "-m", f"{PROGRAMS}.{program}", *options]


def faust_worker(program: str) -> list[str]:
    return [sys.executable, "-m", "faust", "-A", f"{PROGRAMS}.{program}", "worker", "-l", "info"]


def kafka_streams(store: str, guarantee: str) -> list[str]:
    class_path = kafka_streams_class_path()
    java = shutil.which("java") or "java"
    return [java, "-Xmx2g", "-cp", class_path, "WindowedCount", store, guarantee]
