"""What a killed process leaves of the events that it had in flight, and what is made of it."""

from __future__ import annotations

import asyncio
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from streamflow.codecs.chunk import Chunk
from streamflow.processing.flight_note import FlightNote, Suspicion, checksum
from streamflow.processing.suspects import Suspects
from streamflow.transports.base import Record
from tests.support.running import make_app, running, until

AT = ("orders", 3)
DIES = """
import os, pathlib, signal, sys
from streamflow.processing.flight_note import FlightNote
from tests.unit.processing.test_flight_note import chunk

note = FlightNote()
note.open(pathlib.Path(sys.argv[1]))
note.took("agent:a", "orders", 3, 10, 20)
note.took("agent:a", "orders", 4, 0, 5)
{more}
os.kill(os.getpid(), signal.SIGKILL)
"""


def chunk(first: int = 10, last: int = 20, value: bytes = b"v") -> Chunk:
    count = last - first
    return Chunk(
        *AT,
        offsets=list(range(first, last)),
        keys=["k"] * count,
        events=[None] * count,
        columns={},
        times_ms=[0] * count,
        timestamps_ms=[0] * count,
        raw=([b"k"] * count, [value] * count, None),
        next_offset=last,
    )


def killed(folder: pathlib.Path, more: str = "") -> None:
    """A process that has noted something dies of SIGKILL."""
    done = subprocess.run([sys.executable, "-c", DIES.format(more=more), str(folder)], check=False)
    assert done.returncode == -9


def left(folder: pathlib.Path) -> list[Suspicion]:
    note = FlightNote()
    note.open(folder)
    try:
        return note.of_dead("agent:a", AT)
    finally:
        note.close()


def test_what_was_in_flight_is_suspect_and_what_was_alone_has_died_once(tmp_path: pathlib.Path) -> None:
    killed(tmp_path)
    assert left(tmp_path) == [Suspicion(10, 20)]
    killed(tmp_path, "note.alone('agent:a', chunk(), 2, 0)")
    assert Suspicion(10, 20, 12, checksum(chunk(), 2), 1) in left(tmp_path)
    killed(tmp_path, "note.alone('agent:a', chunk(), 2, 1)")
    assert Suspicion(10, 20, 12, checksum(chunk(), 2), 2) in left(tmp_path)


@pytest.mark.parametrize(
    "more",
    [
        "note.alone('agent:a', chunk(), 2, 0); note.not_alone()",
        "note.alone('agent:a', chunk(), 2, 0); note.committing(under_way=True)",
    ],
    ids=["it was done", "a commit was under way"],
)
def test_a_death_that_the_event_need_not_have_caused_is_not_held_against_it(
    tmp_path: pathlib.Path, more: str
) -> None:
    killed(tmp_path, more)
    (found,) = left(tmp_path)
    assert found[:2] == (10, 20)
    assert not found.deaths


def test_a_death_behind_another_boot_is_not_held_against_it(tmp_path: pathlib.Path) -> None:
    killed(tmp_path, "note.alone('agent:a', chunk(), 2, 0)")
    (file,) = tmp_path.glob("*.note")
    text = bytearray(file.read_bytes())
    text[6:14] = b"another-"
    file.write_bytes(text)
    assert [found.deaths for found in left(tmp_path)] == [0]


def test_nothing_is_suspect_where_somebody_wanted_the_end_or_it_was_clean(tmp_path: pathlib.Path) -> None:
    killed(tmp_path, "note.alone('agent:a', chunk(), 2, 0); note.end_wanted()")
    killed(tmp_path, "note.close()")
    assert left(tmp_path) == []
    assert not list(tmp_path.glob("*.note"))


def test_a_note_that_was_cut_anywhere_is_read_as_far_as_it_goes(tmp_path: pathlib.Path) -> None:
    killed(tmp_path, "note.alone('agent:a', chunk(), 2, 0)")
    (file,) = tmp_path.glob("*.note")
    text = file.read_bytes()
    for size in range(0, len(text), 97):
        file.write_bytes(text[:size])
        assert all(found[:2] == (10, 20) for found in left(tmp_path))


def test_who_lives_is_not_read(tmp_path: pathlib.Path) -> None:
    note = FlightNote()
    note.open(tmp_path)
    note.took("agent:a", *AT, 10, 20)
    assert left(tmp_path) == []
    note.close()
    assert not tmp_path.exists() or not list(tmp_path.glob("*.note"))


