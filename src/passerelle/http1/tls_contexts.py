"""TLS contexts (RFC 8446, RFC 5246) for both sides, and what tells that their files have changed."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# TLS 1.2 with forward secrecy and authenticated encryption alone (RFC 9325 §4.2); TLS 1.3 has no others.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
# What is negotiated (RFC 7301), so that no client takes us for an HTTP/2 server.
PROTOCOLS = ["http/1.1"]
# How long an instance may take to end a connection in order (seconds).
SHUTDOWN = 5.0


class NamedFiles(NamedTuple):
    """A certificate for clients that ask for one of ``names``, in small letters; ``*.`` stands for one label."""

    names: tuple[str, ...]
    certificate: Path
    key: Path


class ServerFiles(NamedTuple):
    """What the listener's context is made of; ``minimum`` is ``1.2`` or ``1.3``.

    ``others`` are for their names alone, ``certificate`` for all other clients.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    required: bool = True
    minimum: str = "1.2"
    others: tuple[NamedFiles, ...] = ()


class ClientFiles(NamedTuple):
    """What a service's context is made of."""

    verify: bool = True
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class UpstreamTls(NamedTuple):
    """How connections to instances are secured; ``name`` (SNI) is None for the instance's own host."""

    context: ssl.SSLContext
    name: str | None

    def options(self, host: str) -> Mapping[str, Any]:
        """For ``create_connection`` and ``open_connection`` to ``host``."""
        return {"ssl": self.context, "server_hostname": self.name or host, "ssl_shutdown_timeout": SHUTDOWN}


def server_context(files: ServerFiles) -> ssl.SSLContext:
    """The listener's context. OSError (of which ssl.SSLError is one) when a file cannot be used."""
    context = _add_certificate(files, files.certificate, files.key)
    if files.others:
        context.sni_callback = _chooser(files)
    return context


def _add_certificate(files: ServerFiles, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, files.minimum)
    context.load_cert_chain(certificate, key, _no_password)
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if files.required else ssl.CERT_OPTIONAL
        # A resumed session carries the verdict on its certificate along: with tickets, one that was let in could come
        # back after its authority was taken away.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _chooser(files: ServerFiles) -> Callable[[ssl.SSLObject | ssl.SSLSocket, str | None, ssl.SSLContext], None]:
    """Gives a connection the certificate for the name that its client asks for (SNI, RFC 6066 §3).

    All contexts have the same authorities of clients: OpenSSL looks for them in the one that was chosen.
    """
    _silence_sni_errors()
    known: dict[str, ssl.SSLContext] = {}
    for names, certificate, key in files.others:
        context = _add_certificate(files, certificate, key)
        known.update((name, context) for name in names)

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None:
            name = name.lower()
            found = known.get(name) or known.get(f"*.{name.partition('.')[2]}")
            if found is not None:
                connection.context = found

    return choose


def _silence_sni_errors() -> None:
    """Do not report names that are no ASCII: their handshake fails, and the report is six lines that any client can
    cause (:mod:`ssl` decodes the name before it calls, and has nobody to tell)."""
    report = sys.unraisablehook
    if getattr(report, "__name__", "") == "_report":
        return

    def _report(failed: sys.UnraisableHookArgs) -> None:
        if not (failed.exc_type is UnicodeDecodeError and isinstance(failed.object, bytes)):
            report(failed)

    sys.unraisablehook = _report


def client_context(files: ClientFiles) -> ssl.SSLContext:
    """A service's context. OSError when a file cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, "1.2")
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif files.ca is not None:
        context.load_verify_locations(files.ca)
    else:
        context.load_default_certs()
    if files.certificate is not None:
        context.load_cert_chain(files.certificate, files.key, _no_password)
    return context


def _harden(context: ssl.SSLContext, minimum: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if minimum == "1.3" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(PROTOCOLS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE


def _no_password() -> str:
    raise OSError("the key is encrypted")


def file_stamps(files: Iterable[object]) -> tuple[object, ...]:
    """What changes when one of the paths among ``files``, or in tuples there, holds something else: 1.5 us a file."""
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
    """What went wrong, in a few words for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return error.strerror or str(error) or type(error).__name__
