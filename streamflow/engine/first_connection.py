"""The first connection: a broker that starts together with its workers gets the time that it needs."""

from __future__ import annotations

import logging

from streamflow.clock import Clock
from streamflow.errors import TransportError
from streamflow.transports.base import Transport

logger = logging.getLogger(__name__)

RETRY_MS = 500.0
TELL_MS = 10_000.0


async def first_connection(transport: Transport, clock: Clock, wait_s: float = 0.0) -> None:
    """Starts the transport; tries again for ``wait_s`` seconds, and says so every ten.

    Raises TransportError that says what to do, and ConfigurationError at once: waiting does not help there.
    """
    begun_ms = clock.monotonic_ms()
    told_ms: float | None = None
    while True:
        try:
            await transport.start()
        except TransportError as exc:
            passed_ms = clock.monotonic_ms() - begun_ms
            left_ms = wait_s * 1_000 - passed_ms
            if left_ms <= 0:
                tried = f"; tried for {wait_s:g} s (setting broker_wait_s)" if wait_s else ""
                asked = "Is it running, and is this its address (setting broker, STREAMFLOW_BROKER)?"
                raise TransportError(f"{exc}{tried}. {asked}") from exc
            if told_ms is None or passed_ms - told_ms >= TELL_MS:
                told_ms = passed_ms
                logger.warning("%s; trying again for %.0f s (setting broker_wait_s)", exc, left_ms / 1_000)
            await clock.sleep_ms(min(RETRY_MS, left_ms))
        else:
            return
