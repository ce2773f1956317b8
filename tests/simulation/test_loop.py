"""The simulated event loop: virtual time, simulated processes, the same run for the same seed."""

from __future__ import annotations

import asyncio

import pytest

from streamflow.testing import Deadlock, Endless, ManualClock, SimulationError, SimulationLoop, run_simulation
from tests.support.loop_clock import LoopClock


def test_an_hours_sleep_takes_no_time_and_ends_at_its_hour() -> None:
    async def main(loop: SimulationLoop) -> float:
        clock = LoopClock()
        start_ms = clock.now_ms()
        await asyncio.sleep(3_600)
        assert clock.now_ms() - start_ms == 3_600_000
        return loop.time()

    assert run_simulation(main) == 3_600


def test_timers_go_off_in_the_order_of_their_times() -> None:
    async def main(loop: SimulationLoop) -> list[int]:
        seen: list[int] = []

        async def note(n: int) -> None:
            await asyncio.sleep(n)
            seen.append(n)

        await asyncio.gather(*(note(n) for n in (5, 1, 3)))
        return seen

    assert run_simulation(main) == [1, 3, 5]


def test_waiting_for_what_never_comes_is_a_deadlock_that_names_the_waiting() -> None:
    async def main(loop: SimulationLoop) -> None:
        await asyncio.create_task(asyncio.Event().wait(), name="the one that waits")

    with pytest.raises(Deadlock, match="the one that waits"):
        run_simulation(main)


def test_a_program_without_end_is_stopped() -> None:
    async def spin(loop: SimulationLoop) -> None:
        for _ in range(10**9):
            await asyncio.sleep(0)

    async def tick(loop: SimulationLoop) -> None:
        for _ in range(10**9):
            await asyncio.sleep(1)

    with pytest.raises(Endless):
        run_simulation(spin, steps_max=1_000)
    with pytest.raises(Endless):
        run_simulation(tick, time_max_s=60)


def test_an_exception_that_nobody_takes_fails_the_run() -> None:
    async def main(loop: SimulationLoop) -> None:
        async def fail() -> None:
            raise ValueError("unheard")

        task = asyncio.create_task(fail())
        await asyncio.sleep(1)
        del task

    with pytest.raises(SimulationError) as caught:
        run_simulation(main)
    assert isinstance(caught.value.__cause__, ValueError)


def test_what_is_frozen_stands_still_and_goes_on_when_it_is_thawed() -> None:
    async def main(loop: SimulationLoop) -> list[tuple[str, int]]:
        seen: list[tuple[str, int]] = []

        async def count(name: str) -> None:
            for n in range(4):
                await asyncio.sleep(1)
                seen.append((name, n))

        with loop.owned_by("a"):
            first = asyncio.create_task(count("a"))
        with loop.owned_by("b"):
            second = asyncio.create_task(count("b"))
        await asyncio.sleep(1.5)
        loop.freeze("a")
        await second
        loop.thaw("a")
        await first
        return seen

    names = [name for name, _ in run_simulation(main)]
    assert names[2:] == ["b", "b", "b", "a", "a", "a"]


def test_what_is_killed_runs_no_finally_while_the_world_goes_on() -> None:
    async def main(loop: SimulationLoop) -> list[str]:
        seen: list[str] = []

        async def child() -> None:
            try:
                await asyncio.sleep(2)
            finally:
                seen.append("child's finally")

        async def work() -> None:
            try:
                await asyncio.create_task(child())
            finally:
                seen.append("finally")

        with loop.owned_by("a"):
            asyncio.create_task(work())  # noqa: RUF006  # the loop holds it
        await asyncio.sleep(1)
        loop.kill("a")
        assert not loop.alive("a")
        await asyncio.sleep(10)
        return list(seen)

    assert run_simulation(main) == []


def test_the_seed_decides_in_which_order_processes_run_but_not_the_order_within_one() -> None:
    async def main(loop: SimulationLoop) -> list[tuple[str, int]]:
        seen: list[tuple[str, int]] = []

        async def step(name: str, n: int) -> None:
            seen.append((name, n))

        tasks = []
        for name in "abc":
            with loop.owned_by(name):
                tasks += [asyncio.create_task(step(name, n)) for n in range(3)]
        await asyncio.gather(*tasks)
        return seen

    runs = [run_simulation(main, seed) for seed in range(20)]
    assert runs == [run_simulation(main, seed) for seed in range(20)]
    assert len({tuple(run) for run in runs}) > 10
    for run in runs:
        for name in "abc":
            assert [n for who, n in run if who == name] == [0, 1, 2]


async def test_a_manual_clock_wakes_sleepers_in_order_and_only_when_it_is_moved() -> None:
    clock = ManualClock(now_ms=1_000)
    seen: list[tuple[str, int]] = []

    async def sleep(name: str, *delays_ms: int) -> None:
        for delay_ms in delays_ms:
            await clock.sleep_ms(delay_ms)
            seen.append((name, clock.now_ms()))

    tasks = [asyncio.create_task(sleep("a", 10, 10, 10)), asyncio.create_task(sleep("b", 15))]
    await asyncio.sleep(0)
    await clock.advance(9)
    assert seen == []
    await clock.advance(12)
    assert seen == [("a", 1_010), ("b", 1_015), ("a", 1_020)]
    assert clock.now_ms() == 1_021
    await clock.advance(9)
    await asyncio.gather(*tasks)
    assert clock.monotonic_ms() == 30
