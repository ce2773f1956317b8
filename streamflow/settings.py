"""Every knob of the engine with its unit, default, range and environment name.

A knob NAME is read from ``STREAMFLOW_NAME``. What wins: command line, STREAMFLOW_NAME, Faust's own
variable, the app's code, the default; `app.py` brings them together.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from streamflow.errors import ConfigurationError
from streamflow.partitioner import PARTITIONERS

DISTRIBUTION = "faust-streamflow"
PREFIX = "STREAMFLOW_"
GUARANTEES = ("exactly_once", "at_least_once")
YEAR_1900_MS = -2_208_988_800_000
YEAR_2200_MS = 7_258_118_400_000


def knob(
    default: object,
    text: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    """A field with its description; ``low`` and ``high`` are the least and greatest value allowed.

    What is ``secret`` does not show in ``repr``.
    """
    return field(
        default=default,
        metadata={"text": text, "unit": unit, "low": low, "high": high, "choices": choices},
        repr=not secret,
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine is told when it is made. Frozen: state lives elsewhere."""

    id: str = knob("streamflow", "Name of the app: its group, and the prefix of its internal topics.")
    processing_guarantee: str = knob(
        "exactly_once", "What a checkpoint promises about each event's effects.", choices=GUARANTEES
    )
    commit_interval: float = knob(0.5, "Time between checkpoints.", unit="s", low=0.01, high=60)
    commit_every: int = knob(
        500_000, "Records taken after which a checkpoint comes before its time.", unit="records", low=1
    )
    commit_bytes: int = knob(
        67_108_864,
        "Bytes of the values taken after which a checkpoint comes before its time.",
        unit="bytes",
        low=1,
    )
    commit_events_max: int = knob(
        1_000_000, "Events that may be taken while one checkpoint is on its way.", unit="events", low=1
    )
    commit_bytes_max: int = knob(
        268_435_456,
        "Bytes of values that may be taken while one checkpoint is on its way.",
        unit="bytes",
        low=1,
    )
    store: str = knob("memory://", "Where tables keep their rows: memory:// or rocksdb://.")
    data_dir: str = knob("streamflow-data", "Folder for what is kept on this machine: stores, notes.")
    store_age_max_s: float = knob(
        43_200.0,
        "A store that was not kept up for longer is rebuilt: its changelog may have forgotten what was "
        "deleted. Keep it below delete.retention.ms of the changelogs.",
        unit="s",
        low=0,
    )
    on_lost_writes: str = knob(
        "stop",
        "A worker that finds that its broker has lost what it had acknowledged ends, or begins anew with "
        "what is left (Redis).",
        choices=("stop", "restart"),
    )
    table_standby_replicas: int = knob(
        1,
        "Other workers that keep the tables of each partition up to date, to take it over at once.",
        unit="workers",
        low=0,
        high=100,
    )
    partitioner: str = knob("fnv1a", "Key to partition.", choices=tuple(PARTITIONERS))
    topic_partitions: int = knob(8, "Partitions of topics that the app creates.", low=1, high=10_000)
    topic_replication_factor: int = knob(
        0,
        "Copies of topics that the app creates (Kafka); 0: as many as its source topics have.",
        low=0,
        high=100,
    )
    on_recreated_topic: str = knob(
        "stop",
        "A source topic was deleted and made again, or its log ends before what was counted: the worker ends "
        "and says so, or keeps its tables and counts the new log whole.",
        choices=("stop", "restart"),
    )
    on_lost_state: str = knob(
        "stop",
        "A topic that holds rows or partial results ends before what was counted into it: the worker ends "
        "and says so, or says so and goes on with what is left.",
        choices=("stop", "go_on"),
    )
    value_bytes_max: int = knob(1_048_576, "Larger values are bad input.", unit="bytes", low=1)
    timestamp_min_ms: int = knob(YEAR_1900_MS, "Earlier event times are bad input.", unit="ms of epoch time")
    timestamp_max_ms: int = knob(
        YEAR_2200_MS, "Event times from here on are bad input.", unit="ms of epoch time"
    )
    future_max_s: float | None = knob(
        None,
        "Event times so far ahead of the clock, or of the record's own timestamp, are bad input; None: off.",
        unit="s",
        low=0,
    )
    transient_errors: object = knob(
        "",
        "More errors that a minute may cure, beside OSError and its like: exception classes in code, "
        "module:Class,module:Class in the environment.",
    )
    gives_up_max: int = knob(
        0,
        "An agent that gives up on so many events in a row stops the worker, before it sets a whole topic "
        "aside; 0: never.",
        unit="events",
        low=0,
    )
    agent_warn_s: float = knob(
        60.0,
        "An event that an agent works on for longer is named in the log, with where its code stands.",
        unit="s",
        low=0.1,
    )
    broker_wait_s: float = knob(
        60.0, "How long a worker that starts tries to reach its broker.", unit="s", low=0, high=86_400
    )
    fetch_wait_ms: int = knob(100, "How long a fetch waits for records.", unit="ms", low=1, high=10_000)
    session_timeout_ms: int = knob(10_000, "Silence after which a worker is dead.", unit="ms", low=500)
    max_poll_interval_ms: int = knob(
        300_000,
        "So long code may block the event loop before the worker's partitions go to others; a rebalance waits"
        " for it as long. Faust's broker_max_poll_interval, in s.",
        unit="ms",
        low=500,
    )
    transaction_timeout_ms: int = knob(
        10_000, "Age at which the broker ends a worker's open transaction.", unit="ms", low=500
    )
    transactional_slot: str = knob(
        "",
        "Part of the transactional id; unique among live workers, stable across restarts; empty: host, port.",
    )
    kafka_security_protocol: str = knob(
        "",
        "How Kafka is spoken to; empty: SASL_SSL with a login, SSL with a certificate, else PLAINTEXT.",
        choices=("", "PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    )
    kafka_sasl_mechanism: str = knob(
        "",
        "How Kafka is shown who we are; empty: PLAIN, or OAUTHBEARER with a token.",
        choices=("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER"),
    )
    kafka_sasl_username: str = knob("", "User of the Kafka cluster.")
    kafka_sasl_password: str = knob("", "Password of that user.", secret=True)
    kafka_oauth_token_file: str = knob(
        "",
        "A file with a bearer token for OAUTHBEARER; read for each connection, for it may change.",
    )
    kafka_allow_sasl_without_tls: int = knob(
        0,
        "1: user and password, or the token, may travel in clear.",
        low=0,
        high=1,
    )
    kafka_tls_ca_file: str = knob("", "Certificates that brokers are checked with; empty: the system's.")
    kafka_tls_cert_file: str = knob("", "Our own certificate for brokers that want one.")
    kafka_tls_key_file: str = knob("", "Its key.")
    redis_stream_name: str = knob(
        "{topic}:{partition}", "Name of a partition's stream; has {topic} and {partition}."
    )
    redis_key_prefix: str = knob("streamflow", "What the names of all other keys in Redis begin with.")
    redis_username: str = knob("", "User of the Redis server; empty: its default user.")
    redis_password: str = knob("", "Password of the Redis server; empty: none.", secret=True)
    redis_tls_ca_file: str = knob(
        "", "Certificates that a rediss:// server is checked with; empty: the system's."
    )
    redis_tls_cert_file: str = knob("", "Our own certificate for a rediss:// server that wants one.")
    redis_tls_key_file: str = knob("", "Its key.")
    redis_sentinel_service: str = knob(
        "", "Name of the service; the hosts of the broker URL are then Sentinels. Empty: they are the server."
    )
    redis_wait_replicas: int = knob(
        0, "Replicas that must have a checkpoint before it counts (WAIT).", unit="replicas", low=0, high=100
    )
    redis_wait_aof: int = knob(
        0, "1: a checkpoint waits until the append-only file is synced (WAITAOF, Redis 7.2).", low=0, high=1
    )
    redis_wait_timeout_ms: int = knob(
        2_000, "How long a checkpoint waits for these.", unit="ms", low=1, high=4_000
    )
    redis_trim: str = knob(
        "off",
        "Ordinary topics keep everything, or what the slowest group has still to read.",
        choices=("off", "slowest_group"),
    )
    redis_compact_records: int = knob(
        20_000,
        "A compacted partition is compacted when its stream is longer than this and than its snapshot.",
        unit="entries",
        low=100,
    )

    def __post_init__(self) -> None:
        for knob_field in fields(self):
            _check(knob_field.name, getattr(self, knob_field.name), knob_field.metadata)

    @property
    def commit_interval_ms(self) -> float:
        return self.commit_interval * 1_000


def _check(name: str, value: object, about: Mapping[str, Any]) -> None:
    choices, low, high = about["choices"], about["low"], about["high"]
    if choices and value not in choices:
        raise ConfigurationError(f"setting {name} is {value!r}; it can be one of {', '.join(choices)}")
    if value is None or isinstance(value, str):
        return
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigurationError(
            f"setting {name} is {value!r} {about['unit']}; it must be {bounds}".replace("  ", " ")
        )


def version() -> str:
    """Of this package as it is installed; "0" in a checkout that is not."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def environment_value(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """``STREAMFLOW_NAME`` of a knob, or ``None`` where it is not set."""
    return environ.get(PREFIX + name.upper())


def from_environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The knobs of `Settings` that the environment sets, read by the type of their default.

    Raises ConfigurationError for text that is no such value.
    """
    found: dict[str, Any] = {}
    for knob_field in fields(Settings):
        text = environment_value(knob_field.name, environ)
        if text is None:
            continue
        kind: type = float if knob_field.name == "future_max_s" else type(knob_field.default)
        try:
            found[knob_field.name] = kind(text)
        except ValueError as exc:
            raise ConfigurationError(
                f"{PREFIX}{knob_field.name.upper()}={text!r} is no {kind.__name__}"
            ) from exc
    return found
