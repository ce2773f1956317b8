"""What is wrong with the settings of a web view, told before it serves."""

from __future__ import annotations

from typing import Final

from streamflow.errors import ConfigurationError
from streamflow.web import jwt_tokens, tls
from streamflow.web.rights import Rule
from streamflow.web.settings import WebSettings, is_loopback
from streamflow.web.tokens import HashedToken, is_hashed

PEER_SECRET_CHARACTERS_MIN: Final = 16


def check(settings: WebSettings) -> None:
    """Raises ConfigurationError for settings that would open the tables to anybody, or can't work."""
    if not 0 <= settings.port <= 65_535:
        raise ConfigurationError(f"web port {settings.port} is not between 0 and 65535")
    _check_tokens(settings)
    _check_jwt(settings)
    tls.check(settings)
    for rule in settings.rights:
        Rule.of(rule)
    if settings.needs_token or settings.allow_insecure or is_loopback(settings.host):
        return
    raise ConfigurationError(
        f"the web view would listen on {settings.host} without authentication: set a web token, "
        "or bind it to 127.0.0.1, or allow it with web_allow_insecure"
    )


def _check_tokens(settings: WebSettings) -> None:
    for token in settings.tokens:
        if is_hashed(token):
            HashedToken.of(token)
    for token in (*settings.tokens, *filter(None, (settings.token,))):
        if not token or not token.isascii() or not token.isprintable():
            raise ConfigurationError("a web token is empty, or not printable ASCII")
    if settings.peer_secret is not None and len(settings.peer_secret) < PEER_SECRET_CHARACTERS_MIN:
        raise ConfigurationError(
            f"web_peer_secret has less than {PEER_SECRET_CHARACTERS_MIN} characters:"
            " `streamflow token` makes one"
        )


def _check_jwt(settings: WebSettings) -> None:
    given = {
        "web_jwt_keys": settings.jwt_keys,
        "web_jwt_issuer": settings.jwt_issuer,
        "web_jwt_audience": settings.jwt_audience,
    }
    missing = [name for name, value in given.items() if not value]
    if len(missing) == len(given):
        return
    if missing:
        raise ConfigurationError(
            f"{' and '.join(missing)} must be set, too: a token counts by its issuer, for whom it is,"
            " and by its signature"
        )
    jwt_tokens.check_place(settings.jwt_keys)
    jwt_tokens.check_algorithms(settings.jwt_algorithms)
