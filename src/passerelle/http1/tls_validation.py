"""TLS contexts for clients that validate names for an authority (RFC 8737, ``tls-alpn-01``)."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from passerelle.http1.tls_bundle import load_bundle
from passerelle.http1.tls_handshake import VALIDATION


def validation_context(proofs: Mapping[str, bytes]) -> ssl.SSLContext | None:
    """Return a context with the certificate that proves each name: its key and itself in PEM. None without a name.

    A client that requests another name, or none, is refused.

    :raises ssl.SSLError: if one cannot be used.
    """
    known = {name: _context(proof) for name, proof in proofs.items()}
    if not known:
        return None

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
        found = known.get(name.lower()) if name is not None else None
        if found is None:
            return ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = found
        return None

    first = _context(next(iter(proofs.values())))
    first.sni_callback = choose
    return first


def _context(proof: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([VALIDATION.decode()])
    context.num_tickets = 0
    load_bundle(context, proof)
    return context
