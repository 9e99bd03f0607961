"""Builds what records and times requests from the configuration."""

from __future__ import annotations

import os
import socket
import uuid

from passerelle import __version__
from passerelle.config.models.config import Config
from passerelle.gateway.context import Context
from passerelle.gateway.timed_exchange import TimedHandler
from passerelle.gateway.traced_exchange import TracedHandler
from passerelle.http1.interfaces import RequestHandler
from passerelle.observability.tracing.exporter import Exporter, ExporterSettings
from passerelle.security.addresses import AddressSet

# The same in all reloads: a worker is one instance of the service.
_INSTANCE = str(uuid.uuid4())


class Tracing:
    """The handler of requests, and the export of spans.

    It records requests if the configuration has ``tracing``, and times those of some clients if it has ``debug``.
    """

    def __init__(self, gateway: RequestHandler) -> None:
        self._gateway = gateway
        self._exporter: Exporter | None = None
        self._stopping: list[Exporter] = []  # they may still send their last batch
        self._exported = self._dropped = 0  # by exporters that have ended

    def handler(self, config: Config, context: Context) -> RequestHandler:
        """Return the handler for ``config``: the gateway itself where nothing is recorded or timed.

        An exporter with the same settings is kept; another one sends what it has and stops.
        """
        settings = _settings(config)
        if self._exporter is not None and self._exporter.settings != settings:
            self.stop(0.0)
        handler = self._gateway
        if settings is not None and config.tracing is not None:
            if self._exporter is None:
                self._exporter = Exporter(settings)
            tracing = config.tracing
            handler = TracedHandler(handler, context, self._exporter, tracing.sample, tracing.follow_clients)
        if config.debug is not None:
            handler = TimedHandler(handler, context, AddressSet(config.debug.clients))
        return handler

    def counts(self) -> tuple[int, int]:
        """Return the number of exported and of dropped spans."""
        for exporter in [each for each in self._stopping if each.has_ended]:
            self._stopping.remove(exporter)
            self._exported += exporter.exported
            self._dropped += exporter.dropped
        exporters = self._stopping if self._exporter is None else [*self._stopping, self._exporter]
        exported = self._exported + sum(exporter.exported for exporter in exporters)
        return exported, self._dropped + sum(exporter.dropped for exporter in exporters)

    def stop(self, seconds: float) -> None:
        """Send what is queued, and wait up to ``seconds`` for it."""
        exporter = self._exporter
        if exporter is not None:
            exporter.close(seconds)
            self._stopping.append(exporter)
            self._exporter = None
            self.counts()


def _settings(config: Config) -> ExporterSettings | None:
    tracing = config.tracing
    if tracing is None:
        return None
    resource: dict[str, str | int] = {
        "service.name": tracing.service,
        "service.version": __version__,
        "service.instance.id": _INSTANCE,
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
        **tracing.attributes,
    }
    return ExporterSettings(tracing.endpoint, tracing.headers, resource, __version__)
