"""Faust's sensors, told of what the engine does.

Faust's own monitor is told by whole batches, so that it costs nothing for each event. A sensor of
the user's (also a subclass of the monitor) is called for each message and event, as in Faust.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faust.sensors import Monitor
from faust.types.tuples import TP

from streamflow.app.topics.serializers import message_of
from streamflow.transports.base import Batch, Record, TopicPartition

if TYPE_CHECKING:
    from streamflow.app.app import App


class Sensors:
    """The sensors of one app, in two kinds: ``plain`` monitors and ``busy`` ones."""

    def __init__(self, app: App) -> None:
        self.app = app
        every: list[Any] = list(app.sensors)
        self.plain: list[Monitor] = [sensor for sensor in every if type(sensor) is Monitor]
        self.busy = [sensor for sensor in every if type(sensor) is not Monitor]
        self._committing: list[tuple[Any, Any]] = []  # (sensor, what it gave at the beginning)
        self._processed: dict[str, int] = {}  # agent -> events that the monitors know of

    # -- the engine's side -------------------------------------------------------------------------

    def on_batch(self, batch: Batch) -> None:
        """What was fetched, before anybody sees it."""
        if not batch.offsets:
            return
        at = TP(batch.topic, batch.partition)
        for monitor in self.plain:
            monitor.messages_received_total += len(batch.offsets)
            monitor.messages_received_by_topic[batch.topic] += len(batch.offsets)
            monitor.tp_read_offsets[at] = batch.offsets[-1]
        for sensor in [*self.plain, *self.busy]:
            if isinstance(sensor, Monitor):
                sensor.track_tp_end_offset(at, batch.end_offset)
        if self.busy:
            for index, offset in enumerate(batch.offsets):
                message = message_of(batch, index)
                for sensor in self.busy:
                    sensor.on_message_in(at, offset, message)

    def on_full(self, partition: TopicPartition) -> None:
        """A partition waits, because an agent's buffer is full."""
        for sensor in [*self.plain, *self.busy]:
            sensor.on_topic_buffer_full(TP(*partition))

    def on_committing(self) -> None:
        """A checkpoint begins."""
        consumer: Any = None  # Faust's consumer does not exist here
        self._committing = [
            (sensor, sensor.on_commit_initiated(consumer)) for sensor in [*self.plain, *self.busy]
        ]

    def on_committed(self) -> None:
        """The checkpoint is durable."""
        consumer: Any = None
        engine = self.app.engine_service_engine
        assert engine is not None
        offsets = {} if engine.active is None else engine.active.offsets()
        for sensor, state in self._committing:
            sensor.on_commit_completed(consumer, state)
            if isinstance(sensor, Monitor):
                sensor.on_tp_commit({TP(*at): offset for at, offset in offsets.items()})
        self._committing = []
        for agent in engine.agents:
            more = agent.processed - self._processed.get(agent.spec.name, 0)
            self._processed[agent.spec.name] = agent.processed
            for monitor in self.plain:
                monitor.events_total += more
                monitor.messages_active = max(0, monitor.messages_active)
                monitor.events_by_task[agent.spec.name] += more
                monitor.events_by_stream[agent.spec.name] += more

    # -- the app's side ----------------------------------------------------------------------------

    def on_send(self, record: Record, told: Any) -> None:
        """A record goes out; ``told`` is its acknowledgement."""
        for monitor in self.plain:
            monitor.messages_sent += 1
            monitor.messages_sent_by_topic[record.topic] += 1
        if not self.busy:
            return
        producer: Any = self.app.producer
        sizes = len(record.key or b""), len(record.value or b"")
        states = [
            (sensor, sensor.on_send_initiated(producer, record.topic, record, *sizes)) for sensor in self.busy
        ]

        def done(acknowledged: Any) -> None:
            exc = acknowledged.exception()
            for sensor, state in states:
                if exc is None:
                    sensor.on_send_completed(producer, state, acknowledged.result())
                else:
                    sensor.on_send_error(producer, exc, state)

        told.add_done_callback(done)

    def on_event_in(self, stream: Any, event: Any) -> list[tuple[Any, Any]]:
        """An agent takes an event; what is returned is to be given to `on_event_out`."""
        message = event.message
        at = TP(message.topic, message.partition)
        return [
            (sensor, sensor.on_stream_event_in(at, message.offset, stream, event)) for sensor in self.busy
        ]

    def on_event_out(self, stream: Any, event: Any, states: list[tuple[Any, Any]]) -> None:
        """The agent is through with it."""
        message = event.message
        at = TP(message.topic, message.partition)
        for sensor, state in states:
            sensor.on_stream_event_out(at, message.offset, stream, event, state)
            sensor.on_message_out(at, message.offset, message)
