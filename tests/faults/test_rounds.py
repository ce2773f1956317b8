"""Rounds of faults on real workers and a real broker; after each of them everything is exact.

``make faults ROUNDS=60`` plays that many of all faults, drawn at random; else a few are played once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.faults.rounds import FAULTS, Scene, play

ROUNDS = int(os.environ.get("STREAMFLOW_FAULT_ROUNDS") or 0)
ROUND_S_MAX = 200
SHORT = (
    "kill",
    "die before-ack",
    "die before-end",
    "die in restore",
    "freeze",
    "block",
    "kill broker",
    "cut connections",
)


def drawn(scene: Scene) -> Iterator[str]:
    """Each of them once, in any order; with ROUNDS all faults, again and again, until it is that many."""
    names = sorted(FAULTS) if ROUNDS else list(SHORT)
    left = ROUNDS or len(names)
    while left:
        scene.random.shuffle(names)
        for name in names[:left]:
            yield name
            left -= 1


@pytest.mark.timeout((ROUNDS or len(SHORT)) * ROUND_S_MAX)
def test_after_every_fault_everything_is_exact(scene: Scene) -> None:
    if ROUNDS:
        scene.block_s = 60.0
    for name in drawn(scene):
        play(scene, name)
    scene.stage.close_windows()
    scene.stage.check(closed=True)
