"""The memory store passes the contract."""

from __future__ import annotations

from streamflow.state.stores.base import Store
from streamflow.state.stores.memory import MemoryStore
from tests.contract.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    def new_store(self) -> Store:
        return MemoryStore()
