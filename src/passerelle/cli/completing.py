"""Completion of names in the shell: services and routes of the configuration file in the current folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from passerelle.cli.support import CONFIG_NAMES

if TYPE_CHECKING:
    from passerelle.config import Config

_MOST = 200  # suggestions


def _config() -> Config | None:
    """Return the configuration in the current folder; None without one, or if it has errors."""
    from passerelle.config import inspect

    for name in CONFIG_NAMES:
        if os.path.isfile(name):
            try:
                return inspect(name, elsewhere=True).config
            except OSError:
                return None
    return None


def _completing(names: Callable[[Config], Iterable[str]], end: str = "") -> Callable[..., list[CompletionItem]]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        config = _config()
        found = [] if config is None else [name for name in names(config) if name.startswith(incomplete)]
        return [CompletionItem(name + end) for name in found[:_MOST]]

    return complete


def _printable(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.isprintable()]


services: Any = _completing(lambda config: _printable(config.services))
"""For ``shell_complete`` of an argument that is a service."""
services_to_set: Any = _completing(lambda config: _printable(config.services), "=")
"""The same for SERVICE=N."""
routes: Any = _completing(lambda config: _printable(route.label for route in config.routes))
"""For ``shell_complete`` of an argument that is a route."""
