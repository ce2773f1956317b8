"""The contract of every transport. A driver is done when ``tests/contract`` passes with it.

Obligations, in the order in which the engine relies on them:

1. Offsets are ordered, never counted: there may be gaps (control records, compaction, ids that
   carry a time). ``Batch.next_offset`` passes them; nothing may add to or subtract offsets.
2. Reading shows committed records only (`fetch` and `LogReader.read`); `high_watermarks` counts
   uncommitted ones too, so that a reader can know that it has passed all that stood there.
3. `commit` is atomic and fenced: all records and all offsets, or none; and none at all when the
   assignment that it carries is not the newest of this group any more (`Fenced`).
   A failure before the decision is `CommitAborted` (no effect, safe to try again); a failure after
   it is `CommitUnknown` (either outcome; the caller restores from the log).
4. Records of one commit keep their order within a partition. Two commits of one owner do so too.
5. `committed` waits until no commit of a predecessor is undecided for the partitions asked about.
6. A rebalance revokes everything, then assigns: `RebalanceListener.on_revoked` is awaited while the
   old assignment still commits; `on_assigned` must return soon (recovery runs beside it). After it,
   every partition is paused until the engine seeks and resumes it.
7. Partition ``p`` of all subscribed topics with the same number of partitions has one owner.

A driver without transactions declares ``Features(transactions=False)``: then `commit` writes the
records, lets none pass one of `Commit.barriers` before all in front of it are acknowledged, and
commits the offsets last (at least once).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

TopicPartition = tuple[str, int]
Headers = Sequence[tuple[str, bytes | None]]
"""A header without value is `None`: other clients write such."""


@dataclass(frozen=True, slots=True)
class Features:
    """What a driver has. ``transactions``: commits are atomic. ``shared``: several processes can use it.

    ``open_commits``: the records of a commit stand in the log before it is decided, so that high watermarks
    count them and `committed` waits for the decision. Where it is False they enter the log with the
    decision, and an undecided commit of a predecessor can be decided no more once it is fenced.

    ``timely_offsets``: offsets are times of the server's clock, so that of a partition that was deleted and
    made again all offsets lie behind those from before.
    """

    transactions: bool = True
    shared: bool = True
    open_commits: bool = True
    timely_offsets: bool = False


@dataclass(slots=True)
class Batch:
    """The records of one partition that one fetch returned, as columns of equal length.

    ``headers`` is ``None`` when no record of the batch has any. ``next_offset`` is where reading
    goes on, control records passed; ``end_offset`` is the last stable offset known with this fetch:
    ``next_offset >= end_offset`` means caught up. A batch may hold no record and still move
    ``next_offset``. ``gone``: records that left the log before they were read, found with this fetch.
    ``undecided``: records of an open transaction lie behind ``end_offset``.
    """

    topic: str
    partition: int
    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    timestamps_ms: Sequence[int]
    headers: Sequence[Headers] | None
    next_offset: int
    end_offset: int
    gone: int = 0
    undecided: bool = False

    def lost(self, records: int) -> None:
        """So many more left the log before they were read."""
        self.gone += records


class Columns(NamedTuple):
    """The columns of a `Batch`, in its order."""

    offsets: Sequence[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps_ms: list[int]
    headers: list[Headers] | None


class Record(NamedTuple):
    """One record to be written. ``timestamp_ms`` ``None``: the transport stamps it with now."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to be created where it is missing. ``retention_ms`` ``None``: the broker's default.

    ``copies``: on so many brokers; 0: as many as the broker chooses. ``config``: further settings of the
    topic, by the broker's names, which win. Both mean nothing where a topic has no copies and no settings.
    """

    name: str
    partitions: int
    compacted: bool = False
    retention_ms: int | None = None
    record_bytes_max: int | None = None
    copies: int = 0
    config: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Replication:
    """``copies``: of the partition that has the fewest. ``in_sync_min``: so many of them must have a record
    before it is acknowledged; ``None``: not known.
    """

    copies: int
    in_sync_min: int | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A live worker of the group: the web address that it advertises, and what it owns."""

    member_id: str
    url: str
    partitions: frozenset[TopicPartition]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one rebalance gave this worker. ``fence`` is the driver's own proof of it, opaque to others.

    ``standbys``: partitions of other workers whose tables this one keeps ready.
    """

    generation: int
    partitions: frozenset[TopicPartition]
    members: tuple[Member, ...] = ()
    fence: object = None
    standbys: frozenset[TopicPartition] = frozenset()


@dataclass(slots=True)
class Commit:
    """One checkpoint on its way to the log.

    ``offsets`` must name at least one partition of the assignment even when nothing moved: it is
    what the fence is checked with.
    """

    assignment: Assignment
    records: Sequence[Record]
    offsets: Mapping[TopicPartition, int]
    metadata: str = ""
    # Indices into `records`, ascending. What a crash leaves of a commit without a transaction holds a
    # record from such an index on only with all the records in front of it.
    barriers: Sequence[int] = ()
    # (topic, partition, offset) of each event that has failed and is tried again -> attempts so far.
    # For drivers that can show them; they mean nothing to the commit.
    failing: Mapping[tuple[str, int, int], int] = field(default_factory=dict)


class RebalanceListener(Protocol):
    """What the engine does when partitions come and go."""

    async def on_revoked(self) -> None:
        """All partitions are about to go; the old assignment still commits while this runs."""
        ...

    async def on_assigned(self, assignment: Assignment) -> None:
        """A new assignment holds; must return soon."""
        ...


class LogReader(Protocol):
    """Reads partitions outside the group: changelogs, shuffles, progress. Committed records only."""

    async def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Reads exactly these partitions from now on, each from the offset given (0: the beginning)."""
        ...

    async def read(self, wait_ms: int) -> list[Batch]:
        """What has come, at least one batch or an empty list after ``wait_ms``."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class KnowsLimits(Protocol):
    """A transport that can tell how large a record may be."""

    async def record_limits(self, topics: Iterable[str]) -> dict[str, int]:
        """topic -> bytes of its largest record, its overhead included; those not known are left out."""
        ...


@runtime_checkable
class KnowsRights(Protocol):
    """A transport whose broker tells what its user may not do."""

    async def missing_rights(
        self, *, reads: Collection[str], writes: Collection[str], makes: Collection[str]
    ) -> list[str]:
        """What a worker lacks that reads and writes these topics, and makes those that are not there.

        Sentences, such as ``Read on topic orders``; empty where nothing is missing. Raises TransportError.
        """
        ...


@runtime_checkable
class KnowsReplication(Protocol):
    """A transport whose topics have copies of their own on several brokers."""

    async def replication(self, topics: Iterable[str]) -> dict[str, Replication]:
        """topic -> how it is kept; topics that do not exist are left out."""
        ...


@runtime_checkable
class KnowsTopicIds(Protocol):
    """A transport whose topics have an id, which one that is deleted and made again does not keep.

    Without it (or without an id) a log that ends before a position is known to be another one than that in
    which the position was taken. Where offsets are times neither is needed: all that a new log holds lies
    behind them.
    """

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """topic -> its id, as brokers and their tools show it; topics without one are left out."""
        ...

    def read_only(self, ids: Mapping[str, str]) -> None:
        """From now on `Transport.fetch` reads these topics only while they have these ids.

        It raises TopicRecreated for one that has another by now, before anything of it is taken.
        """
        ...


@runtime_checkable
class MayRefuseTopics(Protocol):
    """A transport whose broker may be set to make no topic because somebody writes to it."""

    async def creates_topics(self) -> bool:
        """Would the broker make a topic that somebody names? True too where it does not tell."""
        ...


@runtime_checkable
class Growable(Protocol):
    """A transport whose topics can get more partitions."""

    async def grow_topics(self, counts: Mapping[str, int]) -> None:
        """Gives each of these topics so many partitions; returns when all of them can be written to.

        Those that have as many already are left as they are. Raises TransportError, ConfigurationError.
        """
        ...


@runtime_checkable
class Resettable(Protocol):
    """A transport that can delete what an app has made on its broker."""

    async def reset(self, topics: Iterable[str], *, group: bool = True) -> None:
        """Deletes these topics, and the group's offsets where ``group`` is said.

        Raises ConfigurationError while workers run.
        """
        ...


OnPoint = Callable[[str], Awaitable[None]]
"""A test's own function, awaited at named points of a driver's work, such as ``COMMIT_OFFSETS``"""

# Points of a commit that every driver passes, in this order.
COMMIT_WRITTEN = "commit:written"  # its records are acknowledged, or staged
COMMIT_OFFSETS = "commit:offsets"  # all is done but the decision
COMMIT_DECIDED = "commit:decided"


async def pass_by(point: str) -> None:
    """The `OnPoint` of production: nothing."""


@runtime_checkable
class Breakable(Protocol):
    """For tests: what SIGKILL, SIGSTOP and SIGCONT do to a worker's process, done to one client of it."""

    def kill(self) -> None:
        """No goodbye to the group, and nothing is sent any more."""
        ...

    def stall(self) -> None:
        """No sign of life: past its session timeout the group gives up on the client."""
        ...

    def wake(self) -> None:
        """After `stall`."""
        ...


