"""aiokafka's client, for a cluster some of whose brokers do not answer.

aiokafka waits for each request as long as its timeout, has others wait for their connections meanwhile,
asks any broker for metadata and coordinators, and forgets its bootstrap list behind the first answer. Here:

- A broker that has not answered for `SILENT_S` is in doubt: others are asked for the metadata, and when the
  cluster itself has given it up, whatever waits for it fails at once. So nothing waits much longer than
  the brokers need to fail over, whatever the timeouts are.
- Metadata and coordinators are asked of brokers that answer, of others behind them, each for `ASK_S` at most.
- When none of those that were known answers, the bootstrap list is asked anew, as KIP-899 has it.
- Only joining a group takes as long as the client's timeout; a heartbeat may take as long as is between two.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import CloseReason, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.util import create_task

from streamflow.clock import Clock
from streamflow.transports.kafka.broker_states import BrokerStates
from streamflow.transports.kafka.client_logs import NOT_CONNECTED
from streamflow.transports.kafka.settings import KafkaSettings

log = logging.getLogger("aiokafka")  # `client_logs` reads there why a first connection failed

SILENT_S: Final = 1.0
DOUBT_AGAIN_S: Final = 0.5
# So long one broker may take for its answer to what any other could be asked as well.
ASK_S: Final = 2.0
# Between two tries to find any broker at all.
NOBODY_MIN_MS: Final = 100.0
NOBODY_MAX_MS: Final = 1_000.0
JOINING: Final = (JoinGroupRequest, SyncGroupRequest)
UNREACHABLE: Final = NOT_CONNECTED + '%s:%s": %s'
BROKEN: Final = (KafkaError, OSError, TimeoutError)


class ClusterClient(AIOKafkaClient):  # type: ignore[misc]  # aiokafka ships no types
    """``joining_ms``: how long a request to join a group may take, if this client makes any."""

    def __init__(
        self, settings: KafkaSettings, clock: Clock, states: BrokerStates, joining_ms: int = 0
    ) -> None:
        # The connections' own limit is that of the longest request; `send` has one for each.
        longest_ms = max(joining_ms, settings.request_timeout_ms)
        super().__init__(
            request_timeout_ms=longest_ms,
            metadata_max_age_ms=settings.metadata_age_ms,
            **settings.client_options(),
        )
        self._clock = clock
        self._states = states
        self._request_s = settings.request_timeout_ms / 1_000
        self._heartbeat_s = min(self._request_s, max(1.0, settings.heartbeat_ms / 1_000))
        self._sync_task: Any = None  # keeps the metadata fresh
        self._connecting: dict[Any, asyncio.Lock] = {}
        self._nobody_ms = NOBODY_MIN_MS

    # -- the cluster ------------------------------------------------------------------------------

    async def bootstrap(self) -> None:
        """Finds the cluster. Raises KafkaConnectionError."""
        answer = await self._ask_bootstrap(MetadataRequest([]))
        if answer is None:
            raise KafkaConnectionError(f"Unable to bootstrap from {self.hosts}")
        self.cluster.update_metadata(answer)
        if self._sync_task is None:
            self._sync_task = create_task(self._md_synchronizer())

    def get_random_node(self) -> Any:
        """One that answers, if there is one."""
        nodes = self._nodes()
        return nodes[0] if nodes else None

    def _nodes(self) -> list[Any]:
        """All that are known: those that answer first, in any order."""
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        random.shuffle(nodes)
        return sorted(nodes, key=self._states.is_silent)

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        request = MetadataRequest(list(topics) if topics else None)
        answer, anew = None, False
        for node_id in self._nodes():
            answer = await self._ask_node(node_id, request)
            if answer is not None:
                break
        else:
            answer, anew = await self._ask_bootstrap(request), True
        if answer is None:
            self._states.nobody()
            cluster_metadata.failed_update(None)
            # Whoever needs it asks again at once.
            await self._clock.sleep_ms(self._nobody_ms)
            self._nobody_ms = min(self._nobody_ms * 2, NOBODY_MAX_MS)
            return False
        self._nobody_ms = NOBODY_MIN_MS
        self._states.somebody(anew=anew)
        cluster_metadata.update_metadata(answer)
        return True

    async def _ask_node(self, node_id: Any, request: Any) -> Any:
        """The metadata as a broker has them, or None."""
        try:
            async with asyncio.timeout(ASK_S):
                answer = await self.send(node_id, request)
        except BROKEN as exc:
            if isinstance(exc, TimeoutError):
                self._states.failed(node_id, f"no answer within {ASK_S:.0f} s")
            return None
        return answer if answer.brokers else None

    async def _ask_bootstrap(self, request: Any) -> Any:
        """The metadata as the first of the bootstrap list has them that answers, or None."""
        for host, port, _ in self.hosts:
            connection = None
            try:
                async with asyncio.timeout(self._request_s):
                    connection = await self._open(host, port)
                    answer = await connection.send(request)
                if answer.brokers:
                    return answer
                log.error(UNREACHABLE, host, port, "it is not in the cluster yet")
            except BROKEN as exc:
                why = str(exc) or ("no answer" if isinstance(exc, TimeoutError) else "")
                log.error(UNREACHABLE, host, port, why)
            finally:
                if connection is not None:
                    connection.close()
        return None

    async def coordinator_lookup(self, coordinator_type: int, coordinator_key: str) -> int:
        """Raises KafkaError."""
        request = FindCoordinatorRequest(coordinator_key, coordinator_type)
        for node_id in self._nodes():
            try:
                async with asyncio.timeout(ASK_S):
                    answer = await self.send(node_id, request)
            except BROKEN as exc:
                if isinstance(exc, TimeoutError):
                    self._states.failed(node_id, f"no answer within {ASK_S:.0f} s")
                continue
            error = errors.for_code(answer.error_code)
            if error is not errors.NoError:
                raise error()
            return int(answer.coordinator_id)
        raise NodeNotReadyError(f"no broker answers who coordinates {coordinator_key}")

    # -- one broker -------------------------------------------------------------------------------

    async def send(self, node_id: Any, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        """One request, one answer. Raises KafkaError."""
        connection = None
        try:
            async with self._within(node_id, self._limit_s(request)):
                connection = await self._get_conn(node_id, group=group)
                if connection is None:
                    raise NodeNotReadyError(f"broker {node_id} can't be reached")
                answer = await connection.send(request)
        except TimeoutError as exc:
            if connection is not None:
                connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            self._states.failed(node_id, f"no answer to {type(request).__name__}")
            raise RequestTimedOutError from exc
        except KafkaConnectionError as exc:
            self._states.failed(node_id, str(exc))
            raise
        self._states.answered(node_id)
        return answer

    def _limit_s(self, request: Any) -> float:
        if isinstance(request, JOINING):
            return float(self._request_timeout_ms) / 1_000
        return self._heartbeat_s if isinstance(request, HeartbeatRequest) else self._request_s

    @asynccontextmanager
    async def _within(self, node_id: Any, limit_s: float) -> AsyncIterator[None]:
        """Raises TimeoutError behind ``limit_s``, or when the cluster says that the broker is gone."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(limit_s) as scope:
            timers: list[asyncio.TimerHandle] = []

            def doubt() -> None:
                if scope.expired():
                    return  # in this very turn of the loop
                if self.cluster.broker_metadata(node_id) is None:
                    scope.reschedule(loop.time())
                    return
                self._states.slow(node_id)
                self.force_metadata_update()
                timers[:] = [loop.call_later(DOUBT_AGAIN_S, doubt)]

            first_s = DOUBT_AGAIN_S if self._states.is_silent(node_id) else SILENT_S
            timers.append(loop.call_later(first_s, doubt))
            try:
                yield
            finally:
                timers[0].cancel()

    async def _get_conn(self, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, **_: Any) -> Any:
        """A connection to the broker, or None. Each broker is waited for by itself."""
        at = (node_id, group)
        connection = self._conns.get(at)
        if connection is not None and connection.connected():
            return connection
        async with self._connecting.setdefault(at, asyncio.Lock()):
            connection = self._conns.pop(at, None)
            if connection is None or not connection.connected():
                connection = await self._connect(node_id)
            if connection is not None:
                self._conns[at] = connection
            return connection

    async def _connect(self, node_id: Any) -> Any:
        await self._clock.sleep_ms(self._states.wait_ms(node_id))
        broker = self.cluster.broker_metadata(node_id)
        try:
            if broker is None:
                raise NodeNotReadyError("the cluster does not name it")
            async with self._within(node_id, self._request_s):
                return await self._open(broker.host, broker.port, self._on_connection_closed)
        except BROKEN as exc:
            self._states.refused(node_id, str(exc) or type(exc).__name__)
            self.force_metadata_update()
            return None

    async def _open(self, host: str, port: int, on_close: Any = None) -> Any:
        return await create_conn(
            host,
            port,
            client_id=self._client_id,
            request_timeout_ms=self._request_timeout_ms,
            ssl_context=self._ssl_context,
            security_protocol=self._security_protocol,
            on_close=on_close,
            max_idle_ms=self._connections_max_idle_ms,
            sasl_mechanism=self._sasl_mechanism,
            sasl_plain_username=self._sasl_plain_username,
            sasl_plain_password=self._sasl_plain_password,
            sasl_kerberos_service_name=self._sasl_kerberos_service_name,
            sasl_kerberos_domain_name=self._sasl_kerberos_domain_name,
            sasl_oauth_token_provider=self._sasl_oauth_token_provider,
        )
