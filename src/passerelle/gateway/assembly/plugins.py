"""Builds the plugins of routes: the host that loads them, their guards, and their filters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from passerelle.config.models.config import Config, Route
from passerelle.config.models.plugins import Plugin
from passerelle.gateway.response_filter import ResponseFilterStep
from passerelle.observability.metrics import PluginMetrics
from passerelle.plugin_host.guards import HideConditions, PluginGuard, RequestFilterStep
from passerelle.plugin_host.host import PluginHost, PluginSettings
from passerelle.security.guard import Guard


class PluginFactory:
    """Builds the plugins of the routes of ``config``. After a reload, ``before`` has those that are kept.

    :raises CannotStart: if a plugin cannot be loaded.
    """

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        metrics: Callable[[str], PluginMetrics],
        before: PluginFactory | None = None,
    ) -> None:
        self._plugins = config.plugins
        used = dict.fromkeys(name for route in config.routes for name in route.plugins)
        wanted = {name: _settings(config.plugins[name]) for name in used}
        self.host: PluginHost = PluginHost(wanted, loop, metrics, before.host if before is not None else None)

    def guards(self, route: Route) -> list[Guard]:
        """Return the plugins that guard ``route``, in their order."""
        return [
            PluginGuard(self.host.runners[name], route.label, plugin.sets, tracks=route.is_cached)
            for name, plugin in self._of(route, "guard")
        ]

    def request_filters(self, route: Route) -> list[Guard]:
        """Return the plugins that filter requests to the service of ``route``, as guards."""
        steps: list[Guard] = [
            RequestFilterStep(
                self.host.runners[name], route.label, plugin.sets, open_on_failure=plugin.failure == "open"
            )
            for name, plugin in self._of(route, "request")
        ]
        if any(plugin.body is not None for _, plugin in self._of(route, "response")):
            steps.append(HideConditions())
        return steps

    def response_filters(self, route: Route) -> tuple[ResponseFilterStep, ...]:
        """Return the plugins that filter the responses of ``route``, in their order."""
        return tuple(
            ResponseFilterStep(
                self.host.runners[name], route.label, plugin.body, open_on_failure=plugin.failure == "open"
            )
            for name, plugin in self._of(route, "response")
        )

    def _of(self, route: Route, kind: str) -> list[tuple[str, Plugin]]:
        found = [(name, self._plugins[name]) for name in route.plugins]
        return [(name, plugin) for name, plugin in found if plugin.kind == kind]


def _settings(plugin: Plugin) -> PluginSettings:
    values = plugin.kind, plugin.reference, plugin.settings, plugin.folder
    return PluginSettings(*values, plugin.timeout, plugin.threads)
