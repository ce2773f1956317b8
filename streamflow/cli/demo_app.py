"""What `streamflow demo` runs: the tables of ``agents/events.py``, and somebody who makes events."""

from __future__ import annotations

import math
import os
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from streamflow.aggregates import Count, CountBy
from streamflow.app.app import App
from streamflow.app.faust_names import StreamT
from streamflow.app.topics.topic import Topic
from streamflow.cli.apps import override
from streamflow.clock import EPOCH, SystemClock
from streamflow.codecs.event import Event
from streamflow.windows import TumblingWindow

# Names of their own: the demo may run on somebody's Kafka.
APP_ID = "demo"
TOPIC = "demo-events"
CLOSED_TOPIC = "demo-window-results"
PARTITIONS = 6
RETAIN_S = 3_600
DEFAULT_WINDOW_S = 10.0
WINDOW_S = float(os.environ.get("STREAMFLOW_WINDOW_S", DEFAULT_WINDOW_S))

TICK_S = 0.1
SWELL_S = 60.0  # the rate rises and falls by a third with this period
USERS = tuple(
    "ann ben cleo dan eva finn gina hugo ines jack kira liam mona nico olga paul quin rosa sam tina "  # noqa: SIM905
    "uma vito wanda xara yuri zoe adam bea carl dora emil fred greta hans ida jonas".split()
)
# The busiest user sends fifteen times as much as the last.
WEIGHTS = [1 / (1 + 0.4 * place) for place in range(len(USERS))]
TYPES = {"page_view": 58, "search": 17, "user_action": 14, "purchase": 6, "system_event": 4, "error": 1}
PAGES = ("/", "/shop", "/shop/lamps", "/shop/chairs", "/cart", "/help")


def app_id(window_s: float) -> str:
    """Rows of another window size are another app's: what is kept from the last time may have one."""
    return APP_ID if window_s == DEFAULT_WINDOW_S else f"{APP_ID}-{window_s:g}s"


def make_app(rate: float, broker: str | None = None, *, default_broker: str = "memory://") -> App:
    """The demo's app; ``rate`` is events per second, 0 for none.

    ``broker`` is what the command line says, ``default_broker`` what holds where nobody says anything.
    """
    app = App(
        app_id(WINDOW_S),
        broker=default_broker,
        topic_partitions=PARTITIONS,
        redis_trim="slowest_group",  # it may run for days
    )
    override(app, broker=broker)
    events = app.topic(TOPIC, key_type=str, value_type=Event, partitions=PARTITIONS, retention=RETAIN_S)
    closed = app.topic(CLOSED_TOPIC, partitions=1, retention=RETAIN_S)
    window = TumblingWindow(size_s=WINDOW_S, retain_s=RETAIN_S)
    events_by_user: Any = app.Table("events_by_user", default=int, window=window)

    @app.agent(events)
    async def count_by_user(stream: StreamT[Event]) -> None:
        async for user, _ in stream.items():  # noqa: PERF102  # a stream, not a dict
            events_by_user[user] += 1

    app.aggregate("events_by_type", events, by="type", window=window, values=Count())
    app.aggregate(
        "window_totals",
        events,
        by=None,
        window=window,
        values={"total_events": Count(), "event_types": CountBy("type")},
        emit_closed=closed,
    )

    async def generate() -> None:
        if rate > 0:
            await Generator(events, rate).run()

    app.task(generate)
    return app


class Generator:
    """Sends realistic events through the app's own topic, at a rate that swells and ebbs."""

    def __init__(self, topic: Topic, rate: float) -> None:
        self._topic = topic
        self._rate = rate
        self._clock = SystemClock()
        self._random = random.Random()
        self._number = 0
        self._run = f"{self._random.getrandbits(32):08x}"

    async def run(self) -> None:
        last_ms = self._clock.monotonic_ms()
        owed = 0.0
        while True:
            await self._clock.sleep_ms(TICK_S * 1_000)
            now_ms = self._clock.monotonic_ms()
            swell = 1 + math.sin(now_ms / 1_000 * 2 * math.pi / SWELL_S) / 3
            owed += self._rate * swell * self._random.uniform(0.8, 1.2) * (now_ms - last_ms) / 1_000
            last_ms = now_ms
            while owed >= 1:
                owed -= 1
                event = self.event()
                await self._topic.send(key=event.data["user"], value=event)

    def event(self) -> Event:
        self._number += 1
        kind = self._random.choices(list(TYPES), weights=list(TYPES.values()))[0]
        user = self._random.choices(USERS, weights=WEIGHTS)[0]
        data: dict[str, Any] = {"user": user}
        if kind == "purchase":
            data["amount"] = round(self._random.lognormvariate(3.2, 0.8), 2)
        elif kind == "error":
            data["status"] = self._random.choice((404, 404, 500, 503))
        else:
            data["page"] = self._random.choice(PAGES)
        stamp = EPOCH + timedelta(milliseconds=self._clock.now_ms())
        return Event(id=f"{self._run}-{self._number}", type=kind, timestamp=_utc(stamp), data=data)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
