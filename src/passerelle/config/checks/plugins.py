"""Checks of plugins. Their code is not imported here: see :mod:`passerelle.plugin_host.inspection`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from passerelle.config.models.base import given
from passerelle.config.models.config import Config, Route
from passerelle.config.models.plugins import PLUGIN_KINDS, Plugin
from passerelle.config.problems import Finding, Loc
from passerelle.config.reading.wording import hint


def plugin_errors(plugins: Mapping[str, Plugin | None]) -> Iterator[Finding]:
    """Check which keys each plugin combines."""
    for name, plugin in plugins.items():
        if plugin is None:
            continue
        loc: Loc = ("plugins", name)
        keys = given(plugin)
        kinds = [kind for kind in PLUGIN_KINDS if kind in keys]
        if not kinds:
            yield Finding(loc, f"a plugin needs one of {', '.join(PLUGIN_KINDS)}; found none of them")
            continue
        for kind in kinds[1:]:
            message = f"found together with {kinds[0]}; allowed is one of {', '.join(PLUGIN_KINDS)}"
            yield Finding((*loc, kind), message, at_key=True)
        if kinds[0] == "guard" and "failure" in keys:
            yield Finding((*loc, "failure"), "found together with guard, which always fails closed", at_key=True)
        if kinds[0] == "response" and "sets" in keys:
            yield Finding((*loc, "sets"), "found together with response; allowed with guard or request", at_key=True)
        if kinds[0] != "response" and "body" in keys:
            yield Finding((*loc, "body"), f"found together with {kinds[0]}; allowed with response only", at_key=True)


def route_plugins(loc: Loc, route: Route, plugins: Mapping[str, Plugin | None]) -> Iterator[Finding]:
    """Check the plugins of the route at ``loc``."""
    for index, name in enumerate(route.plugins):
        place = (*loc, "plugins", index)
        if name not in plugins:
            known = list(plugins)
            allowed = f"; allowed: {', '.join(known)}{hint(name, known)}" if known else "; the file has no plugins"
            yield Finding(place, f"found {name!r}{allowed}")
            continue
        plugin = plugins[name]
        if name in route.plugins[:index]:
            yield Finding(place, f"found {name} twice; list it once")
        elif plugin is not None and plugin.kind != "guard" and route.service is None:
            yield Finding(place, f"found {name}, a filter of a {plugin.kind}; allowed on routes with service only")


def plugin_warnings(config: Config) -> Iterator[Finding]:
    """Find plugins that no route uses."""
    used = {name for route in config.routes for name in route.plugins}
    for name in config.plugins:
        if name not in used:
            yield Finding(("plugins", name), "no route uses this plugin", at_key=True)
