"""The certificates of a worker: loaded when it starts, and again when their files have changed."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from passerelle.acme.files import certificate_file, ensure_placeholder
from passerelle.config.models.addresses import split_address
from passerelle.config.models.config import Config
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.config.models.tls import ListenerTls
from passerelle.errors import CannotStart
from passerelle.http1.server.connection import ClientConnection
from passerelle.http1.server.listener import Listener
from passerelle.http1.tls_contexts import (
    ClientFiles,
    NamedFiles,
    ServerFiles,
    UpstreamTls,
    client_context,
    file_stamps,
    reason,
    server_context,
)
from passerelle.http1.tls_handshake import ListenerContext
from passerelle.observability.events import CERTIFICATE

_log = logging.getLogger("passerelle")

Files = ServerFiles | ClientFiles


class CannotSecure(CannotStart):
    """Certificates cannot be used. The text is one line for the user."""


class _LoadedContext(NamedTuple):
    """A TLS context, its files, and their stamps when they were last checked (also where they could not be used)."""

    files: Files
    stamp: tuple[object, ...]
    context: ssl.SSLContext


def _listener_files(config: Config, tls: ListenerTls) -> ServerFiles:
    """Return the files of the listener's context.

    With certificates that are ordered, all clients that request another name get one that is signed by itself.

    :raises CannotSecure: if that cannot be written.
    """
    others = tuple(NamedFiles(each.names, each.certificate, each.key) for each in tls.certificates)
    folder = config.certificates_folder
    if tls.pair is not None:
        certificate, key = tls.pair
    else:
        try:
            certificate = key = ensure_placeholder(folder)
        except OSError as error:
            raise CannotSecure(f"tls.auto: cannot write {error.filename or folder}: {error.strerror}") from error
        files = [(name, certificate_file(folder, name)) for name in config.ordered_names]
        others += tuple(NamedFiles((name,), file, file, ordered=True) for name, file in files)
    required = tls.client == "required"
    return ServerFiles(certificate, key, tls.client_ca, required, tls.minimum, others, tls.ciphers, tls.curve)


def _make(files: Files) -> ssl.SSLContext:
    return server_context(files) if isinstance(files, ServerFiles) else client_context(files)


def _load_or_keep(place: str, files: Files, before: _LoadedContext | None) -> _LoadedContext:
    """Load the context of ``files``, or keep that of ``before`` where nothing has changed.

    :raises CannotSecure: if the files cannot be used.
    """
    now = file_stamps(files)
    if before is not None and before.files == files and before.stamp == now:
        return before
    try:
        return _LoadedContext(files, now, _make(files))
    except OSError as error:
        raise CannotSecure(f"{place}: {reason(error)}") from error


def _reload_if_changed(place: str, kept: _LoadedContext) -> _LoadedContext:
    """Load the context again if its files have changed. Unusable files are logged once, and the old context is kept."""
    now = file_stamps(kept.files)
    if now == kept.stamp:
        return kept
    try:
        context = _make(kept.files)
    except OSError as error:
        text = "%s: the new files cannot be used, the previous certificates are kept: %s"
        _log.warning(text, place, reason(error), extra=CERTIFICATE)
        return kept._replace(stamp=now)
    _log.warning("%s: certificates reloaded", place, extra=CERTIFICATE)
    return _LoadedContext(kept.files, now, context)


def service_tls(config: ServiceConfig) -> tuple[ClientFiles, str | None] | None:
    """Return the files of a service's TLS context and the server name; None without an ``https://`` target."""
    if not any(target.url is not None and target.url.secure for target in config.all_targets):
        return None
    name = config.host_name
    if name is not None:
        name = split_address(name, name, default_port=0).host
    tls = config.tls
    if tls is None:
        return ClientFiles(), name
    return ClientFiles(tls.verify, tls.ca, tls.certificate, tls.key), tls.server_name or name


class ServiceCertificates:
    """The certificates for health probes of one service: loaded at first use, and when the files have changed."""

    def __init__(self, config: ServiceConfig) -> None:
        self._settings = service_tls(config)
        self._made: tuple[tuple[object, ...], UpstreamTls] | None = None

    def current(self) -> UpstreamTls | None:
        """Return the TLS settings of the service, or None where it uses no TLS.

        :raises OSError: if a file cannot be used.
        """
        if self._settings is None:
            return None
        files, name = self._settings
        found = file_stamps(files)
        if self._made is None or self._made[0] != found:
            self._made = found, UpstreamTls(client_context(files), name)
        return self._made[1]


class Certificates:
    """The certificates of the listener and of every service.

    A reload keeps contexts whose files have not changed, and with them the TLS sessions that clients can resume.

    :raises CannotSecure: if a certificate cannot be used.
    """

    def __init__(self, config: Config, before: Certificates | None = None) -> None:
        self._listener: _LoadedContext | None = None
        self._services: dict[str, tuple[_LoadedContext, str | None]] = {}
        # A listener may still use TLS between a reload without `tls` and the sockets that go with it.
        self._accept: Callable[[Listener], asyncio.Protocol] = ClientConnection
        self._proofs: Mapping[str, bytes] = before._proofs if before is not None else {}
        if config.tls is not None:
            files = _listener_files(config, config.tls)
            self._listener = _load_or_keep("tls", files, before._listener if before is not None else None)
            self._accept = self._handshaker(self._listener.context)
        for name, service in config.services.items():
            found = service_tls(service)
            if found is not None:
                known = before._services.get(name) if before is not None else None
                kept = _load_or_keep(f"services.{name}.tls", found[0], known[0] if known is not None else None)
                self._services[name] = kept, found[1]

    def accept(self, listener: Listener) -> asyncio.Protocol:
        """Create the protocol of a new client connection over TLS."""
        return self._accept(listener)

    def for_service(self, service: str) -> UpstreamTls | None:
        """Return the TLS settings for the instances of ``service``, or None."""
        found = self._services.get(service)
        return UpstreamTls(found[0].context, found[1]) if found is not None else None

    def validate(self, proofs: Mapping[str, bytes]) -> None:
        """Prove the control of names in TLS handshakes (RFC 8737): name to the certificate of the proof and its key.

        :raises ssl.SSLError: if one of them cannot be used; then none is proved.
        """
        self._proofs = {}
        if self._listener is not None and isinstance(self._listener.context, ListenerContext):
            from passerelle.http1.tls_validation import validation_context

            self._listener.context.validation = None
            self._listener.context.validation = validation_context(proofs)
            self._proofs = proofs

    def reload_changed(self) -> Iterator[tuple[str, UpstreamTls]]:
        """Load changed files again; yield each service whose context has changed, with its new TLS settings."""
        if self._listener is not None:
            listener = _reload_if_changed("tls", self._listener)
            if listener.context is not self._listener.context:
                self._accept = self._handshaker(listener.context)
            self._listener = listener
            if self._proofs:
                self.validate(self._proofs)
        for name, (kept, server_name) in self._services.items():
            now = _reload_if_changed(f"services.{name}.tls", kept)
            if now is not kept:
                self._services[name] = now, server_name
                if now.context is not kept.context:
                    yield name, UpstreamTls(now.context, server_name)

    @staticmethod
    def _handshaker(context: ssl.SSLContext) -> Callable[[Listener], asyncio.Protocol]:
        # Imported only where the listener uses TLS.
        from passerelle.http1.server.failure_log import FailureLog
        from passerelle.http1.server.tls import TlsHandshake

        failures = FailureLog("tls: handshake with {} failed", _log.warning)
        return lambda listener: TlsHandshake(listener, context, failures)
