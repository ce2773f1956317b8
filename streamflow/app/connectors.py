"""Sources and sinks of an app: what is read into its topics, and agents that write its topics elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import ClientError
from faust.types import ChannelT, EventT

from streamflow.app.agents.runner import transient_errors
from streamflow.app.interface import AppT
from streamflow.app.options import SinkOptions
from streamflow.app.settings import Settings
from streamflow.app.topics.topic import Topic
from streamflow.clock import Clock
from streamflow.connectors.base import Sink, SinkPartition, SinkRecord, SinkWriter, Source
from streamflow.engine.engine import Engine
from streamflow.engine.source_feed import SourceSpec
from streamflow.engine.trouble import Trouble
from streamflow.errors import CircuitOpen, ConfigurationError, TransientError
from streamflow.processing.circuit_breaker import CircuitBreaker
from streamflow.processing.failure_policy import LOOK_MS
from streamflow.processing.retries import Failing, Retry, Transient

logger = logging.getLogger(__name__)

OF_WRITING = frozenset({"batch", "within_s", "retry", "breaker"})
DAY_S = 86_400.0
SINK_RETRY = Retry(for_s=DAY_S, on=(OSError, TimeoutError, TransientError, ClientError))
"""An outage is waited out; all else is the record's fault, which is set aside at once."""


class Sources:
    """Those of one app."""

    def __init__(self) -> None:
        self._declared: dict[str, tuple[Source, Topic]] = {}

    def add(self, name: str, source: Source, topic: Topic) -> None:
        """Raises ConfigurationError."""
        if name in self._declared:
            raise ConfigurationError(f"two sources are named {name!r}")
        if source.partitions < 1:
            raise ConfigurationError(f"source {name!r}: partitions={source.partitions!r} must be from 1 up")
        self._declared[name] = source, topic

    def attach(self, engine: Engine, conf: Settings) -> None:
        """The engine reads them from its start on."""
        for name, (source, topic) in self._declared.items():
            into = topic.source()
            spec = SourceSpec(
                name,
                into.name,
                source,
                into.key.encode,
                conf.producer_max_request_size,
                transient_errors(engine.settings.transient_errors),
            )
            engine.topology.add_source(spec, into.partitions)


def declare_sink(app: AppT, topic: ChannelT[Any], sink: Sink, options: SinkOptions) -> Any:
    """An agent that writes a topic to a sink. Raises ConfigurationError, TypeError."""
    unknown = sorted(options.keys() - SinkOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"App.sink: there is no option {unknown[0]!r}")
    name = options.get("name") or f"sink-{topic.get_topic_name()}"
    batch, within_s = options.get("batch", 1_000), options.get("within_s", 1.0)
    if batch < 1 or within_s < 0:
        raise ConfigurationError(
            f"sink {name!r}: batch={batch!r} is from 1 up, within_s={within_s!r} from 0 up"
        )
    writing = Writing(app, name, sink, options.get("retry", SINK_RETRY), options.get("breaker"))

    async def write(stream: Any) -> None:
        try:
            async for events in stream.take_events(batch, within_s):
                for at, records in _by_partition(events).items():
                    await writing.write(*at, records)
        finally:
            await writing.close()

    others: dict[str, Any] = {key: value for key, value in options.items() if key not in OF_WRITING}
    # What it raises is no outage: of a batch each event is tried alone, and the one at fault is set aside.
    return app.agent(topic, **{**others, "name": name, "retry": Retry(attempts=1)})(write)


class Writing:
    """What one agent writes to a sink.

    A write that failed for what a wait may cure is tried again as it is, by a writer that is opened anew:
    its position tells what of the batch is written, so an unknown outcome writes nothing twice. The agent's
    position passes a batch only when it is durable in the sink; where a worker is killed in between, the
    sink's position is ahead, and the batch is given again and dropped there. Its partitions may go while it
    waits: then it is cancelled, and whoever has them next opens, which fences what is still under way.
    """

    def __init__(
        self, app: AppT, name: str, sink: Sink, retry: Retry, breaker: CircuitBreaker | None
    ) -> None:
        self._app = app
        self._name = name
        self._sink = sink
        self._retry = retry
        self._breaker = breaker
        self._writers: dict[tuple[str, int], SinkWriter] = {}

    async def write(self, topic: str, partition: int, records: Sequence[SinkRecord]) -> None:
        """Returns when they are durable; raises what no wait cures, or has not cured for long enough."""
        engine = self._app.engine
        clock, transient = engine.clock, transient_errors(engine.settings.transient_errors)
        trouble = Trouble(logger, clock, f"{self._name}: {topic}[{partition}] can't be written")
        failing: Failing | None = None
        while True:
            era = await self._admitted(clock)
            try:
                await self._try(engine, topic, partition, records)
            except Exception as exc:
                self._tell_breaker(era, exc, transient)
                await self._close(topic, partition)
                now_ms = clock.monotonic_ms()
                failing = (failing or Failing(now_ms)).again()
                if self._retry.is_over(exc, failing.attempts, now_ms - failing.since_ms, transient):
                    raise
                trouble.failed(exc)
                await clock.sleep_ms(self._retry.wait_ms(failing.attempts))
            except BaseException as exc:
                self._tell_breaker(era, exc, transient)
                raise
            else:
                self._tell_breaker(era, None, transient)
                trouble.worked()
                return

    async def _admitted(self, clock: Clock) -> int:
        """Waits while the breaker is open. Nothing is tried then, so it counts as no attempt."""
        breaker = self._breaker
        while breaker is not None:
            breaker.keep_time_by(clock)
            try:
                return breaker.enter()
            except CircuitOpen:
                await clock.sleep_ms(max(LOOK_MS, breaker.open_for_ms()))
        return 0

    def _tell_breaker(self, era: int, exc: BaseException | None, transient: Transient) -> None:
        """Who refuses a record is well; a service is down where a wait may cure it."""
        breaker = self._breaker
        if breaker is not None:
            answers = isinstance(exc, Exception) and breaker.on is None and not transient.holds(exc)
            breaker.leave(era, None if answers else exc)

    async def _try(self, engine: Engine, topic: str, partition: int, records: Sequence[SinkRecord]) -> None:
        writer = self._writers.get((topic, partition))
        if writer is None:
            at = SinkPartition(topic, partition, _log_of(engine, self._name, topic, partition))
            writer = self._writers[topic, partition] = await self._sink.open(at)
        await writer.write(records)

    async def _close(self, topic: str, partition: int) -> None:
        writer = self._writers.pop((topic, partition), None)
        if writer is not None:
            await writer.close()

    async def close(self) -> None:
        """The agent ends, or begins anew: with other partitions perhaps."""
        for at in list(self._writers):
            await self._close(*at)


def _by_partition(events: Sequence[EventT[Any]]) -> Mapping[tuple[str, int], list[SinkRecord]]:
    found: dict[tuple[str, int], list[SinkRecord]] = {}
    for event in events:
        message = event.message
        record = SinkRecord(
            message.offset, round(message.timestamp * 1_000), message.key, message.value, event.value
        )
        found.setdefault((message.topic, message.partition), []).append(record)
    return found


def _log_of(engine: Engine, agent: str, topic: str, partition: int) -> str:
    """The id of the topic that the agent's position is in; a topic that was made anew has another one."""
    for each in engine.topology.agents:
        if each.spec.name == agent:
            for progress in each.progress.values():
                if (progress.topic, progress.partition) == (topic, partition):
                    return progress.topic_id or ""
    return ""
