"""A small model of what a broker has of one producer's transactions, and a connection that answers from it.

It keeps what decides the outcome (which life, what is open, what is committed), and gives at chosen requests
a chosen error code, before or behind what the request does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatch

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError, TransportError
from streamflow.transports.base import TopicPartition
from streamflow.transports.kafka.connection import Connection, Coordinator, Deadline
from streamflow.transports.kafka.outcomes import Asked, asked_by
from streamflow.transports.kafka.settings import KafkaSettings
from tests.support.loop_clock import LoopClock

NODE = 1
PRODUCER_ID = 7
INVALID_PRODUCER_EPOCH = 47
INVALID_TXN_STATE = 48


class Broker:
    """``committed``: values that readers of committed records see, in their order."""

    def __init__(self) -> None:
        self.epoch = -1
        self.state = "empty"
        self.committed: list[bytes] = []
        self.offsets: list[Any] = []
        self._open: list[bytes] = []
        self._open_offsets: list[Any] = []
        self._sequences: dict[TopicPartition, int] = {}

    def begin_life(self) -> int:
        self._end(False)
        self.epoch += 1
        self.state = "empty"
        self._sequences = {}
        return 0

    def join(self, epoch: int) -> int:
        """Adds partitions, or the group, to the transaction."""
        if epoch != self.epoch:
            return INVALID_PRODUCER_EPOCH
        self.state = "ongoing"
        return 0

    def produce(self, spot: TopicPartition, data: bytes) -> int:
        batch = DefaultRecordBatch(data)
        if batch.producer_epoch != self.epoch:
            return INVALID_PRODUCER_EPOCH
        if self.state != "ongoing":
            return INVALID_TXN_STATE
        if batch.base_sequence >= self._sequences.get(spot, 0):
            values = [record.value for record in batch]
            self._open += values
            self._sequences[spot] = batch.base_sequence + len(values)
        return 0

    def take_offsets(self, epoch: int, offsets: Any) -> int:
        if epoch != self.epoch:
            return INVALID_PRODUCER_EPOCH
        self._open_offsets = [offsets]
        return 0

    def end(self, epoch: int, commit: bool) -> int:
        if epoch != self.epoch:
            return INVALID_PRODUCER_EPOCH
        if self.state == ("committed" if commit else "aborted"):
            return 0
        if self.state != "ongoing":
            return INVALID_TXN_STATE
        self._end(commit)
        return 0

    def _end(self, commit: bool) -> None:
        if commit:
            self.committed += self._open
            self.offsets += self._open_offsets
        self._open, self._open_offsets = [], []
        self.state = "committed" if commit else "aborted"


@dataclass(slots=True)
class Script:
    """What happens to the first ``times`` requests of a kind.

    Attributes:
        code: the error code of the answer; None: there is no answer.
        obeyed: the request does what it asks for all the same.
        away: from then on there is no coordinator: for ever, or so many look-ups.
        denied: looking it up is denied from then on.
        cancel: the task to be cancelled then.
    """

    asked: Asked
    code: int | None
    obeyed: bool
    times: int = 1
    away: float = 0
    denied: bool = False
    cancel: bool = False
    met: int = 0
    began: asyncio.Event = field(default_factory=asyncio.Event)


class ScriptedConnection(Connection):
    """A `Connection` whose only broker is the model. Everything above the wire is the real one's."""

    def __init__(self, settings: KafkaSettings, clock: Clock, broker: Broker) -> None:
        super().__init__(settings, clock)
        self.broker = broker
        self.script: Script | None = None
        self.asked: list[Asked] = []
        self._away: float = 0
        self._denied = False

    def heal(self) -> None:
        """The script is over."""
        self.script, self._away, self._denied = None, 0, False

    async def coordinator(self, kind: Coordinator, key: str, deadline: Deadline) -> int:
        await asyncio.sleep(0.001)
        if self._denied and kind is Coordinator.TRANSACTION:
            raise ConfigurationError(f"no coordinator for {key}: denied")
        if self._away > 0 and kind is Coordinator.TRANSACTION:
            self._away -= 1
            raise TransportError(f"no coordinator for {key}")
        return NODE

    async def leaders(
        self, partitions: Iterable[TopicPartition], deadline: Deadline
    ) -> dict[int, list[TopicPartition]]:
        return {NODE: list(partitions)}

    async def refresh(self, deadline: Deadline) -> None:
        await asyncio.sleep(0.001)

    async def ask(self, node_id: int, request: Any, deadline: Deadline, *, coordinator: bool = False) -> Any:
        try:
            async with asyncio.timeout(deadline.left_s()):
                await asyncio.sleep(0.001)
                asked, script = asked_by(request), self.script
                self.asked.append(asked)
                if script is None or asked is not script.asked or script.met >= script.times:
                    return answer(request, self._obey(request), self.broker.epoch)
                script.met += 1
                script.began.set()
                if script.obeyed:
                    self._obey(request)
                self._away, self._denied = script.away, script.denied
                if script.cancel:
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                    await asyncio.sleep(0.001)
                if script.code is None:
                    await asyncio.sleep(1.0)
                    raise TransportError(f"{asked.value}: no answer")
                return answer(request, script.code, self.broker.epoch)
        except TimeoutError as exc:
            raise TransportError("no answer in time") from exc

    def _obey(self, request: Any) -> int:
        broker, asked = self.broker, asked_by(request)
        if asked is Asked.INIT:
            return broker.begin_life()
        if asked is Asked.PRODUCE:
            codes = {broker.produce((t, p), data) for t, rows in request._topics for p, data in rows}
            return max(codes)
        if asked is Asked.OFFSETS:
            return broker.take_offsets(request.producer_epoch, request.topics)
        if asked is Asked.END:
            return broker.end(request._producer_epoch, request._transaction_result)
        if asked in (Asked.ADD_PARTITIONS, Asked.ADD_OFFSETS):
            return broker.join(request._producer_epoch)
        return 0  # a heartbeat: the group has not moved


def answer(request: Any, code: int, epoch: int) -> Any:
    """The answer with this code, for every partition that it names."""
    asked = asked_by(request)
    if asked is Asked.PRODUCE:
        return SimpleNamespace(
            topics=[(topic, [(p, code, 0, -1) for p, _ in parts]) for topic, parts in request._topics]
        )
    if asked is Asked.ADD_PARTITIONS:
        return SimpleNamespace(
            errors=[(topic, [(p, code) for p in parts]) for topic, parts in request._topics]
        )
    if asked is Asked.OFFSETS:
        return SimpleNamespace(
            errors=[(topic, [(row[0], code, {}) for row in parts], {}) for topic, parts, _ in request.topics]
        )
    return SimpleNamespace(error_code=code, producer_id=PRODUCER_ID, producer_epoch=epoch)


def connection(settings: KafkaSettings) -> ScriptedConnection:
    """One with a broker of its own, on the running loop's time."""
    return ScriptedConnection(settings, LoopClock(), Broker())
