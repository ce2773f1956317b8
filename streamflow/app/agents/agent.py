"""An agent as the rest of the app sees it: to be sent to, asked, mapped over, and tried in a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, cast

import faust
from faust.agents.agent import AgentTestWrapper
from faust.agents.replies import BarrierState, ReplyPromise
from mode.supervisors import CrashingSupervisor

from streamflow.app.agents.tester import AgentTester
from streamflow.state.event_context import EventContext, current_context

if TYPE_CHECKING:
    from streamflow.app.agents.replies import ReplyConsumer
    from streamflow.app.app import App


class EventReplyPromise(ReplyPromise):
    """Of an answer. Raises RuntimeError when it is awaited inside the event whose checkpoint asks."""

    def ask_with(self, context: EventContext | None) -> None:
        self._context, self._position = context, -1 if context is None else context.position

    def __await__(self) -> Generator[Any, None, Any]:
        context = self._context
        if context is not None and context is current_context.get() and context.holds(self._position):
            raise RuntimeError(
                "the question goes out with the checkpoint of this event, which would wait for the answer: "
                "await it after the event, or ask from a task, a timer or a page"
            )
        return (yield from super().__await__())

    __iter__ = __await__


class Agent(faust.Agent):
    """A faust.Agent whose questions and answers go through the engine."""

    def _replies(self) -> ReplyConsumer:
        return cast("App", self.app).replies

    async def _stop_supervisor(self) -> None:
        """Ends those too that took the place of one that failed: until Faust has started them it does not
        stop them, and would wait for them without end.
        """
        await super()._stop_supervisor()
        for actor in self._actors:
            if not actor.started and actor.actor_task is not None:
                actor.actor_task.cancel()

    @property
    def _exactly_once(self) -> bool:
        return cast("App", self.app).exactly_once

    def _may_wait(self, what: str) -> None:
        """Raises RuntimeError inside an event whose checkpoint the answer would wait for."""
        context = current_context.get()
        if context is None or not context.in_flight or not self._exactly_once:
            return
        raise RuntimeError(
            f"{self.name}.{what} from inside an agent: under exactly_once a question goes out with the "
            "checkpoint of its event, and the event would wait for the answer; use cast or send, let the "
            "other agent send on, or ask from a task, a timer or a page"
        )

    def test_context(
        self, channel: Any = None, supervisor_strategy: Any = None, on_error: Any = None, **options: Any
    ) -> Any:
        """This agent on a bench, without a worker: ``async with agent.test_context() as tried``.

        ``await tried.put(value, key=...)`` returns when the event has been processed, and raises what the
        agent raised; ``tried.results`` has what it yielded. Tables work, and are empty at the start; what
        is sent is kept in ``app.bench.sent`` as (topic, key, value) and goes nowhere.
        """
        bench = cast("App", self.app).begin_bench()

        async def failed(agent: Any, exc: BaseException) -> None:
            if on_error is not None:
                await on_error(agent, exc)
            await agent.crash_test_agent(exc)

        self.app.flow_control.resume()
        tried = self.clone(
            cls=AgentUnderTest,
            channel=channel if channel is not None else self.app.channel(),
            supervisor_strategy=supervisor_strategy or CrashingSupervisor,
            original_channel=self.channel,
            on_error=failed,
            **options,
        )
        cast("AgentUnderTest", tried).begin(bench)
        return tried

    async def ask(self, value: Any = None, *, reply_to: Any = None, **options: Any) -> Any:
        """Sends a question and waits for what the agent yields for it.

        Raises RuntimeError from inside an agent under exactly_once.
        """
        self._may_wait("ask")
        target = self._get_strtopic(reply_to or self.app.conf.reply_to)
        await self._replies().follow(target)
        promise = await self.ask_nowait(value, reply_to=target, force=True, **options)
        return await promise

    async def ask_nowait(
        self,
        value: Any = None,
        *,
        key: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Any = None,
        reply_to: Any = None,
        correlation_id: str | None = None,
        force: bool = False,
    ) -> ReplyPromise:
        """Sends a question; returns a promise of the answer.

        ``reply_to``: where it is to come; by default this process's own topic.
        """
        target = self._get_strtopic(reply_to or self.app.conf.reply_to)
        promise = EventReplyPromise(target, correlation_id or faust.uuid())
        context = current_context.get()
        in_checkpoint = context is not None and context.takes_sends and not (force and not self._exactly_once)
        promise.ask_with(context if in_checkpoint else None)
        await self._replies().add(promise.correlation_id, promise)
        asked, opened = self._create_req(key, value, target, promise.correlation_id, headers)
        await self.channel.send(
            key=key, value=asked, partition=partition, timestamp=timestamp, headers=opened, force=force
        )
        return promise

    async def _barrier_send(self, barrier: BarrierState, items: Any, reply_to: Any) -> AsyncIterator[str]:
        self._may_wait("map and join")
        target = self._get_strtopic(reply_to)
        await self._replies().follow(target)
        barrier._results = asyncio.Queue()  # Faust's holds a thousand answers and then raises
        async for key, value in _each(items):
            correlation_id = faust.uuid()
            barrier.add(ReplyPromise(target, correlation_id))
            await self._replies().add(correlation_id, barrier)
            asked, opened = self._create_req(key, value, target, correlation_id, None)
            await self.channel.send(key=key, value=asked, headers=opened, force=True)
            yield correlation_id


class AgentUnderTest(Agent, AgentTestWrapper):
    """What `Agent.test_context` gives."""

    _bench: AgentTester

    def begin(self, bench: AgentTester) -> None:
        self._bench = bench
        bench.agents += 1
        self._stream.add_processor(bench.take)

    async def on_stop(self) -> None:
        self._bench.agents -= 1
        await super().on_stop()


async def _each(items: Any) -> AsyncIterator[Any]:
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
