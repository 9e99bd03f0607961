"""Certificates and keys in memory, for :mod:`ssl`, which reads files only."""

from __future__ import annotations

import os
import ssl


def load_bundle(context: ssl.SSLContext, bundle: bytes) -> None:
    """Load a certificate, its chain and its key (PEM, the key without a password) into ``context``.

    OpenSSL opens a file twice: for the certificate, and for the key. A file that is replaced between the two would give
    it the key of another certificate; ``bundle`` cannot change.

    :raises OSError: if they cannot be used (of which ssl.SSLError is a subclass).
    """
    descriptor = os.memfd_create("certificate")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(bundle)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=no_password)
    finally:
        os.close(descriptor)


def no_password() -> str:
    """Raise OSError: without a callback, OpenSSL asks for the password at the terminal."""
    raise OSError("the key is encrypted")
