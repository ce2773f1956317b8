"""What a seed means: the events, the troubles, and, by an obviously right oracle, what must come out.

Everything here is computed from the seed alone, one event after the other, without the engine.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from streamflow.partitioner import fnv1a
from streamflow.state.stores.base import NO_WINDOW
from streamflow.transports.base import Record
from streamflow.transports.memory import POINTS
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, Window
from tests.property.oracle import Answer, OracleEvent, ask

SOURCES = 3
BASE_MS = 1_700_000_000_000
SIZE_MS, GRACE_MS = 10_000, 3_000
RETAIN_MS = 600_000
HOP_SIZE_MS = 6_000
TYPES = ("click", "view", "order")
EVENTS = "events"
ECHO = "echo"
ECHO_MANY = "echo-many"
ECHO_BATCHES = "echo-batches"
ECHO_LATER = "echo-later"
FLUSH_USER = "flush"
RETRY_WAITS_S = (0.4, 1.5)
"""Of the agent whose events go on to retry topics"""

MOVING = ("sessions", "key_sessions", "slides", "hops", "key_hops")
"""Tables whose rows are made of several windows' events or panes, by type or, by their name, by key."""

Fate = Literal["good", "bad", "flaky", "hopeless"]
"""good; not JSON at all; fails in the agent at its first attempt; fails in it always"""


def moving_window(name: str, idle_close_s: float | None) -> Window:
    """The window of one of `MOVING`."""
    kept = {"grace_s": GRACE_MS / 1_000, "retain_s": RETAIN_MS / 1_000, "idle_close_s": idle_close_s}
    if name.endswith("hops"):
        return HoppingWindow(HOP_SIZE_MS / 1_000, 2.0, **kept)  # type: ignore[arg-type]
    return SlidingWindow(4.0, **kept) if name == "slides" else SessionWindow(2.5, **kept)  # type: ignore[arg-type]


def users_of(partition: int, number: int = 2) -> list[str]:
    """Users whose events belong to this partition."""
    names = (f"u{n}" for n in range(1_000))
    mine = [name for name in names if fnv1a(name.encode(), SOURCES) == partition]
    return mine[:number]


@dataclass(frozen=True)
class SimEvent:
    """One event on its way. ``time_ms`` is its event time."""

    id: str
    partition: int
    user: str
    type: str
    time_ms: int
    fate: Fate = "good"

    @property
    def start(self) -> int:
        return self.time_ms - self.time_ms % SIZE_MS

    @property
    def stubborn(self) -> bool:
        """Does it fail in the first retry topic too, if it fails at all?"""
        return self.time_ms % 2_000 == 0

    def fails_in(self, stage: int) -> bool:
        """Does it fail there: in its topic (0), and in the retry topics behind it?"""
        if self.fate == "flaky":
            return stage == 0 or (stage == 1 and self.stubborn)
        return self.fate == "hopeless"

    def record(self) -> Record:
        value = {"id": self.id, "type": self.type, "timestamp": self.time_ms, "data": {"user": self.user}}
        data = b"{" + self.id.encode() if self.fate == "bad" else orjson.dumps(value)
        return Record(EVENTS, self.partition, self.user.encode(), data)


@dataclass
class Trouble:
    """How a seed's world behaves. Chances are for each passed point, rates for each virtual second."""

    workers: int
    commit_interval_s: float
    idle_close_s: float | None
    control_records: bool
    gap_chance: float
    fetch_records_max: int
    delay_chance: float
    delay_ms_max: float
    visible_ms_max: float
    error_chance: float
    abort_chance: float
    unknown_chance: float
    kill_chance: float
    freeze_chance: float
    freeze_s_max: float
    moves_per_s: float
    compactions_per_s: float
    duration_s: float
    extra: tuple[str, ...]  # agents on the concurrent path beside the one on the in-order path
    focus: str  # the point where kills and freezes come ten times as often as elsewhere
    later: bool = False  # is there an agent whose events go on to retry topics?

    def weight(self, point: str) -> float:
        """How much likelier than usual something strikes here; most passed are the readers' points."""
        if point == self.focus:
            return 10.0
        return 0.3 if point in {"read:before", "fetch:before"} else 1.0

    @classmethod
    def draw(cls, rnd: random.Random) -> Trouble:
        """Most worlds have most troubles, but each is left out of some, so that none hides another."""

        def sometimes(value: float, chance: float = 0.7) -> float:
            return value if rnd.random() < chance else 0.0

        return cls(
            workers=rnd.choice((1, 2, 2, 3)),
            commit_interval_s=rnd.choice((0.1, 0.25, 0.5)),
            idle_close_s=rnd.choice((None, None, 2.0)),
            control_records=rnd.random() < 0.7,
            gap_chance=sometimes(0.1),
            fetch_records_max=rnd.choice((2, 5, 20, 1_000)),
            delay_chance=sometimes(0.3),
            delay_ms_max=rnd.choice((5.0, 50.0, 300.0)),
            visible_ms_max=sometimes(rnd.choice((20.0, 400.0))),
            error_chance=sometimes(0.02),
            abort_chance=sometimes(0.1),
            unknown_chance=sometimes(0.1),
            kill_chance=sometimes(rnd.choice((0.002, 0.01))),
            freeze_chance=sometimes(rnd.choice((0.002, 0.005))),
            freeze_s_max=rnd.choice((1.0, 4.0)),
            moves_per_s=sometimes(0.3),
            compactions_per_s=sometimes(3.0),
            duration_s=rnd.choice((8.0, 15.0)),
            focus=rnd.choice([point for point in POINTS if not point.startswith("send")]),
            extra=rnd.choice(((), ("many",), ("batches",), ("many", "batches"))),
        )


