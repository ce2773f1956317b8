"""The tables of one engine as they may be seen: checkpointed rows, and what changes them.

One reader for each kind of table: `AgentReader` (Faust's form), `KeyedReader` (declared, ``by=Key()``)
and `StageReader` (declared, grouped otherwise: the merged shares of a second stage). A key outside is
always a JSON value. `watching.py` tells of changes.
"""

from __future__ import annotations

from streamflow.aggregates.windowed_fold import SlidingFold
from streamflow.engine.engine import Engine
from streamflow.query.agent_tables import AgentReader, SlidingAgentReader
from streamflow.query.aggregate_tables import KeyedReader, SlidingReader, StageReader
from streamflow.query.reader import EngineReader
from streamflow.state.merging_table import SlidingTable


def make_reader(engine: Engine, name: str) -> EngineReader:
    """The reader of one table, once the engine knows its partitions. Raises KeyError."""
    if name in engine.tables:
        table = engine.tables[name]
        if isinstance(table, SlidingTable):
            return SlidingAgentReader(engine, table)
        return AgentReader(engine, table)
    fold = engine.folds[name]
    if fold.spec.moves:
        return StageReader(engine, fold)
    return SlidingReader(engine, fold) if isinstance(fold, SlidingFold) else KeyedReader(engine, fold)


def make_readers(engine: Engine) -> dict[str, EngineReader]:
    """A reader for each table."""
    return {name: make_reader(engine, name) for name in (*engine.tables, *engine.folds)}
