"""``streamflow demo``: a worker, a generator of events and the dashboard, in one process."""

from __future__ import annotations

import asyncio
import math
import os
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from streamflow.settings import PREFIX

if TYPE_CHECKING:
    from streamflow.app import App
    from streamflow.event import Event

TICK_S = 0.1
TYPES = {"page_view": 60, "click": 25, "search": 9, "add_to_cart": 4, "purchase": 2}
USERS = [
    "ada", "alan", "barbara", "claude", "donald", "edsger", "frances", "grace", "hedy", "john", "katherine",
    "ken", "leslie", "linus", "margaret", "niklaus", "radia", "rózsa", "sophie", "tim",
]  # fmt: skip


@click.command()
@click.option(
    "--rate", default=200, show_default=True, type=click.IntRange(1, 5_000), help="Events a second."
)
@click.option(
    "-p", "--port", type=click.IntRange(0, 65_535), help="Port of the dashboard (6066, or the next free)."
)
@click.option("--broker", help="Broker URL, such as kafka://localhost:9092; by default nothing is needed.")
def demo(rate: int, port: int | None, broker: str | None) -> None:
    """Counts a stream of made-up events live: open the dashboard that it names."""
    if port is not None:
        os.environ[PREFIX + "WEB_PORT"] = str(port)
    if broker:
        os.environ[PREFIX + "BROKER"] = broker
    sys.path.insert(0, "")
    try:
        from agents.events import app, events
    except ModuleNotFoundError as exc:
        raise click.UsageError(
            "the demo runs agents/events.py: start it in a checkout of streamflow"
        ) from exc
    from streamflow.cli.running import run_worker

    @app.task  # type: ignore[untyped-decorator]  # Faust's decorator
    async def generate() -> None:
        while not app.engine.live:  # noqa: ASYNC110 - a glance ten times a second, at the start only
            await asyncio.sleep(TICK_S)
        web = app.engine_service.web
        click.echo(welcome(web.url if web is not None else "", app, rate))
        for batch in batches(rate, random.Random()):
            await asyncio.gather(*[events.send(key=event.data["user"], value=event) for event in batch])
            await asyncio.sleep(TICK_S)

    run_worker(app, "warn")


def batches(rate: int, rnd: random.Random) -> Iterator[list[Event]]:
    """The events of each tick, for ever: their number swings slowly around ``rate`` a second."""
    number, owed, tick = 0, 0.0, 0
    weights = [1 / (place + 1) for place in range(len(USERS))]
    while True:
        tick += 1
        owed += rate * TICK_S * (1 + 0.3 * math.sin(tick * TICK_S / 8)) * rnd.uniform(0.8, 1.2)
        users = rnd.choices(USERS, weights, k=int(owed))
        owed -= len(users)
        batch = []
        for user in users:
            number += 1
            batch.append(made_up(number, user, rnd))
        yield batch


def made_up(number: int, user: str, rnd: random.Random) -> Event:
    """One event, now."""
    from streamflow.event import Event

    kind = rnd.choices(list(TYPES), list(TYPES.values()))[0]
    data: dict[str, Any] = {"user": user}
    if kind == "purchase":
        data["amount"] = round(rnd.uniform(3, 120), 2)
    return Event(id=f"demo-{number}", type=kind, timestamp=now(), data=data)


def now() -> datetime:
    """The time of the machine, as an aware datetime."""
    from streamflow.clock import SystemClock

    return datetime.fromtimestamp(SystemClock().now_ms() / 1_000, UTC)


def welcome(url: str, app: App, rate: int) -> str:
    """What the newcomer reads first."""
    line = click.style("─" * 72, dim=True)
    title = click.style("streamflow is running", bold=True)
    link = click.style(url, fg="cyan", bold=True)
    return f"""
{line}
  {title}: about {rate} events a second on {app.broker_url}

  Dashboard       {link}

  Try next
    curl {url}/v1/tables
    curl {url}/v1/tables/events_by_user/keys/ada
    curl '{url}/v1/tables/window_totals/rows?state=closed&limit=3'
    WebSocket     {url.replace("http", "ws", 1)}/v1/ws   (subprotocol streamflow.v1+json)
    The code      agents/events.py

  Ctrl-C stops it.
{line}
"""
