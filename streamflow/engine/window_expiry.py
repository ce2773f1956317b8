"""Windows of tables in Faust's form that expire: whoever wants to is told of each row, before it goes.

What is sent meanwhile is part of the checkpoint that drops the window, so that each window ends once.
Telling comes before the cut, for it may take its time; from its beginning, writes to the window are late.
"""

from __future__ import annotations

from collections.abc import Callable

from streamflow.engine.assignment import ActiveAssignment
from streamflow.errors import StaleEvent
from streamflow.state.agent_table import AgentTable
from streamflow.state.event_context import WindowCloseContext, current_context
from streamflow.state.partition import TablePartition


async def close_windows(active: ActiveAssignment, is_current: Callable[[], bool]) -> None:
    """Tells of every expired window; ``is_current``: are the partitions still this worker's?

    What the user's function raises is raised.
    """
    for table in active.tables:
        if table.on_close is None:
            continue
        for part in list(table.parts.values()):
            part.expire_to(table.furthest_writer_ms(part))
            whole = True
            for start in part.expired_starts():
                if _is_held(active, part, start):
                    whole = False  # an event in flight wrote there: it must be done first
                elif not await _close(active, table, part, start, is_current):
                    return
            if whole:
                part.all_announced()


async def _close(
    active: ActiveAssignment,
    table: AgentTable,
    part: TablePartition,
    start: int,
    is_current: Callable[[], bool],
) -> bool:
    assert table.on_close is not None
    context = WindowCloseContext(f"table:{table.spec.name}", part.partition)
    token = current_context.set(context)
    try:
        for key, value in part.rows_of(start).items():
            await table.on_close(start, key, value)
            if not is_current():
                context.end()
                return False
    except StaleEvent:
        return False
    finally:
        current_context.reset(token)
    # No await in between: the drop and what was sent for it are in the same cut.
    part.announce(start)
    active.closing_sends.extend(context.sends)
    return True


def _is_held(active: ActiveAssignment, part: TablePartition, start: int) -> bool:
    return any(
        written is part and at == start
        for agent in active.agents
        for context in agent.contexts()
        for _, written, at, _, _ in context.writes()
    )
