"""Faust's ``broker_credentials`` as fields of `KafkaSettings` and `RedisSettings`."""

from __future__ import annotations

from ssl import SSLContext
from typing import Any, cast

from faust.auth import SASLCredentials
from faust.types.auth import CredentialsT


def kafka_security(credentials: CredentialsT | None, ssl_context: SSLContext | None = None) -> dict[str, Any]:
    """Security protocol, mechanism and secrets; empty without credentials."""
    if credentials is None:
        return {} if ssl_context is None else {"security_protocol": "SSL", "ssl_context": ssl_context}
    context = (
        getattr(credentials, "context", None) or getattr(credentials, "ssl_context", None) or ssl_context
    )
    protocol = credentials.protocol.value
    if context is not None and protocol == "SASL_PLAINTEXT":
        protocol = "SASL_SSL"
    fields: dict[str, Any] = {"security_protocol": protocol, "ssl_context": context}
    if protocol.startswith("SASL"):
        fields |= {
            "sasl_mechanism": cast("SASLCredentials", credentials).mechanism.value,
            "sasl_username": getattr(credentials, "username", None),
            "sasl_password": getattr(credentials, "password", None),
            "sasl_token_provider": getattr(credentials, "oauth_cb", None),
        }
    return fields


def redis_login(credentials: CredentialsT | None) -> dict[str, Any]:
    """User and password; empty without credentials."""
    if credentials is None:
        return {}
    return {
        "username": getattr(credentials, "username", None),
        "password": getattr(credentials, "password", None),
    }
