"""For tests: a manual clock, and an event loop that simulates a cluster of workers in virtual time."""

from streamflow.testing.clock import ManualClock
from streamflow.testing.simulation import (
    Deadlock,
    Endless,
    SimulationError,
    SimulationLoop,
    run_simulation,
)

__all__ = ["Deadlock", "Endless", "ManualClock", "SimulationError", "SimulationLoop", "run_simulation"]
