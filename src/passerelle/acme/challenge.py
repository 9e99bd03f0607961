"""Challenges: what a client of the authority must find at a name, as proof that the gateway has it.

A pending challenge is a mapping with ``kind``, ``name``, ``token`` and ``proof``, as gateways send it to their workers
and to each other. For ``http-01`` (RFC 8555 §8.3), ``proof`` is the key authorization; for ``tls-alpn-01`` (RFC 8737)
it is a certificate and its key in PEM.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from typing import Final

HTTP: Final = "http-01"
TLS: Final = "tls-alpn-01"
_ACME_IDENTIFIER: Final = "1.3.6.1.5.5.7.1.31"

Pending = Mapping[str, str]
FIELDS: Final = ("kind", "name", "token", "proof")


def pending(kind: str, name: str, token: str, key_authorization: str) -> Pending:
    """Return the pending challenge of ``kind`` for ``name``."""
    proof = key_authorization if kind == HTTP else validation_certificate(name, key_authorization).decode()
    return {"kind": kind, "name": name, "token": token, "proof": proof}


def validation_certificate(name: str, key_authorization: str) -> bytes:
    """Return the key and the certificate that prove the control of ``name`` (RFC 8737 §3), in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ACME validation")])
    digest = hashlib.sha256(key_authorization.encode()).digest()
    identifier = x509.UnrecognizedExtension(x509.ObjectIdentifier(_ACME_IDENTIFIER), b"\x04\x20" + digest)
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(identifier, critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private + made.public_bytes(pem)
