"""What a file with a certificate, its chain and its key contains."""

from __future__ import annotations

from typing import NamedTuple


class Issued(NamedTuple):
    """A certificate: its issuer in words, and the times between which it is valid, in seconds since 1970."""

    issuer: str
    start: float
    end: float


def inspect(bundle: bytes) -> Issued:
    """Describe the first certificate of ``bundle``. :raises ValueError: if there is none."""
    from cryptography import x509  # the import takes 0.1 s

    found = x509.load_pem_x509_certificates(bundle)[0]
    words = [
        str(each.value)
        for each in found.issuer
        if each.oid in (x509.NameOID.ORGANIZATION_NAME, x509.NameOID.COMMON_NAME)
    ]
    start, end = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return Issued(" ".join(words) or found.issuer.rfc4514_string(), start, end)


def names(bundle: bytes) -> list[str]:
    """Return the DNS names of the first certificate of ``bundle``, in lower case. :raises ValueError: without one."""
    from cryptography import x509

    found = x509.load_pem_x509_certificates(bundle)[0]
    try:
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in alternative.get_values_for_type(x509.DNSName)]
