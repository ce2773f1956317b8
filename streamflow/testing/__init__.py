"""For tests: a manual clock, an event loop that simulates a cluster of workers in virtual time, and the
suites that sources and sinks must pass."""

from streamflow.testing.clock import ManualClock
from streamflow.testing.simulation import (
    Deadlock,
    Endless,
    SimulationError,
    SimulationLoop,
    run_simulation,
)
from streamflow.testing.sink_contract import SinkContract
from streamflow.testing.source_contract import SourceContract

__all__ = [
    "Deadlock",
    "Endless",
    "ManualClock",
    "SimulationError",
    "SimulationLoop",
    "SinkContract",
    "SourceContract",
    "run_simulation",
]
