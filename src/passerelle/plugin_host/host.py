"""The plugins of one worker: loaded by the configuration, kept over a reload where their settings have not changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from passerelle.errors import CannotStart
from passerelle.observability.metrics import PluginMetrics
from passerelle.plugin_host.runner import PluginRunner

if TYPE_CHECKING:
    from passerelle.plugin_host.loading import LoadedPlugin

STOP_POLL = 0.5
"""How often a plugin without a route is checked for requests that may still call it (seconds)."""
STOP_LIMIT = 3600.0
"""How long after a reload a plugin without a route is stopped at the latest (seconds)."""


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """What a plugin is loaded from. ``reference`` is ``module:attribute``; ``timeout`` is in seconds."""

    kind: str
    reference: str
    settings: Mapping[str, Any]
    folder: str
    timeout: float
    threads: int


class PluginHost:
    """Loads the plugins of ``wanted``, except those that ``before`` has with the same settings.

    ``metrics`` returns the counters of a plugin.

    :raises CannotStart: if a plugin cannot be loaded.
    """

    def __init__(
        self,
        wanted: Mapping[str, PluginSettings],
        loop: asyncio.AbstractEventLoop,
        metrics: Callable[[str], PluginMetrics],
        before: PluginHost | None = None,
    ) -> None:
        self._loop = loop
        self._settings = dict(wanted)
        self.runners: dict[str, PluginRunner] = {}
        # Those of earlier configurations, until they have stopped.
        self._leaving: set[PluginRunner] = before._leaving if before is not None else set()
        for name, settings in wanted.items():
            if before is not None and before._settings.get(name) == settings:
                self.runners[name] = before.runners[name]
                continue
            plugin = _load(name, settings)
            self.runners[name] = PluginRunner(name, plugin, loop, metrics(name), settings.timeout, settings.threads)

    def start(self) -> None:
        """Run the hooks ``start`` of plugins that have not started."""
        for runner in self.runners.values():
            runner.start()

    def stop(self, after: PluginHost | None = None, is_needed: Callable[[], bool] = lambda: False) -> None:
        """Stop the plugins that ``after`` does not have: all at once at the end of the worker.

        At a reload they are stopped once ``is_needed()`` is false: no request from before it may call them any more.
        """
        kept = set() if after is None else set(after.runners.values())
        leaving = set(self.runners.values()) - kept
        self._leaving |= leaving
        if after is None:
            for runner in list(self._leaving):
                self._stop(runner)
        elif leaving:
            self._stop_unneeded(leaving, is_needed, self._loop.time() + STOP_LIMIT)

    def _stop_unneeded(self, runners: set[PluginRunner], is_needed: Callable[[], bool], latest: float) -> None:
        if is_needed() and self._loop.time() < latest:
            self._loop.call_later(STOP_POLL, self._stop_unneeded, runners, is_needed, latest)
            return
        for runner in runners:
            self._stop(runner)

    def _stop(self, runner: PluginRunner) -> None:
        runner.stop()
        if runner.stopped.is_set():
            self._leaving.discard(runner)

    async def wait_until_stopped(self, seconds: float) -> None:
        """Wait until all plugins have stopped, at most ``seconds``."""
        waiting = [runner.stopped.wait() for runner in self._leaving if not runner.stopped.is_set()]
        if waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*waiting), seconds)
        self._leaving.clear()


def _load(name: str, settings: PluginSettings) -> LoadedPlugin:
    # Imported only where a configuration has plugins: a worker without any starts faster.
    from passerelle.plugin_host.loading import PluginLoadError, add_folder, load

    add_folder(settings.folder)
    try:
        return load(settings.kind, settings.reference, settings.settings, settings.folder)
    except PluginLoadError as error:
        place = ".".join(map(str, ("plugins", name, error.key, *error.loc)))
        raise CannotStart(f"{place}: {error}") from error
