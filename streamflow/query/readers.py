"""The reader of each table of an engine, by its kind.

`AgentReader` (Faust's form), `KeyedReader` (declared, ``by=Key()``), `FinalStageReader` (declared, grouped
otherwise: the merged partials of a final stage), and those whose rows are made of panes. A key outside is
always a JSON value.
"""

from __future__ import annotations

from streamflow.aggregates.windowed_fold import HoppingPanesConsumer, SlidingConsumer
from streamflow.engine.engine import Engine
from streamflow.query.agent_tables import AgentReader, SlidingAgentReader
from streamflow.query.aggregate_tables import (
    FinalStageReader,
    HoppingReader,
    KeyedReader,
    SlidingReader,
    SlidingStageReader,
)
from streamflow.query.reader import TableReaderBase
from streamflow.state.merging_table import SlidingTable
from streamflow.windows import SlidingWindow


def make_reader(engine: Engine, name: str) -> TableReaderBase:
    """The reader of one table, once the engine knows its partitions. Raises KeyError."""
    if name in engine.topology.tables:
        table = engine.topology.tables[name]
        if isinstance(table, SlidingTable):
            return SlidingAgentReader(engine, table)
        return AgentReader(engine, table)
    aggregate = engine.topology.aggregates[name]
    if aggregate.spec.is_shuffled:
        sliding = isinstance(aggregate.spec.window, SlidingWindow)
        return SlidingStageReader(engine, aggregate) if sliding else FinalStageReader(engine, aggregate)
    if isinstance(aggregate, SlidingConsumer):
        return SlidingReader(engine, aggregate)
    if isinstance(aggregate, HoppingPanesConsumer):
        return HoppingReader(engine, aggregate)
    return KeyedReader(engine, aggregate)


def make_readers(engine: Engine) -> dict[str, TableReaderBase]:
    """A reader for each table."""
    return {
        name: make_reader(engine, name) for name in (*engine.topology.tables, *engine.topology.aggregates)
    }
