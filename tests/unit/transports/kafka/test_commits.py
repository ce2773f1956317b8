"""Commits, against a model of the coordinator: each error code at each request, before and behind its effect.

The rule is the transport's: what is told as aborted, fenced or refused has had no effect and never will have;
what was told as committed has had it once; and who hears `CommitUnknown` may believe neither.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import pytest

from streamflow.errors import (
    CommitAborted,
    CommitUnknown,
    ConfigurationError,
    Fenced,
    RecordRefused,
)
from streamflow.testing.simulation import run_simulation
from streamflow.transports.base import Assignment, Commit, Record
from streamflow.transports.kafka import protocol
from streamflow.transports.kafka.commits import Commits
from streamflow.transports.kafka.group import GroupFence
from streamflow.transports.kafka.offsets import GroupOffsets
from streamflow.transports.kafka.outcomes import TABLE, Asked, Next, Outcome, verdict
from streamflow.transports.kafka.producer import Producer
from streamflow.transports.kafka.settings import KafkaSettings
from tests.support.loop_clock import LoopClock
from tests.unit.transports.kafka.scripted_broker import Broker, Script, ScriptedConnection, connection

STEPS = (Asked.INIT, Asked.ADD_PARTITIONS, Asked.PRODUCE, Asked.ADD_OFFSETS, Asked.OFFSETS, Asked.END)
UNHEARD_OF = 999
CODES = [code for code in (*protocol.ERROR_NAMES, UNHEARD_OF) if code != protocol.NONE]
SETTINGS = KafkaSettings(
    ("x:1",), "g", transactional_slot="w", commit_timeout_ms=2_000, decide_timeout_ms=1_000
)
FENCE = GroupFence(1, "me", None)
# The codes of EndTxn that say: nothing of this request was appended.
UNDECIDED = {35, 42, 47, 48, 49, 53, 90}
FIRST, SECOND = b"first", b"second"


def a_commit(value: bytes, offset: int) -> Commit:
    return Commit(
        Assignment(1, frozenset({("in", 0)}), fence=FENCE),
        [Record("out", 0, b"key", value)],
        {("in", 0): offset},
    )


def commits_over(wire: ScriptedConnection) -> Commits:
    offsets = GroupOffsets(wire, SETTINGS)
    return Commits(wire, SETTINGS, offsets, Producer(wire, SETTINGS, LoopClock(), SETTINGS.transactional_id))


async def outcome_of(work: Coroutine[Any, Any, Any]) -> BaseException | None:
    try:
        await work
    except (CommitAborted, CommitUnknown, ConfigurationError, Fenced, RecordRefused) as exc:
        return exc
    except asyncio.CancelledError as exc:
        return exc
    return None


def run(script: Script) -> tuple[BaseException | None, list[bytes], Broker]:
    """What the first commit's caller hears, what readers saw then, and the broker after a second commit."""

    async def main(_: object) -> tuple[BaseException | None, list[bytes], Broker]:
        wire = connection(SETTINGS)
        commits = commits_over(wire)
        wire.script = script
        heard = await asyncio.create_task(outcome_of(commits.commit(a_commit(FIRST, 10), FENCE)))
        seen = list(wire.broker.committed)
        wire.heal()
        assert await outcome_of(commits.commit(a_commit(SECOND, 20), FENCE)) is None
        return heard, seen, wire.broker

    return run_simulation(main)


def check(script: Script) -> BaseException | None:
    heard, seen, broker = run(script)
    if heard is None:
        assert seen == [FIRST]
        assert broker.committed == [FIRST, SECOND]
        assert len(broker.offsets) == 2
    elif isinstance(heard, CommitUnknown | asyncio.CancelledError):
        assert broker.committed in ([SECOND], [FIRST, SECOND])
        assert len(broker.offsets) == len(broker.committed)
    else:
        assert seen == []
        assert broker.committed == [SECOND]  # nothing of the first came with it
        assert len(broker.offsets) == 1
    assert script.met
    return heard


@pytest.mark.parametrize("asked", STEPS, ids=lambda asked: asked.value)
@pytest.mark.parametrize("obeyed", [False, True], ids=["before", "behind"])
def test_each_code_once_and_then_all_is_well(asked: Asked, obeyed: bool) -> None:
    for code in CODES:
        if obeyed and verdict(asked, code).outcome not in (Outcome.OBEYED, Outcome.UNCLEAR):
            continue  # the table says that this answer is given before anything is done
        heard = check(Script(asked, code, obeyed))
        if asked is not Asked.END or not obeyed:
            assert not isinstance(heard, CommitUnknown) or verdict(asked, code).outcome is Outcome.UNCLEAR


