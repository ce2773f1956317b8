"""Two members with one transactional id: the other may be dead; who outlives its session is alive."""

from __future__ import annotations

import pytest

from streamflow.errors import ConfigurationError
from streamflow.testing.clock import ManualClock
from streamflow.transports.kafka.group import SESSION_MARGIN_MS, GroupFence, SlotClaim

FENCE = GroupFence(3, "me", None)
SESSION_MS = 10_000


class TheGroup:
    """``stable``: what it says of the generation."""

    def __init__(self) -> None:
        self.stable = True
        self.asked: list[GroupFence] = []

    async def is_stable(self, fence: GroupFence) -> bool:
        self.asked.append(fence)
        return self.stable


def a_claim() -> tuple[ManualClock, TheGroup, SlotClaim]:
    clock, group = ManualClock(), TheGroup()
    return clock, group, SlotClaim(clock, "app-slot", group.is_stable)


async def test_while_the_other_session_lasts_nobody_knows() -> None:
    clock, group, claim = a_claim()
    claim.refused(FENCE, SESSION_MS)
    await claim.check()
    await clock.advance(SESSION_MS)
    await claim.check()
    assert group.asked == []


async def test_who_has_outlived_its_session_is_alive() -> None:
    clock, group, claim = a_claim()
    claim.refused(FENCE, SESSION_MS)
    await clock.advance(SESSION_MS + SESSION_MARGIN_MS)
    with pytest.raises(ConfigurationError, match="another live worker has the id app-slot"):
        await claim.check()
    assert group.asked == [FENCE]


async def test_a_group_in_a_rebalance_or_out_of_reach_proves_nothing() -> None:
    clock, group, claim = a_claim()
    claim.refused(FENCE, SESSION_MS)
    group.stable = False
    for _ in range(5):
        await clock.advance(SESSION_MS + SESSION_MARGIN_MS)
        await claim.check()
    assert len(group.asked) == 5


async def test_a_new_generation_begins_the_wait_anew() -> None:
    clock, group, claim = a_claim()
    claim.refused(FENCE, SESSION_MS)
    await clock.advance(SESSION_MS)
    claim.refused(GroupFence(4, "me", None), SESSION_MS)
    await clock.advance(SESSION_MS)
    await claim.check()
    claim.granted()
    await clock.advance(10 * SESSION_MS)
    await claim.check()
    assert group.asked == []
