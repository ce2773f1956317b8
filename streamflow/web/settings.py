"""How the web view is served. Every limit is here, with its unit in its name."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field

from streamflow.web.tokens import is_hashed

DEFAULT_PORT = 6066


@dataclass(frozen=True, slots=True)
class WebSettings:
    """Configuration of `WebServer`; frozen.

    ``port_explicit``: the port was asked for, so that finding it busy is an error; otherwise the next
    free one is taken. ``tokens``: any of them opens the API as a bearer token; those that begin with
    ``scrypt:`` are the hashes of some (`streamflow token`). ``token`` is the one that this app's own commands
    show; by default the first that is not a hash. By ``peer_secret`` workers know each other; by default that
    token. ``jwt_keys`` names a file or an https address with the public keys (JSON Web Key Set) of
    ``jwt_issuer``, whose tokens for any of ``jwt_audience`` are taken, too; rights among the words of their
    claim ``jwt_rights_claim`` count. ``rights`` are rules ``who right``, see `streamflow.web.rights`;
    all of them replace these, by which whoever is let in may read everything, and apply late events (the
    only thing that ``admin:table`` is needed for). ``allow_insecure`` permits another address than loopback
    without tokens. ``allowed_origins`` are web origins (``https://host``) whose pages may read the API.
    ``allowed_hosts`` are further names by which an API without tokens may be called.
    ``advertised_url`` is what peers call; by default the address that was bound.

    With ``ssl_cert_file`` (PEM, and ``ssl_key_file``, if the key is not in it), or with ``ssl_context``,
    the server speaks TLS only. Workers trust each other's certificates by ``ssl_ca_file`` (by default the
    system's authorities). Clients may show one by ``ssl_client_ca_file``, and with ``ssl_client_required``
    must: whoever shows that of a worker's host and says to be that worker is one, without ``peer_secret``.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    port_explicit: bool = False
    tokens: tuple[str, ...] = field(default=(), repr=False)
    token: str | None = field(default=None, repr=False)
    peer_secret: str | None = field(default=None, repr=False)
    jwt_issuer: str = ""
    jwt_audience: tuple[str, ...] = ()
    jwt_keys: str = ""
    jwt_algorithms: tuple[str, ...] = ("RS256", "ES256", "PS256", "EdDSA")
    jwt_rights_claim: str = "scope"
    jwt_leeway_s: float = 30.0
    rights: tuple[str, ...] = ("* read", "* admin:table")
    allow_insecure: bool = False
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    advertised_url: str | None = None

    ssl_cert_file: str = ""
    ssl_key_file: str = ""
    ssl_ca_file: str = ""
    ssl_client_ca_file: str = ""
    ssl_client_required: bool = False
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)

    rows_max: int = 1_000  # rows of one page
    min_position_wait_s: float = 5.0
    peer_timeout_s: float = 2.0
    scan_wait_s: float = 60.0  # what a peer may take besides for a list that looks at many rows
    peer_answer_bytes_max: int = 64 * 1024 * 1024
    request_bytes_max: int = 64 * 1024
    publish_bytes_max: int = 1024 * 1024  # of one POST to a topic
    publish_events_max: int = 1_000  # in one POST to a topic
    connections_max: int = 2_000  # and at most three quarters of the files that the process may open
    connections_per_address_max: int = 1_000  # loopback has no such limit: a proxy may stand there
    header_timeout_s: float = (
        10.0  # from connecting to the whole head of the first request; a handshake's too
    )
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

    @property
    def needs_token(self) -> bool:
        return bool(self.tokens or self.jwt_keys)

    @property
    def has_tls(self) -> bool:
        return self.ssl_context is not None or bool(self.ssl_cert_file)

    @property
    def scheme(self) -> str:
        return "https" if self.has_tls else "http"

    @property
    def own_token(self) -> str | None:
        """What a program with these settings shows to a worker."""
        return self.token or next((token for token in self.tokens if not is_hashed(token)), None)

    @property
    def worker_secret(self) -> str | None:
        """What all workers of the app know, and nobody else."""
        return self.peer_secret or next((token for token in self.tokens if not is_hashed(token)), None)


def is_loopback(host: str) -> bool:
    """Whether ``host`` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
