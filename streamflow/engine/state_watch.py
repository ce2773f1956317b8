"""Do the logs of state still hold what was written, while a worker runs?

Each assignment looks at them (`lost_state`). But a worker that goes on for weeks would write into what a
deleted changelog has become, and count on rows that no restart would find. So it looks now and then: a log
that ends before the durable note of its end, a topic with another id than it had, one that is not there.
What is found counts when the next look finds it too: a broker may not know yet what another one does.

What then happens is the setting ``on_lost_state``, as at an assignment.
"""

from __future__ import annotations

from streamflow.clock import Clock
from streamflow.engine.lost_state import CURE, short_logs
from streamflow.engine.rebalance import Rebalance
from streamflow.engine.topology import Topology
from streamflow.errors import LostWrites, TransportError
from streamflow.state.restore import end_of_logs
from streamflow.transports.base import KnowsTopicIds, Transport

LOOK_MS = 10_000.0


class StateWatch:
    """Ends the worker, or has what is left read back, where state is lost."""

    def __init__(self, topology: Topology, transport: Transport, clock: Clock, rebalance: Rebalance) -> None:
        self._topology = topology
        self._transport = transport
        self._clock = clock
        self._rebalance = rebalance
        self._ids: dict[str, str] = {}  # topic -> its id when it was seen first
        self._seen: set[str] = set()  # topics that were there
        self._suspected: set[str] = set()  # topics that the last look found changed

    @property
    def has_looked(self) -> bool:
        return bool(self._seen)

    async def run(self) -> None:
        """Until cancelled. Raises LostWrites."""
        while True:
            try:
                await self.look()
            except TransportError:
                pass  # of a broker that does not answer others tell
            await self._clock.sleep_ms(LOOK_MS)

    async def look(self) -> None:
        """One look. Raises LostWrites, where this is the setting, and TransportError."""
        active = self._rebalance.active
        topics, transport = self._topology.state_topics(), self._transport
        ids = await transport.topic_ids(topics) if isinstance(transport, KnowsTopicIds) else {}
        there = await transport.partition_counts(topics)
        gone = self._seen - there.keys()
        found = {topic: f"topic {topic!r} held state of this app, and is gone" for topic in gone}
        for topic, topic_id in ids.items():
            before = self._ids.setdefault(topic, topic_id)
            if topic_id != before:
                found[topic] = (
                    f"topic {topic!r} held state of this app, and was deleted and made again (its id is "
                    f"{topic_id}, and was {before})"
                )
        self._seen.update(there)
        if active is None:
            return  # what is found now is found again when something is held
        noted = [(at, progress) for at, progress in active.state_logs() if at[0] in there]
        ends = await end_of_logs(transport, {at for at, _ in noted})
        for (at, _), said in short_logs(noted, ends):
            found.setdefault(at[0], said)
        lost = found.keys() & self._suspected
        self._suspected = set(found)
        if not lost or not self._rebalance.is_current(active):
            return
        said = "; ".join(found[topic] for topic in sorted(lost))
        # A topic that is gone a start makes again, and without progress nothing can go on.
        if self._topology.on_lost_state != "go_on" or lost & {*gone, self._topology.topics.progress}:
            raise LostWrites(f"{said}. {CURE}")
        self._rebalance.lose(lost, LostWrites(f"{said}; going on with what is left (on_lost_state)"))
        self._suspected.clear()
        for topic in lost:
            self._ids.pop(topic, None)
