"""Tables whose rows come from all source partitions: what is shown is the table at the position, exactly."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

from streamflow import App, Count, Event, TumblingWindow
from tests.support.running import T0_MS, event, make_app, running, until
from tests.unit.web.live.test_hub import Live, connect

PARTITIONS = 4
EVENTS = 600
KINDS = [f"kind-{n}" for n in range(9)]


def build() -> App:
    app = make_app(web_enabled=True, web_port=0, commit_interval=0.01)
    topic = app.topic("events", key_type=str, value_type=Event, partitions=PARTITIONS)
    app.aggregate("by_kind", topic, by="type", values=Count())
    app.aggregate("totals", topic, by=None, window=TumblingWindow(size_s=1), values=Count())
    return app


class Merged(Live):
    """Notes what it shows at each position that it is told."""

    def __init__(self, socket: Any) -> None:
        super().__init__(socket)
        self.seen: list[tuple[str, Mapping[str, str], dict[Any, Any]]] = []
        self.is_synced: set[str] = set()
        self.inexact = 0

    def _fold(self, said: dict[str, Any]) -> None:
        super()._fold(said)
        kind, sub_id = said["t"], said.get("id", "")
        if kind == "reset":
            self.is_synced.discard(sub_id)
        elif kind == "synced":
            self.is_synced.add(sub_id)
        if kind in ("synced", "changes", "progress") and sub_id in self.is_synced and "more" not in said:
            if said.get("exact") is False:
                self.inexact += 1
            else:
                rows = {(key, start): value for (_, key, start), value in self.rows[sub_id].items()}
                self.seen.append((sub_id, said["position"], rows))

    async def listen(self) -> None:
        while True:
            await self.hear()


async def events_of(app: App) -> list[list[str]]:
    """Source partition -> the kinds of its events, in order; their offsets follow each other."""
    found: list[list[str]] = [[] for _ in range(PARTITIONS)]
    reader = app.engine.transport.log_reader()
    await reader.assign({("events", partition): 0 for partition in range(PARTITIONS)})
    for _ in range(10):
        for batch in await reader.read(5):
            for offset, value in zip(batch.offsets, batch.values, strict=True):
                assert value is not None
                kinds = found[batch.partition]
                kinds.extend([""] * (offset - len(kinds)))
                kinds.append(value.decode().partition('"type":"')[2].partition('"')[0])
    await reader.close()
    return found


async def test_every_message_of_a_merged_table_is_the_table_at_its_position() -> None:
    app = build()
    topic = app.topic("events", key_type=str, value_type=Event)
    async with running(app), AsyncExitStack() as stack:
        assert app.engine_service.watcher is not None
        served = SimpleNamespace(url=app.engine_service.watcher.url)
        lives: list[Merged] = []
        listening: list[asyncio.Task[None]] = []
        for n in range(EVENTS):
            await topic.send(key=f"u{n % 50}", value=event(KINDS[n % 7 * n % 9], T0_MS + n % 3_000))
            if n % 150 == 0:
                plain = await stack.enter_async_context(connect(served))  # type: ignore[arg-type]
                live = Merged(plain.socket)
                await live.say("subscribe", id="by_kind", table="by_kind", mode="all")
                await live.say("subscribe", id="totals", table="totals", snapshot=True)
                lives.append(live)
                listening.append(asyncio.create_task(live.listen()))
            if n % 7 == 0:
                await asyncio.sleep(0.005)
        source = await events_of(app)
        assert sum(map(len, source)) == EVENTS
        whole = Counter(kind for kinds in source for kind in kinds)
        await until(
            lambda: all(
                {key: value for (_, key, _), value in live.rows.get("by_kind", {}).items()} == whole
                and sum(live.rows.get("totals", {}).values()) == EVENTS
                for live in lives
            )
        )
        for task in listening:
            task.cancel()
        checked: Counter[str] = Counter()
        for live in lives:
            for table, position, rows in live.seen:
                taken = [kinds[: int(position.get(str(p), "0"))] for p, kinds in enumerate(source)]
                expected = Counter(kind for kinds in taken for kind in kinds)
                if table == "by_kind":
                    assert {key: value for (key, _), value in rows.items()} == expected, position
                else:
                    assert sum(rows.values()) == expected.total(), position
                checked[table] += 1
            assert live.inexact == 0
        assert min(checked["by_kind"], checked["totals"]) > 20