def test_a_folder_that_cannot_be_written_costs_the_note_alone(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    note = FlightNote()
    note.open(tmp_path / "file" / "folder")
    note.took("agent:a", *AT, 10, 20)
    note.alone("agent:a", chunk(), 2, 0)
    note.not_alone()
    note.close()
    assert "no note of what is in flight" in caplog.text


def test_suspects_are_taken_alone_up_to_where_the_dead_one_came(tmp_path: pathlib.Path) -> None:
    killed(tmp_path)
    note = FlightNote()
    note.open(tmp_path)
    suspects = Suspects("agent:a", note)
    suspects.learn(AT, 18)
    pieces = suspects.pieces(chunk(18, 24))
    assert [piece.offsets for piece in pieces] == [[18], [19], [20, 21, 22, 23]]
    assert [piece.next_offset for piece in pieces] == [19, 20, 24]
    suspects.come_to(pieces[1], 0)
    assert suspects.holds(pieces[1], 0)
    suspects.come_to(pieces[2], 0)
    assert not suspects.ranges  # what comes behind is as fast as ever
    note.close()


def test_the_verdict_is_of_that_very_event(tmp_path: pathlib.Path) -> None:
    killed(tmp_path, "note.alone('agent:a', chunk(), 2, 1)")
    note = FlightNote()
    note.open(tmp_path)
    suspects = Suspects("agent:a", note)
    suspects.learn(AT, 10)
    assert suspects.verdict(chunk(), 1) is None
    # The topic was made anew: another event lies there.
    assert suspects.verdict(chunk(value=b"another"), 2) is None
    error = suspects.verdict(chunk(), 2)
    assert error is not None
    assert str(error) == "the process died 2 times with orders[3] offset 12 alone in flight"
    note.close()


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_suspects_that_wait_for_others_end_and_each_counts_once(
    tmp_path: pathlib.Path, concurrency: int
) -> None:
    killed(tmp_path, "note.took('agent:waiting', 'orders', 0, 0, 3)")
    app = make_app()
    orders = app.topic("orders", key_type=str, value_type=int, partitions=1)
    others = app.topic("others", key_type=str, value_type=int, partitions=1)
    done, met = list[int](), list[asyncio.Event]()

    @app.agent(orders, name="waiting", concurrency=concurrency)
    async def waiting(stream: Any) -> None:
        async for value in stream:
            met.append(came := asyncio.Event())
            await others.send(value=value)
            await app.engine.transport.send([Record("others", 0, b"k", b"1")])
            await came.wait()
            done.append(value)

    @app.agent(others, name="answering")
    async def answering(stream: Any) -> None:
        async for _ in stream:
            for came in met:
                came.set()

    del waiting, answering
    async with running(app):
        note = app.engine.topology.gate.note
        note.open(tmp_path)
        for value in range(5):
            await orders.send(key="k", value=value)
        await until(lambda: sorted(done) == list(range(5)))
        assert note.trusts("agent:waiting")


async def test_suspects_run_with_no_other_event_in_flight(tmp_path: pathlib.Path) -> None:
    killed(tmp_path, "note.took('agent:first', 'orders', 0, 0, 4)")
    app = make_app()
    orders = app.topic("orders", key_type=str, value_type=int, partitions=1)
    at_work, done = set[str](), list[tuple[str, int]]()
    beside: list[tuple[str, int]] = []

    def declare(name: str) -> None:
        @app.agent(orders, name=name, concurrency=1 if name == "first" else 3)
        async def work(stream: Any) -> None:
            async for value in stream:
                at_work.add(f"{name} {value}")
                await asyncio.sleep(0.01)
                if name == "first" and len(at_work) > 1:
                    beside.append((name, value))
                at_work.discard(f"{name} {value}")
                done.append((name, value))

    declare("first")
    declare("second")
    async with running(app):
        app.engine.topology.gate.note.open(tmp_path)
        for value in range(8):
            await orders.send(key="k", value=value)
        await until(lambda: len(done) == 16)
    assert not [value for _, value in beside if value < 4]
    assert sorted(done) == sorted((name, value) for name in ("first", "second") for value in range(8))
