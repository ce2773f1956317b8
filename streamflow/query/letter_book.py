"""The dead letters of an app, for people: listed page by page, shown, replayed, dropped.

They are read from their topics when somebody asks, oldest first within each partition. Nothing is kept of
them but what was done about them (`streamflow.engine.letters.Marks`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from streamflow.clock import rfc3339
from streamflow.engine.engine import Engine
from streamflow.engine.letters import Handled, Letter, Marks, letter_of, letter_topics
from streamflow.errors import ConfigurationError
from streamflow.query.browse import BYTES_MAX, LOOK_MAX_MS, Browser
from streamflow.query.shown import Shown, raw_value, shown, shown_headers
from streamflow.transports.base import Record

LetterState = Literal["waiting", "replayed", "dropped", "all"]
READ_AT_ONCE: Final = 500


class Entry(NamedTuple):
    """A letter, and what was done about it; ``None``: it waits."""

    letter: Letter
    handled: Handled | None

    @property
    def state(self) -> str:
        return "waiting" if self.handled is None else self.handled.done


class Place(NamedTuple):
    """Where a list of letters goes on."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class LetterPage:
    """``next`` is there too where time was over before ``limit`` were found."""

    entries: list[Entry]
    next: Place | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters. ``topics`` ``None``: of all dead-letter topics; ``source``: of which topic's events."""

    topics: frozenset[str] | None = None
    source: str | None = None
    reason: str | None = None
    state: LetterState = "waiting"

    def takes(self, entry: Entry) -> bool:
        return (
            self.state in ("all", entry.state)
            and self.reason in (None, entry.letter.fact("reason"))
            and self.source in (None, entry.letter.source[0])
        )


