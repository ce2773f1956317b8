"""TLS of the web view: what the server shows, and whom workers trust when they ask each other."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from streamflow.errors import ConfigurationError
from streamflow.web.settings import WebSettings


class _ServerContext(ssl.SSLContext):
    """What Python's defaults for servers are."""

    def ask_for_certificates(self, authorities: str, *, required: bool) -> None:
        self.load_verify_locations(authorities)
        self.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL


class _ClientContext(ssl.SSLContext):
    """What Python's defaults for clients are."""

    def take_any_name(self) -> None:
        """For servers that are called by their addresses on this machine."""
        self.check_hostname = False


def server_context(settings: WebSettings) -> ssl.SSLContext | None:
    """What the server speaks TLS with, or ``None`` for plain HTTP. Raises ConfigurationError."""
    if settings.ssl_context is not None:
        return settings.ssl_context
    if not settings.ssl_cert_file:
        return None
    try:
        context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.ssl_cert_file, settings.ssl_key_file or None, _no_prompt)
        if settings.ssl_client_ca_file:
            context.ask_for_certificates(settings.ssl_client_ca_file, required=settings.ssl_client_required)
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"TLS of the web view (settings web_ssl_...): {exc}") from exc
    return context


def peer_context(settings: WebSettings, *, any_name: bool = False) -> ssl.SSLContext | None:
    """What workers ask each other with; ``None`` without TLS. Raises ConfigurationError."""
    if not settings.has_tls:
        return None
    try:
        context = _ClientContext(ssl.PROTOCOL_TLS_CLIENT)
        if settings.ssl_ca_file:
            context.load_verify_locations(settings.ssl_ca_file)
        else:
            context.load_default_certs()
        if any_name:
            context.take_any_name()
        if settings.ssl_cert_file:
            context.load_cert_chain(settings.ssl_cert_file, settings.ssl_key_file or None, _no_prompt)
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"TLS of the web view (settings web_ssl_...): {exc}") from exc
    return context


def _no_prompt() -> str:
    """OpenSSL would ask on the terminal, for ever where there is none."""
    raise ValueError("the key has a password: give one without")


def check(settings: WebSettings) -> None:
    """Raises ConfigurationError for settings of which one needs another."""
    if (settings.ssl_key_file or settings.ssl_client_ca_file) and not settings.ssl_cert_file:
        raise ConfigurationError("web_ssl_key_file and web_ssl_client_ca_file need web_ssl_cert_file")
    if settings.ssl_client_required and not settings.ssl_client_ca_file:
        raise ConfigurationError("web_ssl_client_required needs web_ssl_client_ca_file")
    if settings.has_tls and urlsplit(settings.advertised_url or "").scheme == "http":
        raise ConfigurationError(f"web_advertised_url {settings.advertised_url} is not https")
    server_context(settings)
    peer_context(settings)


def shows_certificate_of(request: web.BaseRequest, url: str) -> bool:
    """Whether the client has a certificate, which was checked, of the host of ``url``."""
    transport = request.transport
    certificate = (transport.get_extra_info("peercert") if transport is not None else None) or {}
    host = urlsplit(url).hostname
    return host is not None and covers(certificate, host)


def covers(certificate: Mapping[str, Any], host: str) -> bool:
    """Whether one of its names is ``host``; ``*`` stands for one whole label, the first one."""
    names: Sequence[tuple[str, str]] = certificate.get("subjectAltName", ())
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        found = [name.lower() for kind, name in names if kind == "DNS"]
        _, dot, rest = host.lower().partition(".")
        return host.lower() in found or (bool(dot) and f"*.{rest}" in found)
    return any(kind == "IP Address" and _same(name, address) for kind, name in names)


def _same(name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return ipaddress.ip_address(name) == address
    except ValueError:
        return False
