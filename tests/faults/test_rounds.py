"""Rounds of faults on real workers and a real broker; after each of them everything is exact.

``make faults ROUNDS=60`` plays that many, drawn at random; else each fault is played once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.faults.rounds import FAULTS, Scene, play

ROUNDS = int(os.environ.get("STREAMFLOW_FAULT_ROUNDS") or 0)
ROUND_S_MAX = 200


def drawn(scene: Scene) -> Iterator[str]:
    """Each fault once, in any order; with ROUNDS so often, until it is that many."""
    names = sorted(FAULTS)
    left = ROUNDS or len(names)
    while left:
        scene.random.shuffle(names)
        for name in names[:left]:
            yield name
            left -= 1


@pytest.mark.timeout((ROUNDS or len(FAULTS)) * ROUND_S_MAX)
def test_after_every_fault_everything_is_exact(scene: Scene) -> None:
    if ROUNDS:
        scene.block_s = 60.0
    for name in drawn(scene):
        play(scene, name)
    scene.stage.close_windows()
    scene.stage.check(closed=True)
