"""Checks of alerts: their names, routes and services."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from passerelle.config.models.alerts import AlertSettings
from passerelle.config.problems import Finding, Loc
from passerelle.config.reading.wording import hint

_MOST_NAMES = 12


def alert_errors(
    settings: AlertSettings | None, routes: Collection[str], services: Collection[str]
) -> Iterator[Finding]:
    """Find rules with the same name, and those about a route or service that does not exist."""
    seen: dict[str, int] = {}
    for index, rule in enumerate(settings.rules if settings is not None else ()):
        loc: Loc = ("alerts", "rules", index)
        first = seen.setdefault(rule.label, index)
        if first != index:
            yield Finding((*loc, "name"), f"same name as alerts.rules[{first}], {rule.label!r}; give it another one")
        if rule.route is not None and routes and rule.route not in routes:
            yield _unknown((*loc, "route"), rule.route, list(routes))
        if rule.service is not None and services and rule.service not in services:
            yield _unknown((*loc, "service"), rule.service, list(services))


def _unknown(loc: Loc, name: str, names: list[str]) -> Finding:
    more = f", … ({len(names)})" if len(names) > _MOST_NAMES else ""
    return Finding(loc, f"found {name!r}; allowed: {', '.join(names[:_MOST_NAMES])}{more}{hint(name, names)}")
