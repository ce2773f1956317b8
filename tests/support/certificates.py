"""Certificates for tests: an authority, and what it has signed."""

from __future__ import annotations

import datetime
import ipaddress
import pathlib
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Signs. ``file`` is its own certificate, PEM."""

    def __init__(self, folder: pathlib.Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        made = self._builder(name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self.file.write_bytes(self._signed(made.add_extension(usage, critical=True)))

    def _builder(self, name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder(self._name, _name(name), key.public_key(), x509.random_serial_number())
        made = made.not_valid_before(BEGIN).not_valid_after(END)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return made.add_extension(identifier, critical=False).add_extension(issuer, critical=False)

    def _signed(self, made: x509.CertificateBuilder) -> bytes:
        signed = made.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def certificate(self, *hosts: str) -> pathlib.Path:
        """A PEM file with a key and its certificate, for these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[Any] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        made = self._builder(hosts[0], key).add_extension(x509.SubjectAlternativeName(names), critical=False)
        plain = serialization.NoEncryption()
        kind = serialization.PrivateFormat.PKCS8
        place = self._folder / f"{hosts[0].replace('*', '_')}-{x509.random_serial_number():x}.pem"
        place.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, plain) + self._signed(made))
        return place
