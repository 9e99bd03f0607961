"""Descriptions of routes, for ``passerelle routes`` and ``passerelle explain``, as text and as JSON."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal

from pydantic.fields import FieldInfo

from passerelle.config.checks import services_of
from passerelle.config.guards import describe_guards
from passerelle.config.models.actions import Redirect, Respond, Static
from passerelle.config.models.base import given
from passerelle.config.models.cache import RouteCache
from passerelle.config.models.compress import Compress
from passerelle.config.models.config import Config, Part, Route
from passerelle.config.models.headers import (
    RequestChanges,
    RequestHeaders,
    RequestWhen,
    ResponseChanges,
    ResponseHeaders,
    ResponseWhen,
)
from passerelle.config.models.hedge import Hedge
from passerelle.config.models.plugins import PLUGIN_KINDS
from passerelle.config.models.shadow import Shadow
from passerelle.config.models.split import Split
from passerelle.config.models.units import duration_text, percent_text, size_text


def describe_route(config: Config, route: Route) -> dict[str, Any]:
    """Describe ``route`` as JSON: numbers are seconds or bytes, None means no limit, the rest is text."""
    login = route.login
    return {
        **{key: _number(getattr(route, key)) for key, field in Route.model_fields.items() if _is_number(field)},
        "body": config.body_limit(route),
        "match": [str(condition) for condition in route.conditions],
        "guards": describe_guards(route),
        "plugins": describe_plugins(config, route),
        "headers": describe_headers(config, route),
        "cache": describe_cache(route.cache),
        "compress": describe_compression(route.compress),
        "hedge": describe_hedge(route.hedge),
        "shadow": describe_shadow(route.shadow),
        "split": describe_split(route.service, route.split),
        "rollout": str(route.rollout) if route.rollout is not None else None,
        "encoded_slashes": route.encoded_slashes,
        "log": route.log,
        "rewrite_response": bool(route.rewrite_response),
        "redirect": describe_redirect(route.redirect),
        "respond": describe_respond(route.respond),
        "static": describe_static(route.static),
        "login": {"service": login.service, "path": login.path} if login is not None else None,
        "logout": bool(route.logout),
        "oidc": bool(route.oidc),
        "services": {name: describe_service(config, name) for name in dict.fromkeys(services_of(route))},
    }


def describe_part(route: Route, part: Part) -> dict[str, Any]:
    """Describe a part of a composition as JSON."""
    return {
        "service": part.service,
        "path": part.path,
        "timeout": min(route.timeout, part.timeout or route.timeout),
        "required": part.required,
        "pass_status": list(part.pass_status),
        "fallback": part.fallback,
        "cache": describe_cache(part.cache),
        "split": describe_split(part.service, part.split),
    }


def describe_service(config: Config, name: str) -> dict[str, Any]:
    """Describe a service of a route as JSON."""
    service = config.services[name]
    if service.is_local:
        instances = service.instances.min
    else:
        zones = [zone.targets for zone in (service.zones or {}).values()]
        instances = len(service.targets or ()) + sum(map(len, zones))
    balance, concurrency = service.balance, service.concurrency
    return {
        "name": name,
        "source": service.source,
        "instances": instances,
        "max_instances": service.instances.max if service.is_local and service.instances.scales else None,
        "balance": balance.policy,
        "by": str(balance.by) if balance.by is not None else None,
        "sticky": balance.sticky.cookie if balance.sticky is not None else None,
        "concurrency": [concurrency.min, concurrency.max] if concurrency is not None else None,
        "path": service.path or None,
        "host": service.host,
        "forwarding": list(service.forwarding),
    }


def _is_number(field: FieldInfo) -> bool:
    """Whether a key takes a number, a duration or a flag. Such keys are described by their value alone."""
    options = set(typing.get_args(field.annotation)) or {field.annotation}
    plain = {typing.get_args(option)[0] if hasattr(option, "__metadata__") else option for option in options}
    return plain <= {bool, int, float, types.NoneType, Literal["off"]}


def _number(limit: float | str | None) -> float | None:
    return None if isinstance(limit, str) else limit


def describe_headers(config: Config, route: Route) -> list[str]:
    """Describe the changes to header fields, one text for each kind; empty without changes."""
    texts = []
    if route.request_headers is not None:
        texts.append(f"request: {_rules(route.request_headers)}")
    if route.response_headers is not None:
        texts.append(f"response: {_rules(route.response_headers)}")
    security = config.security_of(route)
    if security is not None:
        values = {key: getattr(security, key) for key in type(security).model_fields if key != "override"}
        settings = [f"{key} {value}" for key, value in values.items() if value != "off"]
        texts.append(f"security{' (override)' if security.override else ''}: {', '.join(settings)}")
    return texts


def describe_plugins(config: Config, route: Route) -> list[str]:
    """Describe the plugins of ``route`` in the order in which they run: guards, then filters."""
    texts = []
    for kind in PLUGIN_KINDS:
        for name in route.plugins:
            plugin = config.plugins[name]
            if plugin.kind == kind:
                what = kind if kind == "guard" else f"filter of the {kind}"
                body = f", body to {size_text(plugin.body)}" if plugin.body is not None else ""
                sets = f", sets {' '.join(plugin.sets)}" if plugin.sets else ""
                text = f"{name}: {what}, {plugin.reference}{sets}{body}, timeout {duration_text(plugin.timeout)}"
                texts.append(text if kind == "guard" else f"{text}, failure {plugin.failure}")
    return texts


def describe_cache(cache: RouteCache | None) -> str | None:
    """Describe the cache settings that the file sets; None without a cache."""
    if cache is None:
        return None
    values = [
        f"{key} {_cache_value(key, getattr(cache, key))}" for key in RouteCache.model_fields if key in given(cache)
    ]
    return ", ".join(values) or "as the responses state (RFC 9111)"


def _cache_value(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return " ".join(f"{status} {duration_text(seconds)}" for status, seconds in value.items())
    if isinstance(value, float):
        return duration_text(value)
    return size_text(value) if key == "max_body" else str(value)


def describe_compression(compress: Compress | None) -> str | None:
    """Describe what is compressed; None without compression."""
    if compress is None:
        return None
    types = f" of {' '.join(compress.types)}" if compress.types is not None else ""
    return f"{', '.join(compress.codings)}: bodies{types} from {size_text(compress.min_size)}"


def describe_hedge(hedge: Hedge | None) -> str | None:
    """Describe when a request is hedged; None without hedging."""
    if hedge is None:
        return None
    return f"a second instance after {duration_text(hedge.after) if isinstance(hedge.after, float) else hedge.after}"


def describe_shadow(shadow: Shadow | None) -> str | None:
    """Describe which requests a second service receives too; None without a shadow."""
    if shadow is None:
        return None
    return f"{shadow.service} receives {percent_text(shadow.sample)} of {', '.join(shadow.methods)}"


def describe_split(service: str | None, split: Split | None) -> str | None:
    """Describe how users are split among services by the file; None without a split."""
    if split is None or service is None:
        return None
    return f"{split_shares(service, split)} of users by {split.by}"


def split_shares(service: str, split: Split | None) -> str:
    """Return ``service`` with the share of users that it and the others receive; without a split, its name alone."""
    sides = split.sides(service) if split is not None else {}
    return ", ".join(f"{name} {weight / 10:g}%" for name, weight in sides.items()) or service


def describe_redirect(redirect: Redirect | None) -> str | None:
    """Describe where a route redirects clients; None if it does not."""
    if redirect is None:
        return None
    host = {"add": "www.{host}", "remove": "{host} without www"}.get(redirect.www or "", redirect.host)
    scheme = redirect.scheme or "{scheme}"
    start = f"{scheme}://{host or '{host}'}" if redirect.scheme or host else ""
    query = ", without the query" if redirect.query == "drop" else ""
    return f"{redirect.status} to {start}{redirect.path or '{path}'}{query}"


def describe_respond(respond: Respond | None) -> str | None:
    """Describe the fixed response of a route; None if it has none."""
    if respond is None:
        return None
    fields = f", sets {' '.join(respond.headers)}" if respond.headers else ""
    body = {str: "text", type(None): "no body"}.get(type(respond.body), "JSON")
    return f"{respond.status} with {body}{fields}"


def describe_static(static: Static | None) -> str | None:
    """Describe which files a route serves; None if it serves none."""
    if static is None:
        return None
    files = f", tries {' '.join(static.try_files)}" if static.try_files != ("{path}",) else ""
    otherwise = f", otherwise {static.fallback}" if static.fallback is not None else ""
    coded = f", precompressed {' '.join(static.precompressed)}" if static.precompressed else ""
    return f"{static.folder}, index {' '.join(static.index)}{files}{otherwise}{coded}"


def describe_action(route: Route) -> str | None:
    """Describe what the gateway does on ``route`` without a service; None for a route of another kind."""
    if route.redirect is not None:
        return f"redirect: {describe_redirect(route.redirect)}"
    if route.static is not None:
        return f"static: {describe_static(route.static)}"
    return f"respond: {describe_respond(route.respond)}" if route.respond is not None else None


def describe_idle_timeouts(route: Route) -> str | None:
    """Describe the idle timeouts that the file sets; None if it sets none."""
    names = {"stream_idle_timeout": "streams", "tunnel_idle_timeout": "tunnels"}
    values = [(what, getattr(route, key)) for key, what in names.items() if key in given(route)]
    return ", ".join(f"{what} {v if v == 'off' else duration_text(v)}" for what, v in values) or None


def _rules(rules: RequestHeaders | ResponseHeaders) -> str:
    return "; ".join([*filter(None, [_changes(rules)]), *map(_conditional, rules.when)])


def _conditional(rule: RequestWhen | ResponseWhen) -> str:
    kinds = ("status", "present", "absent", "content_type")
    found = {kind.replace("_", " "): getattr(rule, kind, ()) for kind in kinds}
    conditions = [f"{kind} {' '.join(values)}" for kind, values in found.items() if values]
    return f"with {', '.join(conditions)}: {_changes(rule)}"


def _changes(rules: RequestChanges | ResponseChanges) -> str:
    # Names only: a value may be a credential for the service.
    kinds = (("set", rules.set), ("add", rules.add), ("default", rules.default), ("remove", rules.remove))
    return ", ".join(f"{kind} {' '.join(names)}" for kind, names in kinds if names)