@pytest.mark.parametrize("asked", STEPS, ids=lambda asked: asked.value)
@pytest.mark.parametrize("obeyed", [False, True], ids=["before", "behind"])
def test_each_code_and_then_no_coordinator(asked: Asked, obeyed: bool) -> None:
    for code in CODES:
        if obeyed and verdict(asked, code).outcome not in (Outcome.OBEYED, Outcome.UNCLEAR):
            continue
        heard = check(Script(asked, code, obeyed, away=math.inf))
        if asked is not Asked.END:
            assert not isinstance(heard, CommitUnknown)  # no decision was sent


@pytest.mark.parametrize("asked", STEPS, ids=lambda asked: asked.value)
@pytest.mark.parametrize("obeyed", [False, True], ids=["before", "behind"])
def test_each_code_until_the_deadline(asked: Asked, obeyed: bool) -> None:
    for code in CODES:
        if obeyed and verdict(asked, code).outcome not in (Outcome.OBEYED, Outcome.UNCLEAR):
            continue
        check(Script(asked, code, obeyed, times=10_000))


@pytest.mark.parametrize("asked", STEPS, ids=lambda asked: asked.value)
@pytest.mark.parametrize("obeyed", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("away", [0, 3, math.inf])
def test_no_answer(asked: Asked, obeyed: bool, away: float) -> None:
    heard = check(Script(asked, None, obeyed, away=away))
    if asked is not Asked.END:
        assert not isinstance(heard, CommitUnknown)


@pytest.mark.parametrize("asked", STEPS, ids=lambda asked: asked.value)
@pytest.mark.parametrize("obeyed", [False, True], ids=["before", "behind"])
def test_cancelled_at_any_request(asked: Asked, obeyed: bool) -> None:
    assert isinstance(check(Script(asked, None, obeyed, cancel=True)), asyncio.CancelledError)


@pytest.mark.parametrize("code", [None, 7, 13, 14, 15, 16, 51, -1, UNHEARD_OF])
def test_a_decision_that_may_have_been_obeyed_is_never_told_as_aborted(code: int | None) -> None:
    heard, _, broker = run(Script(Asked.END, code, obeyed=True, away=math.inf))
    assert isinstance(heard, CommitUnknown)
    assert broker.committed == [FIRST, SECOND]


def test_a_coordinator_that_denies_itself_behind_an_unclear_answer_leaves_it_unclear() -> None:
    heard, _, broker = run(Script(Asked.END, 15, obeyed=True, denied=True))
    assert isinstance(heard, CommitUnknown)
    assert broker.committed == [FIRST, SECOND]


def test_a_decision_that_was_never_sent_is_aborted() -> None:
    heard = check(Script(Asked.OFFSETS, protocol.NONE, obeyed=True, away=math.inf))
    assert isinstance(heard, CommitAborted)


@pytest.mark.parametrize("denied", [False, True], ids=["no-answer", "denied"])
def test_an_abort_that_did_not_arrive_leaves_nothing_for_the_next_commit(denied: bool) -> None:
    """The offsets are refused, and the coordinator is away, or denied, when the abort is to be sent."""
    heard = check(Script(Asked.OFFSETS, 12, obeyed=False, away=math.inf, denied=denied))
    assert isinstance(heard, CommitAborted)


def test_cancelled_while_aborting_leaves_nothing_for_the_next_commit() -> None:
    async def main(_: object) -> list[bytes]:
        wire = connection(SETTINGS)
        commits = commits_over(wire)
        wire.script = Script(Asked.OFFSETS, 12, obeyed=False)
        task = asyncio.create_task(commits.commit(a_commit(FIRST, 10), FENCE))
        await wire.script.began.wait()
        wire.script = Script(Asked.END, None, obeyed=False)  # the abort gets no answer
        await wire.script.began.wait()
        task.cancel()
        assert isinstance(await outcome_of(task_of(task)), asyncio.CancelledError)
        wire.heal()
        await commits.commit(a_commit(SECOND, 20), FENCE)
        return wire.broker.committed

    assert run_simulation(main) == [SECOND]


async def task_of(task: asyncio.Task[Any]) -> None:
    await task


def test_the_table_says_why_and_what_to_do() -> None:
    for asked, rows in TABLE.items():
        assert rows[protocol.NONE].next is Next.GO_ON
        for code, row in rows.items():
            assert row.why, (asked, code)
            assert (row.next is Next.GO_ON) == (code == protocol.NONE)
    certain = {code for code, row in TABLE[Asked.END].items() if row.outcome is not Outcome.UNCLEAR}
    assert certain == UNDECIDED | {protocol.NONE}
    assert verdict(Asked.END, UNHEARD_OF).outcome is Outcome.UNCLEAR
