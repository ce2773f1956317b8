"""Settings that can't work are refused, and credentials are never shown."""

from __future__ import annotations

import pathlib
import ssl
from typing import Any

import pytest
from faust.auth import SASLCredentials

from streamflow.app.credentials import kafka_security
from streamflow.clock import SystemClock
from streamflow.errors import ConfigurationError
from streamflow.settings import Settings
from streamflow.transports.connect import connect
from streamflow.transports.kafka import KafkaSettings, KafkaTransport
from tests.support.certificates import Authority

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


def kafka(credentials: dict[str, Any] | None = None, /, **knobs: Any) -> KafkaSettings:
    """Of a broker URL, an app's own credentials and its settings."""
    made = connect("kafka://h:9092", Settings(id="app", **knobs), SystemClock(), kafka=credentials)
    assert isinstance(made, KafkaTransport)
    return made.settings


LOGIN = {"kafka_sasl_username": "ann", "kafka_sasl_password": "s3cret"}


@pytest.mark.parametrize(
    "knobs, protocol, mechanism",
    [
        ({}, "PLAINTEXT", "PLAIN"),
        (LOGIN, "SASL_SSL", "PLAIN"),
        ({**LOGIN, "kafka_sasl_mechanism": "SCRAM-SHA-512"}, "SASL_SSL", "SCRAM-SHA-512"),
        ({**LOGIN, "kafka_allow_sasl_without_tls": 1}, "SASL_PLAINTEXT", "PLAIN"),
        ({"kafka_oauth_token_file": "/run/token"}, "SASL_SSL", "OAUTHBEARER"),
        ({"kafka_security_protocol": "SSL"}, "SSL", "PLAIN"),
        ({**LOGIN, "kafka_security_protocol": "SASL_SSL"}, "SASL_SSL", "PLAIN"),
    ],
)
def test_the_settings_say_who_we_are(knobs: dict[str, Any], protocol: str, mechanism: str) -> None:
    made = kafka(**knobs)
    assert (made.security_protocol, made.sasl_mechanism) == (protocol, mechanism)
    assert (made.ssl_context is not None) is protocol.endswith("SSL")
    assert "s3cret" not in repr(made)


def test_an_apps_own_credentials_in_clear_need_a_word_too(tmp_path: pathlib.Path) -> None:
    """The error names what can be set: as a setting, as a variable, or by naming an authority."""
    given = kafka_security(SASLCredentials(username="ann", password="s3cret", mechanism="SCRAM-SHA-256"))
    with pytest.raises(ConfigurationError, match="STREAMFLOW_KAFKA_ALLOW_SASL_WITHOUT_TLS"):
        kafka(given)
    assert kafka(given, kafka_allow_sasl_without_tls=1).security_protocol == "SASL_PLAINTEXT"
    made = kafka(given, kafka_tls_ca_file=str(Authority(tmp_path).file))
    assert (made.security_protocol, made.sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-256")
    assert kafka(given, kafka_sasl_username="bob", kafka_allow_sasl_without_tls=1).sasl_username == "bob"


@pytest.mark.parametrize(
    "knobs, told",
    [
        ({"kafka_sasl_username": "ann"}, "kafka_sasl_password"),
        ({"kafka_tls_ca_file": "/no/such/file"}, "kafka_tls_"),
        ({"kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER"}, "kafka_oauth"),
        ({"kafka_security_protocol": "SASL"}, "kafka_security_protocol"),
    ],
)
def test_settings_that_cannot_work_are_told(knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        kafka(**knobs)


async def test_a_token_is_read_anew_for_each_connection(tmp_path: pathlib.Path) -> None:
    place = tmp_path / "token"
    provider = kafka(kafka_oauth_token_file=str(place)).sasl_token_provider
    for text in ("one", "two\n"):
        place.write_text(text)
        assert await provider.token() == text.strip()
    place.write_text("")
    with pytest.raises(ValueError, match="kafka_oauth_token_file"):
        await provider.token()
