"""What `App`'s declarations take and hand on to Faust's, by name and type."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from re import Pattern
from typing import IO, Any, NamedTuple, TypedDict

from faust.types import AgentT, SchemaT
from faust.types.agents import SinkT
from faust.types.codecs import CodecArg
from mode import Seconds, SupervisorStrategyT
from yarl import URL

from streamflow.processing.buffer import Buffer
from streamflow.processing.circuit_breaker import CircuitBreaker
from streamflow.processing.retries import Retry
from streamflow.state.beginning import Start
from streamflow.state.event_context import SendTime

OnError = Callable[[AgentT[Any], BaseException], Any]
"""A coroutine function that is told each failure."""


class TopicOptions(TypedDict, total=False):
    """Those of Faust's ``App.topic``, besides the types of keys and values."""

    pattern: str | Pattern[str] | None
    schema: SchemaT[Any, Any] | None
    key_serializer: CodecArg
    value_serializer: CodecArg
    partitions: int | None
    retention: Seconds | None
    compacting: bool | None
    deleting: bool | None
    replicas: int | None
    acks: bool
    internal: bool
    config: Mapping[str, Any] | None
    maxsize: int | None
    allow_empty: bool
    has_prefix: bool
    loop: asyncio.AbstractEventLoop | None


class AgentOptions(TypedDict, total=False):
    """Those of Faust's ``App.agent``."""

    name: str | None
    concurrency: int
    supervisor_strategy: type[SupervisorStrategyT] | None
    sink: Iterable[SinkT] | None
    isolated_partitions: bool
    use_reply_headers: bool


class RouterOptions(AgentOptions, total=False):
    """Those of `App.agent`."""

    on_error: OnError | None
    retry: Retry | None
    dead_letter: bool | str
    buffer: Buffer | None
    breaker: CircuitBreaker | None
    timeout_s: float | None
    start: Start | datetime | float | None
    send_time: SendTime


class SinkOptions(TypedDict, total=False):
    """Those of `App.sink`: of batches, and of `App.agent` what means something where an agent writes."""

    batch: int
    within_s: float
    name: str
    retry: Retry
    dead_letter: bool | str
    on_error: OnError | None
    buffer: Buffer | None
    breaker: CircuitBreaker | None
    timeout_s: float | None
    start: Start | datetime | float | None


class AggregateOptions(TypedDict, total=False):
    """Those of `App.aggregate` that most leave as they are."""

    store: str | URL | None
    start: Start | datetime | float
    send_time: SendTime


class StreamOptions(TypedDict, total=False):
    """Those of `App.stream`."""

    prefix: str
    processors: Iterable[Callable[[Any], Any]] | None
    enable_acks: bool
    on_start: Callable[[], Awaitable[object]] | None
    loop: asyncio.AbstractEventLoop | None


class AnsiTableOptions(TypedDict, total=False):
    """How a table is written to a terminal, besides its title."""

    key: str
    value: str
    sort: bool
    sortkey: Callable[[Any], Any]
    target: IO[str]


class FailureOptions(NamedTuple):
    """Those of `App.agent` that Faust's does not have."""

    on_error: OnError | None = None
    retry: Retry = Retry()
    dead_letter: bool | str = True
    buffer: Buffer = Buffer()
    start: Start | None = None
    send_time: SendTime = "now"
    breaker: CircuitBreaker | None = None
    timeout_s: float | None = None
