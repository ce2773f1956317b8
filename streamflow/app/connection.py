"""How an app reaches its broker: a worker's transport, and outside of a worker a client that only sends."""

from __future__ import annotations

import asyncio

from yarl import URL

from streamflow.app.credentials import kafka_security, redis_login
from streamflow.app.interface import AppT
from streamflow.app.topics.producer import RecordProducer
from streamflow.clock import SystemClock
from streamflow.engine.engine import Engine
from streamflow.engine.first_connection import first_connection
from streamflow.errors import ConfigurationError
from streamflow.transports.base import Transport
from streamflow.transports.connect import connect, scheme_of


class Connection:
    """Of one app. ``given``: a transport in place of the one that its settings name, for tests."""

    def __init__(self, app: AppT, given: Transport | None) -> None:
        self._app = app
        self._given = given
        self._client: tuple[Engine, RecordProducer] | None = None
        self._connecting = asyncio.Lock()

    @property
    def broker_url(self) -> str:
        """All brokers of one cluster, as one URL."""
        return ";".join(str(url) for url in self._app.conf.broker)

    def transport(self, worker_url: str) -> Transport:
        """Not started yet, for the worker that is reached at this URL, or for none."""
        if self._given is not None:
            return self._given
        conf = self._app.conf
        kafka = kafka_security(conf.broker_credentials, conf.ssl_context)
        if conf.consumer_group_instance_id:
            kafka["group_instance_id"] = conf.consumer_group_instance_id
        # Two workers of one machine have two ports, and each has its own again when it comes back.
        slot = str(URL(worker_url).port) if worker_url else ""
        redis = redis_login(conf.broker_credentials)
        settings = self._app.engine_settings
        return connect(self.broker_url, settings, SystemClock(), slot=slot, kafka=kafka, redis=redis)

    @property
    def producer(self) -> RecordProducer | None:
        """The client's, if it is connected."""
        return None if self._client is None else self._client[1]

    async def client(self) -> tuple[Engine, RecordProducer]:
        """Connects, if it is not done yet. Raises ConfigurationError where nobody could see what is sent."""
        async with self._connecting:
            if self._client is None:
                if scheme_of(self.broker_url) == "memory" and self._given is None:
                    raise ConfigurationError(
                        "memory:// lives inside one worker: nothing can be sent to it from outside"
                    )
                engine = Engine(self._app.engine_settings, self.transport(""), SystemClock())
                await first_connection(engine.transport, engine.clock)
                self._client = engine, RecordProducer(engine, self._app.conf.producer_max_request_size)
            return self._client

    async def close(self) -> None:
        """Ends the client's connection. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            engine, producer = client
            await producer.close()
            await engine.transport.stop()
