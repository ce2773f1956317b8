"""An agent that takes events of another topic within its own loop: both are in flight, and fail together."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from streamflow import Retry
from tests.support.running import make_app, running, until

SECOND = Retry(attempts=3, first_wait_s=0.001)


PATHS: dict[str, dict[str, Any]] = {
    "in order": {},
    "concurrent": {"concurrency": 2},
    "isolated": {"isolated_partitions": True},
}
"""Options of agents, by how they take events."""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", ["another row", "the same row"])
@pytest.mark.parametrize("fails", ["at once", "later", "behind", "twice"])
async def test_a_failure_within_undoes_the_event_around_it_too(row: str, fails: str, path: str) -> None:
    app = make_app()
    own = app.topic("own", key_type=str, value_type=str, partitions=1)
    other = app.topic("other", key_type=str, value_type=str, partitions=1)
    out = app.topic("out", value_type=str, partitions=1)
    counts = app.Table("counts", default=int)
    failures: list[str] = []
    done: list[tuple[str, list[str]]] = []  # event, and what was taken within

    def fail(when: str) -> None:
        if (fails == when and not failures) or (fails == "twice" and when == "later" and len(failures) < 2):
            failures.append(when)
            raise ValueError(when)

    def have_come(count: int) -> bool:
        return len(done) == count

    @app.agent(own, retry=SECOND, **PATHS[path])
    async def pairs(stream: Any) -> None:
        async for key, value in stream.items():
            counts[key] += 1
            await out.send(value=value)
            within: list[str] = []
            async for each in other.stream():
                fail("at once")
                within.append(each)
                counts["k" if row == "the same row" else f"other-{each}"] += 1
                if len(within) == 2:
                    fail("later")
                    break
            fail("behind")
            counts["pairs"] += 1
            done.append((value, within))

    # What was taken within before the one that failed is done; that one and the one around it come again.
    # Where both wrote one row, and one of them is done, all is read back: nothing of it was durable.
    taken = "abcd" if fails == "at once" else {"twice": "abcdef"}.get(fails, "abcde")
    taken = "abcd" if row == "the same row" else taken
    wanted = {"k": 2, "pairs": 2, **{f"other-{each}": 1 for each in taken}}
    if row == "the same row":
        wanted = {"k": 2 + len(taken), "pairs": 2}
    async with running(app):
        for value in taken:
            await other.send(key="k", value=value)
        for count, value in enumerate(("1", "2"), 1):
            await own.send(key="k", value=value)
            await until(partial(have_come, count))
        assert [value for value, _ in done] == ["1", "2"]
        within = [each for _, found in done for each in found]
        if path == "concurrent":  # what comes again is for whichever coroutine asks first
            assert len(set(within)) == len(within) == 4
        else:
            assert within == list(taken[-4:])
        # Asking for its next event says that the last one is done, and all that was taken within it.
        active = app.engine.active
        assert active is not None
        await until(lambda: active.offsets()["own", 0] == 2 and active.offsets()["other", 0] == len(taken))
        await until(lambda: dict(counts.items()) == wanted)  # durable: offsets are what is in memory
        progress = {p.consumer: p.counters for p in active.shown.values() if "pairs" in p.consumer}
        assert sorted(counters["counted"] for counters in progress.values()) == [2, len(taken)]
        reader = app.engine.transport.log_reader()
        await reader.assign({("out", 0): 0})
        sent = [value for batch in await reader.read(1) for value in batch.values]
        await reader.close()
        assert sent == [b'"1"', b'"2"']
    assert failures == (["later", "later"] if fails == "twice" else [fails])


async def test_a_checkpoint_does_not_wait_for_what_an_event_in_flight_takes_within() -> None:
    """The event around and what it takes within write one row, so a checkpoint waits for the event around."""
    app = make_app()
    own = app.topic("own", key_type=str, value_type=str, partitions=1)
    other = app.topic("other", key_type=str, value_type=str, partitions=1)
    counts = app.Table("counts", default=int)
    checkpoints: list[bool] = []
    done: list[str] = []

    @app.agent(own)
    async def pairs(stream: Any) -> None:
        async for key, value in stream.items():
            counts[key] += 1
            async for each in other.stream():
                counts[key] += 1
                # Time for a checkpoint to be due, and to wait.
                if each == "b":
                    break
                await until(lambda: app.engine.topology.gate.closed)
                checkpoints.append(app.engine.topology.gate.closed)
            done.append(value)

    async with running(app):
        for value in "ab":
            await other.send(key="k", value=value)
        await own.send(key="k", value="1")
        await until(lambda: dict(counts.items()) == {"k": 3})
        assert done == ["1"]
    assert checkpoints == [True], "one was waiting, and had to wait once"


@pytest.mark.parametrize("path", PATHS)
async def test_an_event_is_in_flight_until_its_agent_asks_for_the_next_one(path: str) -> None:
    """Its position stays while its agent waits for the other stream, and what was taken within is done."""
    app = make_app()
    own = app.topic("own", key_type=str, value_type=str, partitions=1)
    other = app.topic("other", key_type=str, value_type=str, partitions=1)
    counts = app.Table("counts", default=int)

    @app.agent(own, **PATHS[path])
    async def pairs(stream: Any) -> None:
        async for _ in stream:
            counts["k"] += 1
            async for each in other.stream():
                counts[each] += 1
                if each == "last":
                    break

    async with running(app):
        await own.send(key="k", value="1")
        await other.send(key="k", value="first")
        await other.send(key="k", value="second")
        await until(lambda: app.engine.active and app.engine.active.offsets().get(("other", 0)) == 2)
        assert app.engine.active is not None
        assert app.engine.active.offsets()["own", 0] == 0
        await other.send(key="k", value="last")
        await until(lambda: dict(counts.items()) == {"k": 1, "first": 1, "second": 1, "last": 1})


@pytest.mark.parametrize("path", PATHS)
async def test_a_loop_that_was_left_and_is_begun_again_is_the_same_loop(path: str) -> None:
    app = make_app()
    own = app.topic("own", key_type=str, value_type=str, partitions=1)
    other = app.topic("other", key_type=str, value_type=str, partitions=1)
    counts = app.Table("counts", default=int)

    @app.agent(own, **PATHS[path])
    async def pairs(stream: Any) -> None:
        while True:
            async for value in stream:
                counts[value] += 1
                break
            async for each in other.stream():
                counts[each] += 1
                break

    async with running(app):
        for value in "abc":
            await own.send(key="k", value=value)
            await other.send(key="k", value=f"other-{value}")
        wanted = {"a": 1, "b": 1, "other-a": 1, "other-b": 1}
        await until(lambda: wanted.items() <= dict(counts.items()).items())
