"""The transport of one process: for tests, the simulation and the first demo (``memory://``).

One `MemoryBroker` is shared by the `MemoryTransport` of every worker. It keeps the whole contract,
group generations and fences included, and it can be made to fail in every way the contract allows
(`Faults`), so that what runs on it has met gaps, undecided commits and lost sessions before it
meets Kafka.
"""

from streamflow.transports.memory.broker import MemoryBroker
from streamflow.transports.memory.faults import POINTS, Client, Faults
from streamflow.transports.memory.process import ClientKilled
from streamflow.transports.memory.transport import MemoryTransport

__all__ = ["POINTS", "Client", "ClientKilled", "Faults", "MemoryBroker", "MemoryTransport"]
