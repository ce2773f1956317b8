"""Settings that can't work are refused, and credentials are never shown."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from streamflow.errors import ConfigurationError
from streamflow.transports.kafka import KafkaSettings

TLS = ssl.create_default_context()


def settings(**options: Any) -> KafkaSettings:
    return KafkaSettings(**{"bootstrap": ("h:9092",), "group_id": "app", **options})


def test_credentials_do_not_show() -> None:
    made = settings(
        security_protocol="SASL_SSL", ssl_context=TLS, sasl_username="ann", sasl_password="s3cret"
    )
    assert "s3cret" not in repr(made)
    assert "ann" not in repr(made)
    assert made.client_options()["sasl_plain_password"] == "s3cret"


def test_credentials_in_clear_are_an_explicit_choice() -> None:
    credentials = {"sasl_username": "ann", "sasl_password": "s3cret"}
    with pytest.raises(ConfigurationError, match="in clear") as raised:
        settings(security_protocol="SASL_PLAINTEXT", **credentials)
    assert "s3cret" not in str(raised.value)
    made = settings(security_protocol="SASL_PLAINTEXT", allow_sasl_without_tls=True, **credentials)
    assert made.security_protocol == "SASL_PLAINTEXT"


@pytest.mark.parametrize(
    "options",
    [
        {"bootstrap": ()},
        {"bootstrap": "h:9092"},
        {"bootstrap": ("ann:s3cret@h:9092",)},
        {"group_id": ""},
        {"security_protocol": "TLS"},
        {"security_protocol": "SSL"},
        {"security_protocol": "SASL_SSL", "sasl_username": "ann"},
        {"sasl_password": "s3cret"},
        {"security_protocol": "SASL_SSL", "ssl_context": TLS, "sasl_mechanism": "NONE"},
        {"commit_timeout_ms": 10_000},
    ],
)
def test_what_cannot_work_is_refused_without_repeating_a_password(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        settings(**options)
    assert "s3cret" not in str(raised.value)


def test_the_transactional_id_is_app_and_slot() -> None:
    assert settings(transactional_slot="host-6066").transactional_id == "app-host-6066"
    assert settings().transactional_id.startswith("app-")
