"""The guards of a route in words, in the order in which they are asked, and what it changes in header fields."""

from __future__ import annotations

from passerelle.config.check_headers import security_of
from passerelle.config.forward_auth import ForwardAuth
from passerelle.config.guards import RateLimit
from passerelle.config.headers import Cors, RequestHeaders, ResponseHeaders
from passerelle.config.models import Config, Route
from passerelle.config.units import duration_text


def guards_told(route: Route) -> list[str]:
    """One text for each guard of ``route``, the first that is asked first; empty where there is none."""
    told = [_cors(route.cors)] if route.cors is not None else []
    if route.clients is not None:
        for key, networks in (("allow", route.clients.allow), ("deny", route.clients.deny)):
            if networks:
                told.append(f"clients: {key} {', '.join(map(str, networks))}")
    told += [_limit(limit) for limit in route.rate_limit if limit.by not in ("consumer", "key")]
    if route.auth:
        told.append(f"auth: {' or '.join(route.auth)}")
    if route.require is not None:
        told += [f"require: {text}" for text in _required(route)]
    if route.forward_auth is not None:
        told.append(_forward_auth(route.forward_auth))
    told += [_limit(limit) for limit in route.rate_limit if limit.by in ("consumer", "key")]
    if route.identity_token:
        told.append("identity_token: signed, for services")
    return told


def headers_told(config: Config, route: Route) -> list[str]:
    """One text for each kind of change in header fields; empty where there is none."""
    told = []
    if route.request_headers is not None:
        told.append(f"request: {_rules(route.request_headers)}")
    if route.response_headers is not None:
        told.append(f"response: {_rules(route.response_headers)}")
    careful = security_of(config, route)
    if careful is not None:
        values = {key: getattr(careful, key) for key in type(careful).model_fields if key != "override"}
        said = [f"{key} {value}" for key, value in values.items() if value != "off"]
        told.append(f"security{' (override)' if careful.override else ''}: {', '.join(said)}")
    return told


def _cors(cors: Cors) -> str:
    told = f"cors: {', '.join(cors.origins)}"
    if cors.methods is not None:
        told += f", methods {' '.join(cors.methods)}"
    if cors.headers:
        told += f", headers {' '.join(cors.headers)}"
    return told + (", credentials" if cors.credentials else "")


def _forward_auth(settings: ForwardAuth) -> str:
    kept = f", remembered {duration_text(settings.cache)}" if settings.cache is not None else ""
    copied = f", copies {' '.join(settings.copy_headers)}" if settings.copy_headers else ""
    return f"forward_auth: {settings.service} {settings.path}{copied}{kept}, failure {settings.failure}"


def _rules(rules: RequestHeaders | ResponseHeaders) -> str:
    # Names alone: a value may be a credential for the service.
    kinds = (("set", rules.set), ("add", rules.add), ("remove", rules.remove))
    return ", ".join(f"{kind} {' '.join(names)}" for kind, names in kinds if names)


def _limit(limit: RateLimit) -> str:
    cost = f", cost {limit.cost}" if limit.cost != 1 else ""
    return f"rate_limit: {limit.rate} by {limit.by}, burst {limit.size}{cost}{', dry run' if limit.dry_run else ''}"


def _required(route: Route) -> list[str]:
    required = route.require
    assert required is not None
    texts = [f"scopes {', '.join(required.scopes)}"] if required.scopes else []
    if required.consumers is not None:
        texts.append(f"consumer {' or '.join(required.consumers)}")
    if required.roles is not None:
        texts.append(f"role {' or '.join(required.roles)}")
    return texts + [f"claim {claim} is {' or '.join(map(str, values))}" for claim, values in required.claims.items()]
