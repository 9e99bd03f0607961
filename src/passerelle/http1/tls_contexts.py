"""TLS contexts (RFC 8446, RFC 5246) for clients and upstreams, and detection of changed certificate files."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from passerelle.http1.tls_bundle import load_bundle, no_password
from passerelle.http1.tls_handshake import ListenerContext

# TLS 1.2: only suites with forward secrecy and authenticated encryption (RFC 9325 §4.2); TLS 1.3 has no others.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
# The ALPN protocols (RFC 7301) of the listener, and towards services: neither speaks HTTP/2.
PROTOCOLS = ["http/1.1", "http/1.0"]
SERVICE_PROTOCOLS = ["http/1.1"]
# Seconds that an instance may take for an orderly TLS shutdown.
SHUTDOWN = 5.0


class NamedFiles(NamedTuple):
    """A certificate for clients that request one of ``names`` (SNI).

    Names are lower case; ``*.`` stands for one label. Where the files of one that is ``ordered`` cannot be used yet,
    its names have the certificate for all other clients.
    """

    names: tuple[str, ...]
    certificate: Path
    key: Path
    ordered: bool = False


class ServerFiles(NamedTuple):
    """Files and settings of the listener's context; ``minimum`` is ``1.2`` or ``1.3``.

    Each certificate in ``others`` is used for its names only, ``certificate`` for all other clients. ``ciphers`` are
    the suites of TLS 1.2 in order, or empty for :data:`CIPHERS`; ``curve`` is the only one, or None for all of OpenSSL.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    required: bool = True
    minimum: str = "1.2"
    others: tuple[NamedFiles, ...] = ()
    ciphers: tuple[str, ...] = ()
    curve: str | None = None


class ClientFiles(NamedTuple):
    """Files and settings of a service's context."""

    verify: bool = True
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class UpstreamTls(NamedTuple):
    """TLS settings of connections to instances; ``name`` (SNI) is None for the host of the instance."""

    context: ssl.SSLContext
    name: str | None

    def options(self, host: str) -> Mapping[str, Any]:
        """Return the arguments for ``create_connection`` and ``open_connection`` to ``host``."""
        return {"ssl": self.context, "server_hostname": self.name or host, "ssl_shutdown_timeout": SHUTDOWN}


def server_context(files: ServerFiles) -> ssl.SSLContext:
    """Build the listener's context. Raise OSError (of which ssl.SSLError is a subclass) if a file cannot be used."""
    context = _context_with_certificate(files, files.certificate, files.key)
    if files.others:
        context.sni_callback = _sni_selector(files)
    return context


def _context_with_certificate(files: ServerFiles, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ListenerContext(ssl.PROTOCOL_TLS_SERVER)
    context.protocols = frozenset(name.encode("ascii") for name in PROTOCOLS)
    _harden(context, files.minimum, PROTOCOLS)
    if files.ciphers:
        context.set_ciphers(":".join(files.ciphers))
    if files.curve is not None:
        context.set_ecdh_curve(files.curve)
    _load(context, certificate, key)
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if files.required else ssl.CERT_OPTIONAL
        # A resumed session keeps the result of its certificate check: with tickets, a client could return after its CA
        # was removed.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _sni_selector(files: ServerFiles) -> Callable[[ssl.SSLObject | ssl.SSLSocket, str | None, ssl.SSLContext], None]:
    """Return a callback that selects the certificate for the name that a client requests (SNI, RFC 6066 §3).

    All contexts have the same client CAs: OpenSSL takes them from the selected context.
    """
    _silence_sni_errors()
    known: dict[str, ssl.SSLContext] = {}
    for names, certificate, key, ordered in files.others:
        try:
            context = _context_with_certificate(files, certificate, key)
        except OSError:
            if not ordered:
                raise
            continue
        known.update((name, context) for name in names)

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None:
            name = name.lower()
            found = known.get(name) or known.get(f"*.{name.partition('.')[2]}")
            if found is not None:
                connection.context = found

    return choose


def _silence_sni_errors() -> None:
    """Suppress the reports of server names that are not ASCII.

    The handshake fails anyway. The report has six lines, and any client can cause it: :mod:`ssl` decodes the name
    before it calls the callback, and can only report the error as unraisable.
    """
    report = sys.unraisablehook
    if getattr(report, "__name__", "") == "_report":
        return

    def _report(failed: sys.UnraisableHookArgs) -> None:
        if not (failed.exc_type is UnicodeDecodeError and isinstance(failed.object, bytes)):
            report(failed)

    sys.unraisablehook = _report


def client_context(files: ClientFiles) -> ssl.SSLContext:
    """Build a service's context. Raise OSError if a file cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, "1.2", SERVICE_PROTOCOLS)
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif files.ca is not None:
        context.load_verify_locations(files.ca)
    else:
        context.load_default_certs()
    if files.certificate is not None:
        _load(context, files.certificate, files.key)
    return context


def _harden(context: ssl.SSLContext, minimum: str, protocols: list[str]) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if minimum == "1.3" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(protocols)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE


def _load(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Load a certificate and its key. If both are in one file, that is read once: it may be replaced meanwhile."""
    if key is None or key == certificate:
        load_bundle(context, certificate.read_bytes())
    else:
        context.load_cert_chain(certificate, key, no_password)


def file_stamps(files: Iterable[object]) -> tuple[object, ...]:
    """Return a value that changes when one of the paths in ``files``, or in nested tuples, has new content.

    It takes 1.5 us per file.
    """
    found: list[object] = []
    for item in files:
        if isinstance(item, Path):
            found.append(_stat(item))
        elif isinstance(item, tuple):
            found += file_stamps(item)
    return tuple(found)


def _stat(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino


def reason(error: OSError) -> str:
    """Describe ``error`` in a few words for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return error.strerror or str(error) or type(error).__name__