@dataclass
class Expected:
    """What must come out when nothing is idle-ticked. Rows are (start, key) -> value."""

    late: dict[int, int] = field(default_factory=dict)  # partition -> late events of a declared aggregate
    agent_late: dict[int, int] = field(default_factory=dict)
    decodable: dict[int, int] = field(default_factory=dict)
    bad: dict[int, int] = field(default_factory=dict)
    hopeless: dict[int, int] = field(default_factory=dict)
    by_user: dict[tuple[int, str], int] = field(default_factory=dict)  # by each agent
    shared: dict[tuple[int, str], int] = field(default_factory=dict)  # a row of each partition
    by_key: dict[tuple[int, str], int] = field(default_factory=dict)
    by_type: dict[tuple[int, str], int] = field(default_factory=dict)
    totals: dict[tuple[int, None], dict[str, Any]] = field(default_factory=dict)
    moving: dict[str, Answer] = field(default_factory=dict)  # rows are (start, end, key) -> their events
    by_user_later: dict[tuple[int, str], int] = field(default_factory=dict)  # without windows
    later: dict[tuple[int, int], dict[str, int]] = field(
        default_factory=dict
    )  # (stage, partition) -> counters


class Scenario:
    """The events of each partition, in the order in which they lie there, and the seed's troubles."""

    def __init__(self, seed: int, trouble: Trouble | None = None, events: int = 40) -> None:
        self.seed = seed
        rnd = self.dice("scenario")
        self.trouble = trouble if trouble is not None else Trouble.draw(rnd)
        if trouble is None:
            self.trouble = replace(self.trouble, later=self.dice("later").random() < 0.6)
        self.events = [self._partition(rnd, p, events) for p in range(SOURCES)]

    def dice(self, what: str) -> random.Random:
        """A source of its own for each purpose, so that one more draw here changes nothing there."""
        return random.Random(f"{self.seed}:{what}")

    def _partition(self, rnd: random.Random, partition: int, number: int) -> list[SimEvent]:
        users = users_of(partition)
        time_ms = BASE_MS + (0 if partition else 15_000)
        events = []
        for n in range(number):
            time_ms += rnd.choice((0, 1_000, 1_000, 2_000, 5_000))
            behind_ms = rnd.choice((0, 0, 0, 2_000, 4_000, 9_000, 15_000))
            fate: Fate = "good"
            draw = rnd.random()
            if draw < 0.12:
                fate = "bad" if draw < 0.04 else "flaky" if draw < 0.09 else "hopeless"
            time_of_it = max(BASE_MS, time_ms - behind_ms)
            name = f"{partition}-{n}"
            events.append(SimEvent(name, partition, rnd.choice(users), rnd.choice(TYPES), time_of_it, fate))
        return events

    def last_ms(self) -> int:
        return max(event.time_ms for part in self.events for event in part)

    @staticmethod
    def _expect_later(out: Expected, partition: int, events: list[SimEvent]) -> None:
        """What fails comes again in the next topic, and after the last one never."""
        for stage in range(len(RETRY_WAITS_S) + 1):
            failing = [event for event in events if event.fails_in(stage)]
            outcome = "failed" if stage == len(RETRY_WAITS_S) else "deferred"
            counters = {"in": len(events), "counted": len(events) - len(failing), outcome: len(failing)}
            out.later[stage, partition] = {name: n for name, n in counters.items() if n}
            for event in events:
                if not event.fails_in(stage):
                    _add(out.by_user_later, (NO_WINDOW, event.user))
            events = failing

    def flush(self, number: int, time_ms: int) -> list[SimEvent]:
        """One event for each partition that moves its time on. Its key may lie on any partition."""
        return [SimEvent(f"flush-{number}-{p}", p, users_of(p)[0], "flush", time_ms) for p in range(SOURCES)]

    def expected(self, events: list[list[SimEvent]]) -> Expected:
        """Takes the events one by one, as the definition of a late event says."""
        out = Expected()
        totals: defaultdict[tuple[int, None], dict[str, int]] = defaultdict(dict)
        for p, part in enumerate(events):
            decodable = [event for event in part if event.fate != "bad"]
            out.decodable[p] = len(decodable)
            out.bad[p] = len(part) - len(decodable)
            out.late[p] = out.agent_late[p] = out.hopeless[p] = 0
            watermark_ms = -(10**18)
            for event in decodable:
                watermark_ms = max(watermark_ms, event.time_ms)
                late = event.start + SIZE_MS + GRACE_MS <= watermark_ms
                hopeless = event.fate == "hopeless"
                out.hopeless[p] += hopeless
                out.late[p] += late
                out.agent_late[p] += late and not hopeless
                if not hopeless:
                    _add(out.shared, (p, "all"))
                if late:
                    continue
                _add(out.by_key, (event.start, event.user))
                _add(out.by_type, (event.start, event.type))
                _add(totals[event.start, None], event.type)
                if not hopeless:
                    _add(out.by_user, (event.start, event.user))
            self._expect_later(out, p, decodable)
        out.totals = {
            row: {"total_events": sum(types.values()), "event_types": types} for row, types in totals.items()
        }
        for name in MOVING:
            streams = [
                [
                    OracleEvent(
                        event.time_ms, event.user if name.startswith("key_") else event.type, event.id
                    )
                    for event in part
                    if event.fate != "bad"
                ]
                for part in events
            ]
            out.moving[name] = ask(moving_window(name, None), streams)
        return out


def _add(rows: dict[Any, int], row: Any) -> None:
    rows[row] = rows.get(row, 0) + 1
