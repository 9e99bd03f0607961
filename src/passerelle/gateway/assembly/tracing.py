"""Builds what records requests from the configuration."""

from __future__ import annotations

import os
import socket
import uuid

from passerelle import __version__
from passerelle.config.models.config import Config
from passerelle.gateway.context import Context
from passerelle.gateway.traced_exchange import TracedHandler
from passerelle.http1.interfaces import RequestHandler
from passerelle.observability.tracing.exporter import Exporter, ExporterSettings

# The same in all reloads: a worker is one instance of the service.
_INSTANCE = str(uuid.uuid4())


class Tracing:
    """The handler of requests, which records them if the configuration has ``tracing``, and the export of spans."""

    def __init__(self, gateway: RequestHandler) -> None:
        self._gateway = gateway
        self._exporter: Exporter | None = None
        self._exported_before = self._dropped_before = 0

    def handler(self, config: Config, context: Context) -> RequestHandler:
        """Return the handler for ``config``: the gateway itself where nothing is recorded.

        An exporter with the same settings is kept; another one sends what it has and stops.
        """
        settings = _settings(config)
        if self._exporter is not None and self._exporter.settings != settings:
            self.stop(0.0)
        if settings is None or config.tracing is None:
            return self._gateway
        if self._exporter is None:
            self._exporter = Exporter(settings)
        tracing = config.tracing
        return TracedHandler(self._gateway, context, self._exporter, tracing.sample, tracing.follow_clients)

    def counts(self) -> tuple[int, int]:
        """Return the number of exported and of dropped spans."""
        exporter = self._exporter
        exported, dropped = (exporter.exported, exporter.dropped) if exporter is not None else (0, 0)
        return self._exported_before + exported, self._dropped_before + dropped

    def stop(self, seconds: float) -> None:
        """Send what is queued, and wait up to ``seconds`` for it."""
        exporter = self._exporter
        if exporter is not None:
            exporter.close(seconds)
            self._exported_before, self._dropped_before = self.counts()
            self._exporter = None


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
