"""Who we are to a Kafka cluster, and how we know it: by settings or an app's credentials."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider

from streamflow.errors import ConfigurationError
from streamflow.settings import Settings


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """A bearer token that somebody else keeps fresh in a file; read for each connection."""

    def __init__(self, place: str) -> None:
        self._place = Path(place)

    async def token(self) -> str:
        text = (await asyncio.to_thread(self._place.read_text)).strip()
        if not text:
            raise ValueError(f"{self._place} (setting kafka_oauth_token_file) holds no token")
        return text


def security(settings: Settings, credentials: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `KafkaSettings`. What the settings say goes before ``credentials``, which the code gives.

    With a user or a token the protocol is SASL_SSL, and with a certificate SSL, unless
    ``kafka_security_protocol`` names another. Raises ConfigurationError for files that can't be used.
    """
    named = {
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_username": settings.kafka_sasl_username,
        "sasl_password": settings.kafka_sasl_password,
    }
    fields = {**credentials, **{name: value for name, value in named.items() if value}}
    if settings.kafka_oauth_token_file:
        fields["sasl_token_provider"] = TokenFile(settings.kafka_oauth_token_file)
        fields.setdefault("sasl_mechanism", "OAUTHBEARER")
    fields["allow_sasl_without_tls"] = bool(settings.kafka_allow_sasl_without_tls)
    fields["security_protocol"] = protocol = _protocol(settings, fields)
    if protocol.endswith("SSL") and (fields.get("ssl_context") is None or _names_tls(settings)):
        fields["ssl_context"] = _context(settings)
    return fields


def _names_tls(settings: Settings) -> bool:
    return bool(settings.kafka_tls_ca_file or settings.kafka_tls_cert_file)


def _protocol(settings: Settings, fields: Mapping[str, Any]) -> str:
    if settings.kafka_security_protocol:
        return settings.kafka_security_protocol
    has_login = any(fields.get(name) for name in ("sasl_username", "sasl_password", "sasl_token_provider"))
    has_tls = fields.get("ssl_context") is not None or _names_tls(settings)
    given = str(fields.get("security_protocol", "PLAINTEXT"))
    if has_tls or given.endswith("SSL"):
        return "SASL_SSL" if has_login or given.startswith("SASL") else "SSL"
    if given.startswith("SASL"):
        return given  # Faust's credentials without a context say that it is meant
    if not has_login:
        return given
    return "SASL_PLAINTEXT" if fields["allow_sasl_without_tls"] else "SASL_SSL"


def _context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.kafka_tls_ca_file or None)
        if settings.kafka_tls_cert_file:
            own, key = settings.kafka_tls_cert_file, settings.kafka_tls_key_file or None
            context.load_cert_chain(own, key, _no_prompt)
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"TLS to Kafka (settings kafka_tls_...): {exc}") from exc
    return context


def _no_prompt() -> str:
    """OpenSSL would ask on the terminal, for ever where there is none."""
    raise ValueError("the key has a password: give one without")
