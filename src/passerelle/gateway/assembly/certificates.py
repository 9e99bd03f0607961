"""The certificates that a running worker goes by: read when it starts, and again when their files have changed."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator
from typing import NamedTuple

from passerelle.config.models.config import Config
from passerelle.config.models.config import Service as ServiceConfig
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

_log = logging.getLogger("passerelle")

Files = ServerFiles | ClientFiles


class CannotSecure(CannotStart):
    """Certificates that cannot be used; the text is one line for the user."""


class _LoadedContext(NamedTuple):
    """A context, what it was made of, and how those files were (also where they could not be used since)."""

    files: Files
    stamp: tuple[object, ...]
    context: ssl.SSLContext


def _make(files: Files) -> ssl.SSLContext:
    return server_context(files) if isinstance(files, ServerFiles) else client_context(files)


def _load_or_keep(place: str, files: Files, before: _LoadedContext | None) -> _LoadedContext:
    """The context of ``files``: the one of ``before`` where nothing has changed. :class:`CannotSecure` without one."""
    now = file_stamps(files)
    if before is not None and before.files == files and before.stamp == now:
        return before
    try:
        return _LoadedContext(files, now, _make(files))
    except OSError as error:
        raise CannotSecure(f"{place}: {reason(error)}") from error


def _reload_if_changed(place: str, kept: _LoadedContext) -> _LoadedContext:
    """``kept``, or what its files hold now. What cannot be used is said once, and the old one is kept."""
    now = file_stamps(kept.files)
    if now == kept.stamp:
        return kept
    try:
        context = _make(kept.files)
    except OSError as error:
        _log.warning("%s: the new files cannot be used, the old ones are kept: %s", place, reason(error))
        return kept._replace(stamp=now)
    _log.warning("%s: certificates are read anew", place)
    return _LoadedContext(kept.files, now, context)


def service_tls(config: ServiceConfig) -> tuple[ClientFiles, str | None] | None:
    """What a service's context is made of, and the server's name; None where it has no ``https://`` target."""
    if not any(target.url is not None and target.url.secure for target in config.all_targets):
        return None
    tls = config.tls
    if tls is None:
        return ClientFiles(), None
    return ClientFiles(tls.verify, tls.ca, tls.certificate, tls.key), tls.server_name


class ServiceCertificates:
    """Those that one service is probed with; read when they are first needed, and when they have changed."""

    def __init__(self, config: ServiceConfig) -> None:
        self._settings = service_tls(config)
        self._made: tuple[tuple[object, ...], UpstreamTls] | None = None

    def current(self) -> UpstreamTls | None:
        """How it is asked over TLS; None where it is not. OSError when a file cannot be used."""
        if self._settings is None:
            return None
        files, name = self._settings
        found = file_stamps(files)
        if self._made is None or self._made[0] != found:
            self._made = found, UpstreamTls(client_context(files), name)
        return self._made[1]


class Certificates:
    """Those of the listener and of every service. :class:`CannotSecure` when they cannot be used.

    After a reload, contexts whose files are as they were go on, and so do the sessions that clients resume.
    """

    def __init__(self, config: Config, before: Certificates | None = None) -> None:
        self._listener: _LoadedContext | None = None
        self._services: dict[str, tuple[_LoadedContext, str | None]] = {}
        self._accept: Callable[[Listener], asyncio.Protocol] = ClientConnection
        tls = config.tls
        if tls is not None:
            others = tuple(NamedFiles(each.names, each.certificate, each.key) for each in tls.certificates)
            files = ServerFiles(tls.certificate, tls.key, tls.client_ca, tls.client == "required", tls.minimum, others)
            self._listener = _load_or_keep("tls", files, before._listener if before is not None else None)
            self._accept = self._handshaker(self._listener.context)
        for name, service in config.services.items():
            found = service_tls(service)
            if found is not None:
                known = before._services.get(name) if before is not None else None
                kept = _load_or_keep(f"services.{name}.tls", found[0], known[0] if known is not None else None)
                self._services[name] = kept, found[1]

    def accept(self, listener: Listener) -> asyncio.Protocol:
        """What a new connection of a client is."""
        return self._accept(listener)

    def for_service(self, service: str) -> UpstreamTls | None:
        """How the instances of ``service`` are asked over TLS."""
        found = self._services.get(service)
        return UpstreamTls(found[0].context, found[1]) if found is not None else None

    def reload_changed(self) -> Iterator[tuple[str, UpstreamTls]]:
        """Read what has changed on disk; gives the services for which that is so."""
        if self._listener is not None:
            listener = _reload_if_changed("tls", self._listener)
            if listener.context is not self._listener.context:
                self._accept = self._handshaker(listener.context)
            self._listener = listener
        for name, (kept, server_name) in self._services.items():
            now = _reload_if_changed(f"services.{name}.tls", kept)
            if now is not kept:
                self._services[name] = now, server_name
                if now.context is not kept.context:
                    yield name, UpstreamTls(now.context, server_name)

    @staticmethod
    def _handshaker(context: ssl.SSLContext) -> Callable[[Listener], asyncio.Protocol]:
        # Imported for who needs it.
        from passerelle.http1.server.tls import HandshakeFailureLog, TlsHandshake

        complaints = HandshakeFailureLog(_log.warning)
        return lambda listener: TlsHandshake(listener, context, complaints)
