"""The topics of an app: their names, their numbers of partitions, and where a key lies in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from streamflow.engine.dead_letters import EXTRA_BYTES
from streamflow.errors import ConfigurationError, TransportError
from streamflow.partitioner import partitions_of
from streamflow.state.restore import end_of_logs
from streamflow.transports.base import KnowsLimits, KnowsReplication, Replication, TopicSpec, Transport

MIN_COPIES_FOR_QUORUM = 2
"""With no more than these, two that must acknowledge would stop all with the first broker that is away"""
RECORD_BYTES_DEFAULT = 1_048_588
"""What a topic takes where there are limits and nobody tells this one"""


class Topics:
    """Known topics and their partitions. ``partitioner`` is (key bytes, partitions) -> partition."""

    def __init__(
        self,
        app_id: str,
        partitioner: Callable[[bytes, int], int],
        partitions_default: int,
        copies_default: int = 0,
    ) -> None:
        self.app_id = app_id
        self.counts: dict[str, int] = {}
        self.limits: dict[str, int] = {}  # bytes of the largest record, where the broker told
        self._partitioner = partitioner
        self._partitions_default = partitions_default
        self._copies_default = copies_default
        self._sources: set[str] = set()
        self._of_any_size: set[str] = set()
        self._wanted: dict[str, TopicSpec] = {}
        self._of_state: set[str] = set()  # topics that hold what the app must not lose
        self._letters_of: dict[str, set[str]] = {}  # dead-letter topic -> its sources
        self._keyless = 0

    @property
    def progress(self) -> str:
        return f"{self.app_id}-progress"

    @property
    def handled_letters(self) -> str:
        """Marks of dead letters that were replayed or dropped; made with the first of them."""
        return f"{self.app_id}-handled-letters"

    def changelog(self, table: str) -> str:
        """Faust's name for it, so that an app can upgrade in place."""
        return f"{self.app_id}-{table}-changelog"

    def shuffle(self, table: str) -> str:
        return f"{self.app_id}-{table}-shuffle"

    def late(self, table: str) -> str:
        """Where the late-event store of a declared table lies."""
        return f"{self.app_id}-{table}-late"

    def feed(self, source: str) -> str:
        """Who has a partition of it reads that partition of a source; nothing is ever written to it."""
        return f"{self.app_id}-{source}-source"

    def partitions(self, topic: str) -> int:
        """Raises ConfigurationError for a topic that is not known yet."""
        try:
            return self.counts[topic]
        except KeyError:
            raise ConfigurationError(
                f"topic {topic!r} is not known: declare it, or create it first"
            ) from None

    def place(self, topic: str, key: bytes | None) -> int:
        """The partition of a key; records without key go to the partitions in turn."""
        count = self.partitions(topic)
        if key is None:
            self._keyless += 1
            return self._keyless % count
        return self._partitioner(key, count)

    def place_among(self, key: bytes, partitions: int) -> int:
        """The partition of a key in a topic with so many."""
        return self._partitioner(key, partitions)

    def places(self, topic: str, keys: Sequence[bytes]) -> list[int]:
        """`place` of each key."""
        return partitions_of(self._partitioner, keys, self.partitions(topic))

    def want(
        self,
        name: str,
        partitions: int | None = None,
        *,
        compacted: bool = False,
        letters_of: str | None = None,
        retention_ms: int | None = None,
        copies: int = 0,
        config: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Notes a topic that has to be there; what was asked for first holds.

        ``letters_of``: a topic whose events may be set aside in it. ``copies`` and ``config`` are those
        of `TopicSpec`.
        """
        if letters_of is not None:
            self._letters_of.setdefault(name, set()).add(letters_of)
        asked, known = TopicSpec(name, partitions or 0, compacted, retention_ms), self._wanted.get(name)
        if known is None:
            known = asked
        elif partitions is not None and known.partitions == 0:
            known = replace(asked, copies=known.copies, config=known.config)
        self._wanted[name] = replace(
            known, copies=known.copies or copies, config=known.config or tuple(config)
        )

    @property
    def wanted(self) -> frozenset[str]:
        """Names of the topics that were noted so far."""
        return frozenset(self._wanted)

    def want_source(self, name: str, partitions: int | None) -> None:
        """Notes a topic that somebody reads: what the app makes for it is kept as safely as it."""
        self._sources.add(name)
        self.want(name, partitions)

    def want_state(self, name: str, partitions: int, *, exactly: bool = True) -> None:
        """Notes a topic of the app's own that holds state: `create` raises unless it is compacted.

        ``exactly``: its partitions lie beside those of the source topic, so no other number will do.
        """
        self._of_state.add(name)
        if not exactly:
            self._of_any_size.add(name)
        self.want(name, partitions, compacted=True)

    async def create(self, transport: Transport) -> None:
        """Learns the partitions of the wanted topics, and creates those that are missing.

        Raises TransportError for one that is made and does not show, ConfigurationError for one with another
        number of partitions than it has to have.
        """
        wanted, self._wanted = self._wanted, {}
        self.counts.update(await transport.partition_counts(wanted))
        missing = [
            replace(spec, partitions=spec.partitions or self._partitions_default)
            for spec in wanted.values()
            if spec.name not in self.counts
        ]
        # Sources first: what else is made takes after them.
        for of_source in (True, False):
            specs = [spec for spec in missing if (spec.name in self._sources) is of_source]
            if specs:
                specs = await self._with_room_for_letters(specs, transport)
                specs = await self._with_copies(specs, transport)
                await transport.create_topics(specs)
                self.counts.update(await transport.partition_counts([spec.name for spec in specs]))
        if isinstance(transport, KnowsLimits):
            self.limits.update(await transport.record_limits(wanted))
        await refuse_deleting(transport, self._of_state & wanted.keys())
        for spec in wanted.values():
            found = self.counts.get(spec.name, 0)
            if not found:
                # Unknown is not another number: only time helps, and nothing is to be deleted for it.
                raise TransportError(
                    f"topic {spec.name!r} was created, and the broker does not show it yet: start again"
                )
            exactly = spec.compacted and spec.partitions and spec.name not in self._of_any_size
            if exactly and found != spec.partitions:
                raise ConfigurationError(
                    f"topic {spec.name!r} has {found} partitions and needs {spec.partitions}: its "
                    "source topic was given another number. `streamflow grow` brings the state to it, "
                    "`streamflow reset` starts anew"
                )

    async def make(self, transport: Transport, name: str) -> None:
        """Makes a compacted topic of one partition, where it is missing, and nothing else that is wanted."""
        found = await transport.partition_counts([name])
        if not found:
            specs = await self._with_copies([TopicSpec(name, 1, compacted=True)], transport)
            await transport.create_topics(specs)
            found = await transport.partition_counts([name])
        self.counts.update(found)

    async def _with_room_for_letters(
        self, specs: Sequence[TopicSpec], transport: Transport
    ) -> list[TopicSpec]:
        """Dead-letter topics take what their sources take, and the added headers."""
        letters = {spec.name: self._letters_of[spec.name] for spec in specs if spec.name in self._letters_of}
        if not letters or not isinstance(transport, KnowsLimits):
            return list(specs)  # no topic has a limit there
        limits = await transport.record_limits(set().union(*letters.values()))
        return [
            replace(
                spec,
                record_bytes_max=EXTRA_BYTES
                + max(limits.get(source, RECORD_BYTES_DEFAULT) for source in letters[spec.name]),
            )
            if spec.name in letters
            else spec
            for spec in specs
        ]

    async def _with_copies(self, specs: Sequence[TopicSpec], transport: Transport) -> list[TopicSpec]:
        """As many copies as were asked for, else as the sources have; state is acknowledged by as many."""
        replication = await replication_of(transport, self._sources)
        copies = self._copies_default or max((one.copies for one in replication.values()), default=0)
        in_sync = max((one.in_sync_min or 1 for one in replication.values()), default=1)
        found = []
        for spec in specs:
            spec = replace(spec, copies=spec.copies or copies)
            if spec.name in self._of_state and 1 < in_sync <= spec.copies:
                spec = replace(spec, config=(("min.insync.replicas", str(in_sync)), *spec.config))
            found.append(spec)
        return found

    async def thin(self, transport: Transport, names: Iterable[str]) -> dict[str, str]:
        """topic of state -> what is wrong with it, where it is kept less safely than the sources."""
        sources = await replication_of(transport, self._sources)
        wanted = max((one.copies for one in sources.values()), default=1)
        if wanted == 1:
            return {}
        found = {}
        for name, one in (await replication_of(transport, names)).items():
            if one.copies < wanted:
                found[name] = (
                    f"has {one.copies} of the {wanted} replicas that its sources have: what was counted may "
                    "be lost with a broker. Give it more (Kafka: `kafka-reassign-partitions.sh`); what the "
                    "app creates has topic_replication_factor"
                )
            elif one.in_sync_min == 1 and one.copies > MIN_COPIES_FOR_QUORUM:
                least = one.copies - 1
                found[name] = (
                    "has min.insync.replicas=1: what one broker alone has acknowledged is lost with it. Set "
                    f"it to {least} (Kafka: `kafka-configs.sh --alter --entity-type topics --entity-name "
                    f"{name} --add-config min.insync.replicas={least}`)"
                )
        return found

    async def look_up(self, transport: Transport, names: Iterable[str]) -> None:
        """Learns of topics that are there already."""
        found = await transport.partition_counts(names)
        self.counts.update(found)
        if found and isinstance(transport, KnowsLimits):
            self.limits.update(await transport.record_limits(found))

    def agreed(self, topics: Iterable[str], what: str, partitions: int | None) -> int:
        """The number of partitions of a table: its topics' if they agree, else ``partitions``."""
        counts = {topic: self.counts[topic] for topic in topics}
        if partitions is not None:
            return partitions
        if len(set(counts.values())) == 1:
            return next(iter(counts.values()))
        found = ", ".join(f"{topic}: {count}" for topic, count in sorted(counts.items())) or "no topic"
        raise ConfigurationError(
            f"{what} can't take its number of partitions from the agents' topics ({found}); say partitions="
        )


async def replication_of(transport: Transport, names: Iterable[str]) -> dict[str, Replication]:
    """topic -> how it is kept, of those that are there; nothing where topics have no copies of their own."""
    wanted = sorted(set(names))
    if not wanted or not isinstance(transport, KnowsReplication):
        return {}
    return await transport.replication(wanted)


async def deleting(transport: Transport, topics: Iterable[str]) -> dict[str, str]:
    """topic -> its policy, of those whose old records the broker deletes, as far as it tells."""
    policies = await transport.cleanup_policies(topics)
    return {topic: policy for topic, policy in policies.items() if "delete" in policy}


def to_compact(topic: str, policy: str) -> str:
    """What is wrong with a topic that holds state, and what to do."""
    return (
        f"topic {topic!r} holds this app's state and its cleanup.policy is {policy!r}: the broker deletes "
        "what is older than the topic's retention.ms, and rows or positions with it. Set "
        "cleanup.policy=compact (Kafka: `kafka-configs.sh --alter --entity-type topics --entity-name "
        f"{topic} --add-config cleanup.policy=compact`), or let `streamflow reset` delete it: the next "
        "worker makes it anew"
    )


async def refuse_deleting(transport: Transport, topics: Iterable[str]) -> None:
    """Raises ConfigurationError for topics of state that are not compacted.

    What is compacted and deleted from is taken: stock Faust makes the changelogs of windowed tables so.
    """
    for topic, policy in sorted((await deleting(transport, topics)).items()):
        if "compact" not in policy:
            raise ConfigurationError(to_compact(topic, policy))


async def refuse_foreign_rows(transport: Transport, topics: Topics, tables: Iterable[str]) -> None:
    """Raises ConfigurationError where rows were written by somebody who never wrote progress: stock Faust.

    They lie by its partitioner, murmur2; counted on by another, a key would have two rows.
    """
    logs = [topics.changelog(name) for name in tables]
    counts = await transport.partition_counts([topics.progress, *logs])
    if topics.progress in counts:
        return
    for log in logs:
        count = counts.get(log, 0)
        ends = await end_of_logs(transport, [(log, partition) for partition in range(count)])
        if count > 1 and any(ends.values()):
            raise ConfigurationError(
                f"topic {log!r} holds rows of stock Faust, which lie by murmur2: set partitioner='murmur2' "
                "to go on with them (as `streamflow migrate-check` says), or another one if they do not"
            )
