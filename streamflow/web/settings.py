"""How the web view is served. Every limit is here, with its unit in its name."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from streamflow.errors import ConfigurationError
from streamflow.web.rights import Rule

DEFAULT_PORT = 6066


@dataclass(frozen=True, slots=True)
class WebSettings:
    """Configuration of `WebServer`; frozen.

    ``port_explicit``: the port was asked for, so that finding it busy is an error; otherwise the next
    free one is taken. ``tokens``: any of them opens the API as a bearer token; the first is the one
    that this worker shows to its peers. ``rights`` are rules ``who right``, see `streamflow.web.rights`;
    all of them replace these, by which whoever is let in may read everything, and apply late events (the
    only thing that ``admin:table`` is needed for). ``allow_insecure`` permits another address than loopback
    without tokens. ``allowed_origins`` are web origins (``https://host``) whose pages may read the API.
    ``allowed_hosts`` are further names by which an API without tokens may be called.
    ``advertised_url`` is what peers call; by default the address that was bound.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    port_explicit: bool = False
    tokens: tuple[str, ...] = ()
    rights: tuple[str, ...] = ("* read", "* admin:table")
    allow_insecure: bool = False
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    advertised_url: str | None = None

    rows_max: int = 1_000  # rows of one page
    min_position_wait_s: float = 5.0
    peer_timeout_s: float = 2.0
    scan_wait_s: float = 60.0  # what a peer may take besides for a list that looks at many rows
    peer_answer_bytes_max: int = 64 * 1024 * 1024
    request_bytes_max: int = 64 * 1024
    connections_max: int = 2_000  # and at most three quarters of the files that the process may open
    header_timeout_s: float = 10.0  # from connecting to the whole head of the first request
    idle_timeout_s: float = 75.0  # between two requests of one connection

    ws_connections_max: int = 1_000
    ws_subscriptions_max: int = 64  # of one connection
    ws_messages_per_s_max: float = 50.0  # from one client, after a burst of twice as many
    ws_message_bytes_max: int = 64 * 1024  # from a client
    ws_init_timeout_s: float = 10.0
    ws_heartbeat_s: float = 20.0
    ws_queue_frames_max: int = 1_000  # waiting for one slow client
    ws_queue_bytes_max: int = 8 * 1024 * 1024
    ws_pending_rows_max: int = 20_000  # conflated rows of one slow subscription
    ws_snapshot_rows_max: int = 200_000
    ws_snapshot_chunk_rows: int = 500
    ws_history_changes_max: int = 20_000  # of one table, for resuming
    ws_linger_s: float = 30.0  # a table nobody watches any more can still be resumed so long
    ws_progress_s: float = 1.0
    ws_reconnect_ms: int = 1_000  # told to clients when this worker stops


def is_loopback(host: str) -> bool:
    """Whether ``host`` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check(settings: WebSettings) -> None:
    """Raises ConfigurationError for settings that would open the tables to anybody, or can't work."""
    if not 0 <= settings.port <= 65_535:
        raise ConfigurationError(f"web port {settings.port} is not between 0 and 65535")
    if any(not token or not token.isascii() or not token.isprintable() for token in settings.tokens):
        raise ConfigurationError("a web token is empty, or not printable ASCII")
    for rule in settings.rights:
        Rule.of(rule)
    if settings.tokens or settings.allow_insecure or is_loopback(settings.host):
        return
    raise ConfigurationError(
        f"the web view would listen on {settings.host} without authentication: set a web token, "
        "or bind it to 127.0.0.1, or allow it with web_allow_insecure"
    )
