"""An agent as the rest of the app sees it: to be sent to, asked, mapped over, and tried in a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, TypedDict, Unpack, cast

import faust
from faust.agents.agent import AgentTestWrapper
from faust.agents.replies import BarrierState, ReplyPromise
from faust.types import AgentT, ChannelT
from faust.types.agents import AgentErrorHandler, ReplyToArg
from faust.types.core import HeadersArg
from mode import SupervisorStrategyT
from mode.supervisors import CrashingSupervisor

from streamflow.app.agents.replies import EventReplyPromise
from streamflow.app.interface import AgentTesterT, AppT
from streamflow.state.event_context import current_context


class QuestionOptions(TypedDict, total=False):
    """Of the message that a question goes out as."""

    key: object
    partition: int | None
    timestamp: float | None
    headers: HeadersArg
    correlation_id: str | None


class Agent(faust.Agent):
    """A faust.Agent whose questions and answers go through the engine."""

    app: AppT

    async def _stop_supervisor(self) -> None:
        """Ends those too that took the place of one that failed: until Faust has started them it does not
        stop them, and would wait for them without end.
        """
        await super()._stop_supervisor()
        for actor in self._actors:
            if not actor.started and actor.actor_task is not None:
                actor.actor_task.cancel()

    def _may_wait(self, what: str) -> None:
        """Raises RuntimeError inside an event whose checkpoint the answer would wait for."""
        context = current_context.get()
        if context is None or not context.in_flight or not self.app.exactly_once:
            return
        raise RuntimeError(
            f"{self.name}.{what} from inside an agent: under exactly_once a question goes out with the "
            "checkpoint of its event, and the event would wait for the answer; use cast or send, let the "
            "other agent send on, or ask from a task, a timer or a page"
        )

    def test_context(
        self,
        channel: ChannelT[Any] | None = None,
        supervisor_strategy: SupervisorStrategyT | None = None,
        on_error: AgentErrorHandler | None = None,
        **options: object,
    ) -> Any:
        """This agent alone, without a worker: ``async with agent.test_context() as tried``.

        ``await tried.put(value, key=...)`` returns when the event has been processed, and raises what the
        agent raised; ``tried.results`` has what it yielded. Tables work, and are empty at the start; what
        is sent is kept in ``app.bench.sent`` as (topic, key, value) and goes nowhere.
        """
        tester = self.app.begin_bench()

        async def failed(agent: AgentT[Any], exc: BaseException) -> None:
            if on_error is not None:
                await on_error(agent, exc)
            await cast("AgentUnderTest", agent).crash_test_agent(exc)

        self.app.flow_control.resume()
        tried = self.clone(
            cls=AgentUnderTest,
            channel=channel if channel is not None else self.app.channel(),
            supervisor_strategy=supervisor_strategy or CrashingSupervisor,
            original_channel=self.channel,
            on_error=failed,
            **options,
        )
        cast("AgentUnderTest", tried).begin(tester)
        return tried

    async def ask(
        self, value: object = None, *, reply_to: ReplyToArg | None = None, **options: Unpack[QuestionOptions]
    ) -> Any:
        """Sends a question and waits for what the agent yields for it.

        Raises RuntimeError from inside an agent under exactly_once.
        """
        self._may_wait("ask")
        target = self._get_strtopic(reply_to or self.app.conf.reply_to)
        await self.app.replies.follow(target)
        promise = await self.ask_nowait(value, reply_to=target, force=True, **options)
        return await promise

    async def ask_nowait(
        self,
        value: object = None,
        *,
        key: object = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        reply_to: ReplyToArg | None = None,
        correlation_id: str | None = None,
        force: bool = False,
    ) -> ReplyPromise:
        """Sends a question; returns a promise of the answer.

        ``reply_to``: where it is to come; by default this process's own topic.
        """
        target = self._get_strtopic(reply_to or self.app.conf.reply_to)
        promise = EventReplyPromise(target, correlation_id or faust.uuid())
        context = current_context.get()
        in_checkpoint = (
            context is not None and context.takes_sends and not (force and not self.app.exactly_once)
        )
        promise.ask_with(context if in_checkpoint else None)
        await self.app.replies.add(promise.correlation_id, promise)
        asked, opened = self._create_req(key, value, target, promise.correlation_id, headers)
        await self.channel.send(
            key=key, value=asked, partition=partition, timestamp=timestamp, headers=opened, force=force
        )
        return promise

    async def _barrier_send(
        self,
        barrier: BarrierState,
        items: AsyncIterable[tuple[Any, Any]] | Iterable[tuple[Any, Any]],
        reply_to: ReplyToArg,
    ) -> AsyncIterator[str]:
        self._may_wait("map and join")
        target = self._get_strtopic(reply_to)
        await self.app.replies.follow(target)
        # Faust makes the barrier, with a queue that holds a thousand answers and then raises.
        barrier._results = asyncio.Queue()
        async for key, value in _each(items):
            correlation_id = faust.uuid()
            barrier.add(ReplyPromise(target, correlation_id))
            await self.app.replies.add(correlation_id, barrier)
            asked, opened = self._create_req(key, value, target, correlation_id, None)
            await self.channel.send(key=key, value=asked, headers=opened, force=True)
            yield correlation_id


class AgentUnderTest(Agent, AgentTestWrapper):
    """What `Agent.test_context` gives."""

    _tester: AgentTesterT

    def begin(self, tester: AgentTesterT) -> None:
        self._tester = tester
        tester.begin()
        self._stream.add_processor(tester.take)

    async def on_stop(self) -> None:
        self._tester.end()
        await super().on_stop()


async def _each(items: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