class LetterBook:
    """Of one engine's app, whether that engine runs or only its transport does.

    What asks the broker raises StreamflowError where it can't tell.
    """

    def __init__(self, engine: Engine, browser: Browser | None = None) -> None:
        self._engine = engine
        self._browser = browser or Browser(engine)
        self._marks = Marks(engine.topology, engine.transport, engine.clock)
        self._changing = asyncio.Lock()

    def topics(self) -> list[str]:
        """Where letters may lie."""
        return letter_topics(self._engine.topology)

    def agents_of(self, topic: str) -> list[str]:
        """The agents that read a source topic, and so may take its events again."""
        return [agent.spec.name for agent in self._engine.topology.agents if topic in agent.topics]

    async def page(self, wanted: Wanted, limit: int, after: Place | None = None) -> LetterPage:
        """In the order of topic, partition and offset, from ``after`` on."""
        clock = self._engine.clock
        until_ms = clock.monotonic_ms() + LOOK_MAX_MS
        await self._marks.refresh()
        entries: list[Entry] = []
        left = BYTES_MAX
        for topic, partition in await self._partitions(wanted, after):
            at = Place(topic, partition, 0)
            offset = after.offset if after is not None and after[:2] == at[:2] else None
            while True:
                look = await self._browser.page(topic, partition, READ_AT_ONCE, offset=offset)
                for message in look.messages:
                    entry = self._entry(letter_of(*message))
                    if entry is None or not wanted.takes(entry):
                        continue
                    left -= message.size
                    if len(entries) == limit or (left < 0 and entries):
                        return LetterPage(entries, at._replace(offset=message.offset))
                    entries.append(entry)
                offset = look.next
                if offset is None:
                    break
                if clock.monotonic_ms() >= until_ms:
                    return LetterPage(entries, at._replace(offset=offset))
        return LetterPage(entries, None)

    async def _partitions(self, wanted: Wanted, after: Place | None) -> list[tuple[str, int]]:
        """Those that hold something, from ``after`` on."""
        transport = self._engine.transport
        topics = [topic for topic in self.topics() if wanted.topics is None or topic in wanted.topics]
        counts = await transport.partition_counts(topics)
        every = [(topic, p) for topic, count in sorted(counts.items()) for p in range(count)]
        if after is not None:
            every = [at for at in every if at >= after[:2]]
        starts, ends = await transport.earliest_offsets(every), await transport.high_watermarks(every)
        for topic, partition in every:
            self._marks.forget_before(topic, partition, starts.get((topic, partition), 0))
        return [at for at in every if starts.get(at, 0) < ends.get(at, 0)]

    def _entry(self, letter: Letter | None) -> Entry | None:
        return None if letter is None else Entry(letter, self._marks.of(letter))

    async def every(self, wanted: Wanted) -> AsyncIterator[Entry]:
        """All of them, page by page."""
        after: Place | None = None
        while True:
            page = await self.page(wanted, READ_AT_ONCE, after)
            for entry in page.entries:
                yield entry
            after = page.next
            if after is None:
                return

    async def find(self, at: Place) -> Entry | None:
        """The letter at a place, or ``None`` where there is none (any more)."""
        if at.topic not in self.topics():
            return None
        counts = await self._engine.transport.partition_counts([at.topic])
        if at.partition >= counts.get(at.topic, 0):
            return None
        await self._marks.refresh()
        look = await self._browser.page(at.topic, at.partition, 1, offset=at.offset)
        found = [message for message in look.messages if message.offset == at.offset]
        return self._entry(letter_of(*found[0])) if found else None

    def show(self, letter: Letter) -> Shown:
        """Key and value by the types of the topic that its event came from."""
        return shown(self._engine.topology.format_of(letter.source[0]), letter.key, letter.value)

    def describe(self, entry: Entry, *, whole: bool = False) -> dict[str, Any]:
        """JSON-able; ``whole``: with what only one letter is shown with."""
        letter, seen = entry.letter, self.show(entry.letter)
        topic, partition, offset = letter.source
        attempts = letter.fact("attempts")
        body: dict[str, Any] = {
            "id": letter.id,
            "source": {"topic": topic, "partition": partition, "offset": str(offset)},
            "state": entry.state,
            "handled": None if entry.handled is None else rfc3339(entry.handled.at_ms),
            "reason": letter.fact("reason"),
            "error": letter.fact("error"),
            "field": letter.fact("field") or None,
            "agent": letter.fact("agent") or None,
            "consumer": letter.fact("consumer") or None,
            "attempts": int(attempts) if attempts.isdigit() else None,
            "worker": letter.fact("worker") or None,
            "time": letter.fact("time") or rfc3339(letter.timestamp_ms),
            "key": seen.key,
            "value": seen.value,
            "cut": letter.cut,
            "headers": shown_headers(letter.own_headers),
        }
        if whole:
            body |= {"traceback": letter.fact("traceback") or None, "replay": letter.fact("replay") or None}
        return body

    async def replay(self, entries: Sequence[Entry], *, agent: str | None = None) -> list[int]:
        """Sends their events to where they came from, as they were: to one ``agent``, or all that read there.

        Returns the offsets. Raises ConfigurationError before anything is sent, for a letter that is cut and
        for an agent that does not read there; TransportError when some may have been sent.
        """
        pairs = [(letter, letter.restored(agent=agent)) for letter, _ in entries]
        return await self._replay(pairs, agent)

    async def replay_edited(self, entry: Entry, value: object, *, agent: str | None = None) -> int:
        """The same of one letter with another value, which is checked as one that is sent: TypeError."""
        letter = entry.letter
        raw = raw_value(self._engine.topology.format_of(letter.source[0]), value)
        event = letter.restored(value=raw, edited=True, agent=agent)
        return (await self._replay([(letter, event)], agent))[0]

    async def _replay(self, pairs: Sequence[tuple[Letter, Record]], agent: str | None) -> list[int]:
        for letter, _ in pairs:
            if agent is not None and agent not in self.agents_of(letter.source[0]):
                topic = letter.source[0]
                known = ", ".join(self.agents_of(topic)) or "none"
                raise ConfigurationError(f"no agent {agent!r} reads topic {topic!r} (there are: {known})")
        async with self._changing:
            return await self._marks.replay([letter for letter, _ in pairs], [event for _, event in pairs])

    async def drop(self, entries: Sequence[Entry]) -> None:
        """Takes them out of what waits. They stay in their topic for as long as that keeps them."""
        async with self._changing:
            await self._marks.mark([entry.letter for entry in entries], "dropped")


def read_place(text: str) -> Place:
    """``topic:partition:offset``. Raises ValueError."""
    topic, partition, offset = text.rsplit(":", 2)
    numbers = (partition, offset)
    if not topic or not all(n.isascii() and n.isdigit() and len(n) <= 20 for n in numbers):
        raise ValueError(f"{text!r} is no topic:partition:offset")
    return Place(topic, int(partition), int(offset))


def place_text(place: Place | None) -> str | None:
    return None if place is None else f"{place.topic}:{place.partition}:{place.offset}"
