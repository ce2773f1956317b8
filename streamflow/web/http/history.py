"""An hour of a few figures, which each worker keeps of itself, added together over all workers.

A figure is measured once in `STEP_MS`, at the end of a *slot*, whose number is the epoch milliseconds of
that end divided by `STEP_MS`: the same on all workers. ``None`` is a figure that nobody knows; a slot that
is not there at all is one in which the worker did not run, and adds nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from aiohttp import web

from streamflow.metrics import resident_bytes
from streamflow.web import encoding, query
from streamflow.web.http.api import Api, answer, only
from streamflow.web.http.completeness import UNUSABLE
from streamflow.web.peers import PeerAnswer, is_peer
from streamflow.web.rights import caller_of
from streamflow.web.served import Served

log = logging.getLogger(__name__)

STEP_MS: Final = 5_000
MINUTES_MAX: Final = 60
SLOTS_MAX: Final = MINUTES_MAX * 60_000 // STEP_MS
NAMES: Final = ("events_per_s", "lag_records", "failed_per_s", "memory_bytes", "ws_connections")
PEERS_MAX: Final = 256
"""Workers whose figures are remembered, those that have gone included."""
ANEW_SLOTS: Final = 60_000 // STEP_MS
"""A peer that was asked so lately is asked for the newest two minutes only."""

Figures = tuple[float | None, ...]
"""One for each of `NAMES`."""


class Ring:
    """What one worker measured of itself; bounded by `SLOTS_MAX`."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._slots: deque[tuple[int, Figures]] = deque(maxlen=SLOTS_MAX)
        self._totals: tuple[float, float, float] | None = None  # monotonic ms, events, failures

    def slots(self) -> dict[int, Figures]:
        return dict(self._slots)

    async def keep(self) -> None:
        """Until cancelled: measures at the end of each slot."""
        clock = self._served.clock
        while True:
            try:
                self.measure()
            except Exception:  # figures must not end with the first thing that goes wrong
                log.exception("the history of this worker could not be continued")
            await clock.sleep_ms(STEP_MS - clock.now_ms() % STEP_MS)

    def measure(self) -> None:
        """Writes the slot that ends about now. The first look has no rates yet, and writes nothing."""
        served, metrics = self._served, self._served.metrics
        slot = served.clock.now_ms() // STEP_MS
        last = self._slots[-1][0] if self._slots else slot - 1
        if last >= slot:
            return  # an early timer, or a clock that was set back: the next look counts for both
        stats = served.stats()
        now_ms = served.clock.monotonic_ms()
        failed = sum(child.value for child in metrics.events_failed_total.children.values())
        events = float(stats["records_total"])
        before, self._totals = self._totals, (now_ms, events, failed)
        if before is None or now_ms <= before[0]:
            return
        elapsed_s = (now_ms - before[0]) / 1_000
        # In slots that went by unseen the event loop was held up: nobody knows.
        for unseen in range(max(last + 1, slot - SLOTS_MAX), slot):
            self._slots.append((unseen, (None,) * len(NAMES)))
        lag = stats["lag_records"]
        figures = (
            round(max(0.0, events - before[1]) / elapsed_s, 3),
            # What a worker says that is not ready is old, or not all of it.
            float(lag) if served.ready() and isinstance(lag, int | float) else None,
            round(max(0.0, failed - before[2]) / elapsed_s, 3),
            float(resident_bytes()) or None,
            metrics.ws_connections.value,
        )
        self._slots.append((slot, figures))


