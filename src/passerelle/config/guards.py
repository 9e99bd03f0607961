"""The guards of a route: their order, the keys that configure them, and their text in ``passerelle explain``.

A new guard has one entry in :data:`GUARDS`. The gateway builds and runs the guards in this order (``GuardFactory`` of
``gateway/assembly/guards.py`` has one builder for each name). The documentation generates its table from the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from passerelle.config.models.config import Route
from passerelle.config.models.guards import RateLimit
from passerelle.config.models.units import duration_text


@dataclass(frozen=True, slots=True)
class GuardEntry:
    """A guard: its name, its title and the reason for its place in the documentation, and its description.

    ``describe`` yields one text for each rule that a route sets, and nothing if the route does not use the guard.
    """

    name: str
    title: str
    reason: str
    describe: Callable[[Route], Iterator[str]]


def describe_guards(route: Route) -> list[str]:
    """Describe the guards of ``route`` in the order in which they run, then its limits on logins."""
    texts = [text for guard in GUARDS for text in guard.describe(route)]
    if route.login is not None:
        login, forgiven = route.login, duration_text(route.login.forgiven)
        wrong = f"{login.attempts} wrong passwords for a user name, {login.address_attempts} from an address"
        texts.append(f"login: {wrong}, one forgiven every {forgiven}")
    return texts


def _clients(route: Route) -> Iterator[str]:
    if route.clients is not None:
        for key, networks in (("allow", route.clients.allow), ("deny", route.clients.deny)):
            if networks:
                yield f"clients: {key} {', '.join(map(str, networks))}"


def _limits_before_authentication(route: Route) -> Iterator[str]:
    return (_limit(limit) for limit in route.rate_limit if limit.by not in ("consumer", "key"))


def _limits_after_authentication(route: Route) -> Iterator[str]:
    return (_limit(limit) for limit in route.rate_limit if limit.by in ("consumer", "key"))


def _limit(limit: RateLimit) -> str:
    cost = f", cost {limit.cost}" if limit.cost != 1 else ""
    return f"rate_limit: {limit.rate} by {limit.by}, burst {limit.size}{cost}{', dry run' if limit.dry_run else ''}"


def _cors(route: Route) -> Iterator[str]:
    cors = route.cors
    if cors is None:
        return
    text = f"cors: {', '.join(cors.origins)}"
    if cors.methods is not None:
        text += f", methods {' '.join(cors.methods)}"
    if cors.headers:
        text += f", headers {' '.join(cors.headers)}"
    yield text + (", credentials" if cors.credentials else "")


def _auth(route: Route) -> Iterator[str]:
    if route.auth:
        yield f"auth: {' or '.join(route.auth)}"


def _require(route: Route) -> Iterator[str]:
    required = route.require
    if required is None:
        return
    if required.scopes:
        yield f"require: scopes {', '.join(required.scopes)}"
    if required.consumers is not None:
        yield f"require: consumer {' or '.join(required.consumers)}"
    if required.roles is not None:
        yield f"require: role {' or '.join(required.roles)}"
    for claim, values in required.claims.items():
        yield f"require: claim {claim} is {' or '.join(map(str, values))}"


def _forward_auth(route: Route) -> Iterator[str]:
    settings = route.forward_auth
    if settings is None:
        return
    cached = f", remembered {duration_text(settings.cache)}" if settings.cache is not None else ""
    copied = f", copies {' '.join(settings.copy_headers)}" if settings.copy_headers else ""
    yield f"forward_auth: {settings.service} {settings.path}{copied}{cached}, failure {settings.failure}"


def _in_plugins(route: Route) -> Iterator[str]:
    return iter(())  # their kinds are in `plugins` of the file: see describe_plugins of config/describe.py


def _identity_token(route: Route) -> Iterator[str]:
    if route.identity_token:
        yield "identity_token: signed, for services"


GUARDS = (
    GuardEntry(
        "clients",
        "address lists (`clients`)",
        "the cheapest: a refusal costs one dictionary lookup",
        _clients,
    ),
    GuardEntry(
        "limits_before_authentication",
        "limits by `address` and `header:NAME` (`rate_limit`)",
        "cheap, and clients that guess credentials must be slowed down too",
        _limits_before_authentication,
    ),
    GuardEntry(
        "cors",
        "preflights of browsers (`cors`)",
        "they carry no credentials, so the gateway responds to them before authentication",
        _cors,
    ),
    GuardEntry(
        "auth",
        "authentication (`auth`)",
        "must be known before anything that depends on it",
        _auth,
    ),
    GuardEntry(
        "require",
        "authorization (`require`)",
        "needs the identity of the client only, and is cheap",
        _require,
    ),
    GuardEntry(
        "forward_auth",
        "the decision of a service (`forward_auth`)",
        "it receives the consumer that was found, and is spared what the others refuse",
        _forward_auth,
    ),
    GuardEntry(
        "plugin_guards",
        "guards in Python (`plugins`)",
        "they receive the consumer that was found, may replace it, and are spared what the others refuse",
        _in_plugins,
    ),
    GuardEntry(
        "limits_after_authentication",
        "limits by `consumer` and `key` (`rate_limit`)",
        "only clients that passed have such a bucket, so no one else can drain it",
        _limits_after_authentication,
    ),
    GuardEntry(
        "identity_token",
        "the signed token for services (`identity_token`)",
        "it refuses no request; it states what the guards before it have found",
        _identity_token,
    ),
    GuardEntry(
        "request_filters",
        "filters of requests in Python (`plugins`)",
        "they refuse no request, and see all that the others have established",
        _in_plugins,
    ),
)
"""The guards in the order in which they run."""
