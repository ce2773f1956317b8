"""How to reach a Kafka cluster, and the limits of this driver. Credentials never show in ``repr``."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from typing import Any

from streamflow.errors import ConfigurationError

SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER")


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Raises ConfigurationError for what can't work.

    Attributes:
        bootstrap: ``host:port`` of one or more brokers.
        group_id: the consumer group; the app's id.
        transactional_slot: tells this worker's transactional id from the others'; stable over restarts,
            unique among live workers. Empty: the host's name.
        transactions: off for brokers that have none; commits are then at least once.
        group_instance_id: static membership of the group, or ``None``.
        standby_replicas: how many other workers keep the tables of each partition ready.
        allow_sasl_without_tls: credentials may travel in clear.
        rebalance_timeout_ms: how long a rebalance waits for a member that is alive, and busy.
        max_poll_interval_ms: how long a member whose event loop is blocked is kept in the group.
        fetch_bytes: what one fetch may return of one partition; larger ones fall out of the caches.
        fetch_wait_ms: how long the broker holds an empty fetch. A resumed partition waits for the
            fetch under way, so this bounds how late it is.
        metadata_age_ms: how long what is known of topics holds: a topic that has got more partitions, or was
            deleted and made again, is noticed so late.
        batch_bytes: what one produced batch holds at most, unless one record is larger.
        commit_timeout_ms: when a commit that is not decided yet is given up; below the transaction timeout.
        decide_timeout_ms: how long a sent decision is asked for again before its outcome is unknown.
    """

    bootstrap: tuple[str, ...]
    group_id: str
    client_id: str = "streamflow"
    transactional_slot: str = ""
    transactions: bool = True
    group_instance_id: str | None = None
    standby_replicas: int = 0

    security_protocol: str = "PLAINTEXT"
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    sasl_mechanism: str = "PLAIN"
    sasl_username: str | None = field(default=None, repr=False)
    sasl_password: str | None = field(default=None, repr=False)
    sasl_token_provider: Any = field(default=None, repr=False)
    allow_sasl_without_tls: bool = False

    session_timeout_ms: int = 10_000
    rebalance_timeout_ms: int = 30_000
    heartbeat_ms: int = 3_000
    max_poll_interval_ms: int = 300_000
    transaction_timeout_ms: int = 10_000
    commit_timeout_ms: int = 8_000
    decide_timeout_ms: int = 15_000
    committed_timeout_ms: int = 60_000
    request_timeout_ms: int = 5_000
    start_timeout_ms: int = 15_000
    fetch_wait_ms: int = 100
    fetch_bytes: int = 1 << 20
    fetch_bytes_max: int = 50 << 20
    metadata_age_ms: int = 10_000
    batch_bytes: int = 256 << 10

    def __post_init__(self) -> None:
        if not self.bootstrap or not isinstance(self.bootstrap, tuple):
            raise ConfigurationError("bootstrap: give a tuple of at least one 'host:port'")
        if any("@" in server for server in self.bootstrap):
            # What stands before the @ would be printed with every connection error.
            raise ConfigurationError("bootstrap: no user or password here; use sasl_username, sasl_password")
        if not self.group_id:
            raise ConfigurationError("group_id: must not be empty")
        if self.transactions and self.commit_timeout_ms >= self.transaction_timeout_ms:
            raise ConfigurationError(
                f"commit_timeout_ms ({self.commit_timeout_ms}) must be below"
                f" transaction_timeout_ms ({self.transaction_timeout_ms})"
            )
        self._check_security()

    def _check_security(self) -> None:
        protocol = self.security_protocol
        if protocol not in SECURITY_PROTOCOLS:
            raise ConfigurationError(f"security_protocol: {protocol!r} is none of {SECURITY_PROTOCOLS}")
        if protocol.endswith("SSL") and self.ssl_context is None:
            raise ConfigurationError(f"security_protocol {protocol} needs an ssl_context")
        if not protocol.startswith("SASL"):
            if self.sasl_username or self.sasl_password or self.sasl_token_provider:
                raise ConfigurationError(f"credentials are given, but security_protocol is {protocol}")
            return
        if self.sasl_mechanism not in SASL_MECHANISMS:
            raise ConfigurationError(f"sasl_mechanism: {self.sasl_mechanism!r} is none of {SASL_MECHANISMS}")
        if protocol == "SASL_PLAINTEXT" and not self.allow_sasl_without_tls:
            raise ConfigurationError(
                "security_protocol SASL_PLAINTEXT sends credentials in clear: use SASL_SSL"
                " (kafka_tls_ca_file, or an ssl_context of the credentials), or say that it is meant with"
                " kafka_allow_sasl_without_tls (STREAMFLOW_KAFKA_ALLOW_SASL_WITHOUT_TLS=1)"
            )

        self._check_login()

    def _check_login(self) -> None:
        mechanism = self.sasl_mechanism
        if mechanism == "OAUTHBEARER" and self.sasl_token_provider is None:
            raise ConfigurationError(
                "sasl_mechanism OAUTHBEARER needs a token: kafka_oauth_token_file, or OAuthCredentials"
            )
        by_password = mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
        if by_password and not (self.sasl_username and self.sasl_password):
            raise ConfigurationError(
                f"sasl_mechanism {mechanism} needs kafka_sasl_username and kafka_sasl_password"
            )

    @property
    def transactional_id(self) -> str:
        """App id and slot: names this worker's transactional producer over its restarts."""
        return f"{self.group_id}-{self.transactional_slot or socket.gethostname()}"

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments that every client of aiokafka takes."""
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.bootstrap),
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "ssl_context": self.ssl_context,
            "retry_backoff_ms": 100,
        }
        if self.security_protocol.startswith("SASL"):
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
                "sasl_oauth_token_provider": self.sasl_token_provider,
            }
        return options
