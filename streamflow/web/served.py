"""What the web view needs of an engine, and no more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from streamflow.clock import Clock
from streamflow.metrics import Metrics
from streamflow.query.browse import Look, Message
from streamflow.query.facts import AgentFacts, TopicFacts, WorkerFacts
from streamflow.query.follow import Follows
from streamflow.query.letter_book import Entry, LetterPage, Place, Wanted
from streamflow.query.publishing import Publishes
from streamflow.query.rows import RowListener
from streamflow.query.shown import Shown
from streamflow.query.table_reader import StandbyReader, TableReader
from streamflow.transports.base import Member, TopicPartition


class TopicsServed(Protocol):
    """The topics that the app knows."""

    def names(self) -> list[str]:
        """All of them, in order."""
        ...

    async def exists(self, topic: str) -> bool:
        """Does the app know it, or the broker? Raises StreamflowError where it can't tell."""
        ...

    def internal(self) -> frozenset[str]:
        """Those that hold the app's own state."""
        ...

    async def facts(self, topics: Sequence[str]) -> list[TopicFacts]:
        """Of these, as the broker tells now; what it does not tell in time is ``None``."""
        ...

    async def unowned_lags(self, owned: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Records still to be read of source partitions that are not ``owned``, as far as that is known."""
        ...


class LogServed(Protocol):
    """The records of the app's topics. What asks the broker raises StreamflowError where it can't tell."""

    def partitions(self, topic: str) -> int:
        """How many a topic has; 0 for one that the app does not know."""
        ...

    def show(self, message: Message, topic: str | None = None) -> Shown:
        """Its key and value as JSON, by the types of its topic, or of ``topic``."""
        ...

    async def page(
        self, topic: str, partition: int, limit: int, *, offset: int | None = None, time_ms: int | None = None
    ) -> Look:
        """The first ``limit`` records from ``offset``, from a time, or from the beginning."""
        ...

    async def newest(self, topic: str, partition: int, limit: int) -> Look:
        """The last ``limit`` records, oldest first."""
        ...

    async def of_all(self, topic: str, limit: int, time_ms: int | None) -> list[Message]:
        """Of all partitions by their timestamps: the first ``limit`` from a time, or the newest."""
        ...


class LettersServed(Protocol):
    """The dead letters of the app. What asks the broker raises StreamflowError where it can't tell."""

    def topics(self) -> list[str]:
        """Where letters may lie."""
        ...

    async def page(self, wanted: Wanted, limit: int, after: Place | None = None) -> LetterPage:
        """In the order of topic, partition and offset, from ``after`` on."""
        ...

    async def find(self, at: Place) -> Entry | None:
        """The letter at a place, or ``None`` where there is none (any more)."""
        ...

    def describe(self, entry: Entry, *, whole: bool = False) -> dict[str, Any]:
        """JSON-able; ``whole``: with what only one letter is shown with."""
        ...

    async def replay(self, entries: Sequence[Entry], *, agent: str | None = None) -> list[int]:
        """Sends their events again; returns the offsets. Raises ConfigurationError for what can't be."""
        ...

    async def replay_edited(self, entry: Entry, value: object, *, agent: str | None = None) -> int:
        """The same with another value. Raises TypeError for one that the topic's readers would not take."""
        ...

    async def drop(self, entries: Sequence[Entry]) -> None:
        """Takes them out of what waits."""
        ...


class Served(Protocol):
    """One running worker. Who owns ``(table.source_topic, p)`` owns partition ``p`` of the table."""

    @property
    def app_id(self) -> str: ...

    @property
    def url(self) -> str:
        """The address that this worker advertises to its peers, such as ``http://127.0.0.1:6066``."""
        ...

    @property
    def tables(self) -> Mapping[str, TableReader]: ...

    def standby(self, table: str) -> StandbyReader | None:
        """What this worker keeps of a table's partitions that others serve, if it keeps any."""
        ...

    def knows_tables(self) -> bool:
        """Are all of ``tables`` there? A worker that has just started does not know yet how many partitions
        they have; until then nobody may conclude that something does not exist."""
        ...

    @property
    def clock(self) -> Clock: ...

    @property
    def metrics(self) -> Metrics: ...

    def listen(self, listener: RowListener) -> Callable[[], None]:
        """``listener`` is told of every checkpoint from now on; returns what ends that."""
        ...

    async def apply_late(self, table: str) -> Mapping[str, int]:
        """Folds what came too late in this worker's partitions into closed windows; durable on return.

        Returns how many events were ``applied``, have ``expired``, or are ``unsupported``. Raises
        StreamflowError when it could not be finished: what is left can be applied by asking again.
        """
        ...

    def members(self) -> tuple[Member, ...]:
        """All live workers, this one included, with their source partitions."""
        ...

    def generation(self) -> int:
        """Grows whenever rows were dropped or restored: what was shown of them must be read anew.

        Listeners hear of what checkpoints change, and of nothing else.
        """
        ...

    def ready(self) -> bool:
        """Every owned partition is recovered, the broker answers, and what is due becomes durable."""
        ...

    def health(self) -> Mapping[str, Any]:
        """``{"status": "ok" or another word, "error": str | None, ...}``; maybe a ``reason``.

        ``slow``, where there is any, lists events that agents are at work on for long and blocks of the event
        loop: ``{"agent", "topic", "partition", "offset", "events", "held_s"}``, or
        ``{"blocked_event_loop_s", "events"}``.
        """
        ...

    def stats(self) -> Mapping[str, Any]:
        """``{"records_total": int, "lag_records": int, "partitions": [...], "agents": {...}, ...}``."""
        ...

    def agents(self) -> Sequence[AgentFacts]:
        """What the agents do on this worker."""
        ...

    def worker(self) -> WorkerFacts:
        """This worker itself."""
        ...

    @property
    def topics(self) -> TopicsServed: ...

    @property
    def log(self) -> LogServed: ...

    def follow(self, topic: str) -> Follows:
        """The records of a topic that `log` knows, as they are committed."""
        ...

    @property
    def letters(self) -> LettersServed: ...

    @property
    def publisher(self) -> Publishes | None:
        """``None``: nothing can be sent here."""
        ...