class History:
    """The handler of ``/v1/history``. `start` and `stop` it with the server."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._ring = Ring(api.served)
        # Address -> what the worker said of itself. Stays when it is gone: the past does not change.
        self._others: dict[str, dict[int, Figures]] = {}
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._keeping = asyncio.create_task(self._ring.keep(), name="streamflow-web-history")

    async def stop(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeping

    async def history(self, request: web.Request) -> web.StreamResponse:
        """The newest ``minutes`` of the figures, of all workers together."""
        caller_of(request).require("read", "app", self._api.served.app_id)
        parameters = only(request, ("metric", "minutes"))
        names = _names(parameters)
        count = _minutes(parameters) * 60_000 // STEP_MS
        served = self._api.served
        parts = {served.url: self._ring.slots()}
        silent: set[str] = set()
        if not is_peer(request):
            silent = await self._ask_others()
            parts |= self._others
        newest = served.clock.now_ms() // STEP_MS
        # A peer that measures a moment later than we must not look like one that is silent.
        reached = [max(slots) for url, slots in parts.items() if slots and url not in silent]
        end = newest if all(slot >= newest for slot in reached) else newest - 1
        series = _together(parts, silent, range(end - count + 1, end + 1))
        body = {
            "step_s": STEP_MS // 1_000,
            "end": encoding.time_text(end * STEP_MS),
            "series": [{"name": name, "labels": {}, "values": series[NAMES.index(name)]} for name in names],
            "partial": bool(silent),
            "missing_workers": sorted(silent),
        }
        return answer(request, body)

    async def _ask_others(self) -> set[str]:
        """Brings `_others` up to date. Returns the workers that should have answered and have not."""
        now = self._api.served.clock.now_ms() // STEP_MS
        urls = self._api.scatter_gather.peers.others()
        asked = [self._path(url, now) for url in urls]
        answers = await asyncio.gather(
            *(self._api.scatter_gather.ask_each([url], path) for url, path in zip(urls, asked, strict=True))
        )
        silent: set[str] = set()
        for url, (said,) in zip(urls, answers, strict=True):
            try:
                if not isinstance(said, PeerAnswer) or said.status != 200:
                    raise ValueError(f"{url} has not answered")
                slots = _slots_of(said.body)
            except UNUSABLE:
                silent.add(url)
                continue
            self._others[url] = {**self._others.pop(url, {}), **slots}
        self._forget(now - SLOTS_MAX)
        return silent

    def _path(self, url: str, now: int) -> str:
        known = self._others.get(url)
        lately = bool(known) and max(known or (0,)) > now - ANEW_SLOTS
        return f"/v1/history?minutes={2 if lately else MINUTES_MAX}"

    def _forget(self, before: int) -> None:
        for url, slots in list(self._others.items()):
            for slot in [slot for slot in slots if slot <= before]:
                del slots[slot]
            if not slots:
                del self._others[url]
        for url in list(self._others)[:-PEERS_MAX]:
            del self._others[url]


def _together(
    parts: Mapping[str, Mapping[int, Figures]], silent: Iterable[str], wanted: range
) -> list[list[float | None]]:
    """For each of `NAMES` the sums of ``wanted``; ``None`` where one that counts is not known.

    A worker that is silent and has not left counts from the last slot on that it told of.
    """
    since = [max(parts.get(url) or {}, default=wanted.start - 1) for url in silent]
    sums: list[list[float | None]] = [[] for _ in NAMES]
    for slot in wanted:
        said = [figures for slots in parts.values() if (figures := slots.get(slot)) is not None]
        is_whole = bool(said) and all(slot <= last for last in since)
        for place, column in enumerate(sums):
            values = [figures[place] for figures in said]
            known = [value for value in values if value is not None]
            column.append(sum(known) if is_whole and len(known) == len(values) else None)
    return sums


def _slots_of(body: Mapping[str, Any]) -> dict[int, Figures]:
    """A peer's answer as slots. What it does not know before its first figure is before it ran.

    Raises one of `UNUSABLE` for what is no such answer.
    """
    if body["step_s"] * 1_000 != STEP_MS:
        raise ValueError(f"steps of {body['step_s']} s")
    end = encoding.parse_time(body["end"]) // STEP_MS
    by_name = {series["name"]: series["values"] for series in body["series"]}
    rows = list(zip(*(by_name[name] for name in NAMES), strict=True))[-SLOTS_MAX:]
    first = next((at for at, row in enumerate(rows) if any(value is not None for value in row)), len(rows))
    return {
        end - len(rows) + 1 + at: tuple(None if value is None else float(value) for value in row)
        for at, row in enumerate(rows)
        if at >= first
    }


def _names(parameters: Mapping[str, str]) -> tuple[str, ...]:
    if "metric" not in parameters:
        return NAMES
    asked = tuple(parameters["metric"].split(","))
    for name in asked:
        if name not in NAMES:
            raise query.bad_parameter("metric", f"metric={name!r} is not one of {', '.join(NAMES)}")
    return asked


def _minutes(parameters: Mapping[str, str]) -> int:
    text = parameters.get("minutes", str(MINUTES_MAX))
    if not (encoding.is_number(text) and 1 <= int(text) <= MINUTES_MAX):
        raise query.bad_parameter("minutes", f"minutes={text!r} is no whole number from 1 to {MINUTES_MAX}")
    return int(text)
