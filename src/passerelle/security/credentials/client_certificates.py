"""Client certificates as credentials: mutual TLS verifies them, and the subject's common name is the consumer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.guard import GuardedCall
from passerelle.security.identity import Identity

# Maximum number of subjects cached per worker.
REMEMBERED = 10_000


class CertificateMethod:
    """Authentication by the certificate of the client's connection."""

    challenge = b'Certificate realm="passerelle"'
    rejection = b'Certificate realm="passerelle", error="invalid_certificate"'

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[object, Identity] = {}

    def identify(self, call: GuardedCall) -> Identity | None:
        """Return the identity of the certificate's subject, or None without a client certificate."""
        certificate = call.certificate
        if certificate is None:
            return None
        key = certificate.get("subject"), certificate.get("subjectAltName")
        known = self._known.get(key)
        if known is None:
            known = identity_of(certificate)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = known
        return known


def identity_of(certificate: Mapping[str, Any]) -> Identity:
    """Return the identity in ``certificate`` (in the form of :meth:`ssl.SSLSocket.getpeercert`).

    Its names can be required as claims, each a list: ``organization``, ``organizational_unit``, ``dns``, ``uri``,
    ``email``. Raises :class:`CredentialRejected` unless there is exactly one common name that fits into a field.
    """
    subject: dict[str, list[str]] = {}
    for part in certificate.get("subject", ()):
        for name, value in part:
            subject.setdefault(name, []).append(value)
    names = subject.get("commonName", [])
    if len(names) != 1 or not names[0].strip():
        raise CredentialRejected(f"certificate with {len(names)} common names")
    claims: dict[str, Any] = {
        "organization": subject.get("organizationName", []),
        "organizational_unit": subject.get("organizationalUnitName", []),
        "dns": [],
        "uri": [],
        "email": [],
    }
    for kind, value in certificate.get("subjectAltName", ()):
        if kind.lower() in claims:
            claims[kind.lower()].append(value)
    try:
        return Identity(names[0], (), "mtls", claims=claims)
    except ValueError as error:
        raise CredentialRejected(f"a certificate: {error}") from error
