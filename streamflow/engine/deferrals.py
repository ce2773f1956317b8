"""Moves events whose attempts in place are over to their next retry topic, as part of a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from streamflow.codecs.chunk import Chunk
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.dead_letters import headers_at, sentence
from streamflow.engine.retry_topics import RetryTopic, Waiting, waiting
from streamflow.processing.agent import AgentRunner
from streamflow.state.event_context import SendPromise

logger = logging.getLogger(__name__)


class Deferrals:
    """Of one app. ``topics``: the retry topics that its agents read, by name."""

    def __init__(
        self,
        app: str,
        topics: Mapping[str, RetryTopic],
        active: Callable[[], ActiveAssignment | None],
        now_ms: Callable[[], int],
    ) -> None:
        self._app = app
        self._topics = topics
        self._active = active
        self._now_ms = now_ms
        self._told: set[tuple[str, str, str]] = set()

    def defer(self, agent: AgentRunner, chunk: Chunk, index: int, error: BaseException) -> bool:
        """Has an agent's event try again later. False: there is no later for it, so it is given up."""
        step = agent.retry_steps.get(chunk.topic)
        active = self._active()
        if step is None or active is None or not agent.spec.retry.may_cure(error):
            return False
        if (step.topic, chunk.partition) not in agent.progress:
            # The source has grown under a running worker. Where the agent has no progress that is durable
            # with this very checkpoint, whoever reads that partition first might begin behind the record.
            logger.warning(
                "agent %s: %s[%d] is not read by this worker: start it again, so that the retry topic grows",
                agent.spec.name,
                step.topic,
                chunk.partition,
            )
            return False
        before = waiting(headers_at(chunk.headers, index)) if chunk.topic in self._topics else None
        source = (chunk.topic, chunk.partition, chunk.offsets[index])
        moved = Waiting(
            self._app,
            source if before is None else before.source,
            chunk.timestamps_ms[index],
            agent.failing().get(source, 1) + (0 if before is None else before.attempts),
            self._now_ms() + step.wait_ms,
            agent.spec.consumer,
            headers_at(chunk.headers, index) if before is None else before.headers,
        )
        key, value = chunk.raw_keys[index], chunk.raw_values[index]
        record = moved.record(step.topic, chunk.partition, key, value, sentence(error))
        # As if the agent had sent it for the event: what the broker refuses becomes the event's dead letter.
        promise = SendPromise(agent.spec.consumer, (chunk, index))
        active.deferred.append((index, record, promise))
        self._tell(agent, step.topic, moved, error)
        return True

    def _tell(self, agent: AgentRunner, topic: str, moved: Waiting, error: BaseException) -> None:
        what = (agent.spec.name, topic, type(error).__name__)
        level = logging.DEBUG if what in self._told else logging.WARNING
        self._told.add(what)
        place, partition, offset = moved.source
        logger.log(
            level,
            "agent %s: %s[%d]@%d goes to %s after %d attempts: %s (said once for each topic and error)",
            agent.spec.name,
            place,
            partition,
            offset,
            topic,
            moved.attempts,
            sentence(error),
        )
