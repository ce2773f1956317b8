"""What `streamflow verify` can tell of a table in Faust's form: whether its agents took each record once.

Its rows are made by somebody's own code, which a recount does not run. So for each agent that may write it
and each partition ``in = counted + late + filtered + bad + failed + deferred + dropped`` is held against the
records of the source topic, up to where the agent has come; and the same in each of its retry topics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec
from streamflow.clock import Clock
from streamflow.engine.assignment import table_consumer
from streamflow.engine.decoding import TopicSource
from streamflow.settings import Settings
from streamflow.state.progress import OUTCOMES, Progress
from streamflow.transports.base import Transport
from streamflow.verify.recount import Image, Verifier, same_records
from streamflow.verify.report import PartitionCount, Report


class AgentVerifier(Verifier):
    """Verifies what one agent took of one topic."""

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        clock: Clock,
        agent: str,
        source: TopicSource,
        progressed: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        # A count of all records goes through the same decoding as the agent's events; what was replayed for
        # another consumer was none of them.
        spec = AggregateSpec(f"agent:{agent}", source.name, None, None, RowFunctions(Count()))
        super().__init__(transport, settings, clock, spec, source, progressed)
        self._consumer = f"agent:{agent}"
        self._agent = agent
        self._retry_topic = None if source.retry is None else source.name

    def _durable(self, partition: int) -> Progress:
        found = self._board.get(self._consumer, self.spec.topic, partition)
        return Progress(self._consumer, self.spec.topic, partition) if found is None else found

    def wrote(self, table: str) -> bool:
        """Has the agent written to the table, as far as is durable? Known after `run`."""
        found = [self._board.get(table_consumer(table), "", at) for at in range(self._sources)]
        return any(self._consumer in progress.writers for progress in found if progress is not None)

    async def run(self) -> Report:
        """Reads and compares. Raises VerifyError, and TransportError where the broker is away."""
        await self._read_at_once(await self._look_up())
        await self._check_log()
        _, good, decoded = await self._recount(Image())
        report = Report("", rows_compared=False)
        for partition in range(self._sources):
            durable = self._durable(partition)
            bad_again = decoded[partition].counters.get("bad", 0)  # before they reached the agent
            decoder = self._board.get(self._decoder.consumer, self.spec.topic, partition)
            # Further than the agent, or from elsewhere on, it has counted what the agent has not passed.
            level = decoder is not None and same_records(decoder, durable)
            bad = decoder.counters.get("bad", 0) if decoder is not None and level else bad_again
            counters = {n: durable.counters.get(n, 0) for n in ("in", *OUTCOMES)}
            recounted = {**counters, "in": good[partition].counters.get("in", 0)}
            if durable.done:
                recounted["in"] = counters["in"]
                note = f"partition {partition}: events are in flight, so its records were not counted"
                report.notes.append(note)
            for one, more in ((counters, bad), (recounted, bad_again)):
                one["in"] += more
                one["bad"] += more
            if self._retry_topic is None:  # there it begins at the end: nothing was waiting for it
                report.notes.extend(self._notes_on_beginning(durable))
            count = PartitionCount(
                partition, durable.position, counters, recounted, self._agent, self._retry_topic
            )
            if self._retry_topic is None or counters["in"] or recounted["in"]:
                report.partitions.append(count)
        return report


async def verify_agents(
    name: str, agents: Iterable[tuple[str, TopicSource]], make: Callable[[str, TopicSource], AgentVerifier]
) -> Report:
    """The report on a table in Faust's form; ``agents``: each that may write it, with a topic of it."""
    report = Report(name, rows_compared=False)
    report.notes.append(
        "its rows are made by the agent's own code, which is not run again: records were counted, not rows"
    )
    verifiers = [make(agent, source) for agent, source in sorted(agents, key=lambda each: each[0])]
    reports = [await verifier.run() for verifier in verifiers]
    # As over HTTP: those that were seen to write it; before that, whoever may.
    wrote = [one for verifier, one in zip(verifiers, reports, strict=True) if verifier.wrote(name)]
    for one in wrote or reports:
        report.partitions.extend(one.partitions)
        report.notes.extend(one.notes)
    return report