class Transport(Protocol):
    """One worker's connection to the log. Methods raise `TransportError` for what a retry may cure."""

    features: Features

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Leaves the group and closes; idempotent. Does not checkpoint."""
        ...

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        """Creates what is missing; leaves what exists as it is."""
        ...

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Number of partitions of each topic that exists; missing ones are left out."""
        ...

    async def cleanup_policies(self, topics: Iterable[str]) -> dict[str, str]:
        """What becomes of old records: "compact", "delete", or both with a comma between.

        Topics that do not exist, or about which this user may not ask, are left out.
        """
        ...

    async def subscribe(self, topics: Iterable[str], listener: RebalanceListener, url: str) -> None:
        """Joins the group for these topics, advertising ``url``.

        Called again, with other topics, it begins a rebalance that assigns those; the rest stays as it is.
        """
        ...

    async def fetch(self, wait_ms: int) -> list[Batch]:
        """Batches of the resumed partitions, or an empty list after ``wait_ms``."""
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """The next fetch of an assigned partition starts at the first record at or after ``offset``."""
        ...

    def pause(self, partitions: Iterable[TopicPartition]) -> None: ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None: ...

    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """The group's committed offsets; ``None`` where there is none."""
        ...

    async def earliest_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]: ...

    async def offsets_at(
        self, partitions: Iterable[TopicPartition], time_ms: int
    ) -> dict[TopicPartition, int]:
        """Where reading begins with the first record whose timestamp is at or after this; else the end."""
        ...

    async def high_watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset behind the last record of each partition, committed or not."""
        ...

    async def committed_ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset from which on nothing of each partition has been shown to anybody: records of an open
        transaction lie at or behind it, whatever becomes of them."""
        ...

    def records_between(self, partition: TopicPartition, start: int, end: int) -> int | None:
        """How many records lie at or after ``start`` and before ``end``; ``None`` where it is not known.

        Of partitions that are fetched, between the committed offset and the last end that a fetch told.
        """
        ...

    async def commit(self, commit: Commit) -> dict[TopicPartition, int]:
        """Makes a checkpoint durable; returns for each partition written the offset behind its last record.

        Raises Fenced, CommitAborted, CommitUnknown; RecordRefused where records are never taken, which
        had no effect and names them; ConfigurationError for what this user may not do.
        """
        ...

    async def send(self, records: Sequence[Record]) -> list[int]:
        """Writes at once, outside any checkpoint; returns the records' offsets when all are acknowledged."""
        ...

    def log_reader(self, *, little: bool = False) -> LogReader:
        """``little``: for a look at a topic; a read returns little, so that taking it is soon done."""
        ...
