"""Versions of services: each version becomes a service, and each route to the service a split between them.

All splits of a service have the same salt, so a user has the same version on all routes.
"""

from __future__ import annotations

from typing import Any

from passerelle.config.models.base import given
from passerelle.config.models.config import Config, Part, Route, Service, VersionPair
from passerelle.config.models.rollout import Rollout
from passerelle.config.models.split import Split, SplitBy


def version_name(service: str, version: str) -> str:
    """Return the name of the service that a version becomes."""
    return f"{service}-{version}"


def version_services(service: Service) -> dict[str, Service]:
    """Return the service that each version becomes, by the name of the version."""
    none = {"versions": None, "rollout": None, "split_by": None}
    return {
        name: service.model_copy(update={key: getattr(version, key) for key in given(version)} | none)
        for name, version in (service.versions or {}).items()
    }


def with_versions(config: Config) -> Config:
    """Return ``config`` with a service for each version; ``config.versions`` names the pairs."""
    services: dict[str, Service] = {}
    first: dict[str, str] = {}
    splits: dict[str, Split] = {}
    for name, service in config.services.items():
        if service.versions is None:
            services[name] = service
            continue
        made = {version_name(name, version): each for version, each in version_services(service).items()}
        services |= made
        first[name], *others = made
        for new in others:
            splits[name] = Split(weights={new: 0}, by=service.split_by or SplitBy("address"), salt=name)
    if not first:
        return config
    used: dict[str, list[str]] = {name: [] for name in splits}
    routes = tuple(_expand_route(route, first, splits, used) for route in config.routes)
    pairs = {}
    for name, old in first.items():
        second = next(iter(splits[name].weights)) if name in splits else None
        rollout = config.services[name].rollout or Rollout()
        pairs[name] = VersionPair(old, second, rollout, tuple(used.get(name, ())))
    return config.with_services(services, routes, pairs)


def _expand_route(route: Route, first: dict[str, str], splits: dict[str, Split], used: dict[str, list[str]]) -> Route:
    changed: dict[str, Any] = {}
    if route.service in first:
        changed |= _leads_to(route.service, first, splits)
        if route.service in splits:
            used[route.service].append(route.label)
    for key in ("shadow", "login", "forward_auth"):
        block = getattr(route, key)
        if block is not None and block.service in first:
            changed[key] = block.model_copy(update={"service": first[block.service]})
    parts: dict[str, Part] = {}
    for name, part in (route.compose or {}).items():
        parts[name] = part
        if part.service in first:
            parts[name] = part.model_copy(update=_leads_to(part.service, first, splits))
            if part.service in splits:
                used[part.service].append(f"{route.label}#{name}")
    if parts:
        changed["compose"] = parts
    return route.model_copy(update=changed) if changed else route


def _leads_to(service: str, first: dict[str, str], splits: dict[str, Split]) -> dict[str, Any]:
    return {"service": first[service]} | ({"split": splits[service]} if service in splits else {})
