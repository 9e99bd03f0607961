"""Header fields in nginx: what services receive, and what clients receive."""

from __future__ import annotations

from collections.abc import Iterator

from passerelle.config.models.config import Config, Route
from passerelle.config.models.headers import SecurityHeaders
from passerelle.export.nginx_text import literal
from passerelle.export.nginx_writer import Writer
from passerelle.gateway.assembly.guards import copied_fields

# The fields of `forwarding` that nginx can write, with values as nginx reads them.
_FORWARDING = {"X-Real-IP": "$remote_addr", "X-Forwarded-Port": "$server_port"}
# Only a gateway sets them, and services rely on that: a client's own are removed.
_REMOVED = (
    *("Forwarded", "Proxy", "X-Consumer", "X-Consumer-Auth", "X-Consumer-Roles", "X-Consumer-Scopes"),
    *("Passerelle-Timeout-Ms", "X-Real-IP", "X-Forwarded-Port"),
)
_SECURITY = {
    "content_type_options": "X-Content-Type-Options",
    "frame_options": "X-Frame-Options",
    "referrer_policy": "Referrer-Policy",
    "opener_policy": "Cross-Origin-Opener-Policy",
    "resource_policy": "Cross-Origin-Resource-Policy",
    "content_security_policy": "Content-Security-Policy",
    "permissions_policy": "Permissions-Policy",
}


class ResponseMaps:
    """The `map` blocks that add a field only where the service has not set it."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}

    def variable(self, field: str, value: str) -> str:
        """Return the variable with ``value``, or nothing if the response of the service has the field."""
        name = field.lower().replace("-", "_")
        known = sum(1 for each, _ in self._names if each == field)
        return self._names.setdefault((field, value), f"$missing_{name}{f'_{known + 1}' if known else ''}")

    def write(self, out: Writer) -> None:
        """Write all blocks."""
        for (field, value), variable in self._names.items():
            with out.block("map", f"$upstream_http_{field.lower().replace('-', '_')}", variable):
                out.add("default", '""')
                out.add('""', literal(value))
            out.gap()


CLIENT_HOST = "$http_host"
"""The `Host` of the client, as nginx reads it."""


def usual_fields(config: Config) -> dict[str, str]:
    """Return the header fields that services receive without rules, with values as nginx reads them."""
    return dict(_usual_fields(config, CLIENT_HOST, ""))


def request_fields(config: Config, route: Route, host: str) -> dict[str, str]:
    """Return the header fields for the service, with values as nginx reads them. An empty value removes a field."""
    fields = dict(_usual_fields(config, host, route.prefix))
    # The service believes them, because forward_auth sets them on another route.
    for copied in sorted(copied_fields(config, [route.service or ""])):
        fields.setdefault(copied.decode(), '""')
    rules = route.request_headers
    if rules is not None:
        _put(fields, dict.fromkeys(rules.remove, '""'))
        _put(fields, {name: literal(value) for name, value in rules.set.items()})
    # They replace those of rules, as in the gateway.
    forwarding = config.services[route.service].forwarding if route.service is not None else ()
    _put(fields, {name: value for name, value in _FORWARDING.items() if name in forwarding})
    return fields


def _put(fields: dict[str, str], others: dict[str, str]) -> None:
    """Add ``others`` to ``fields``, in place of those whose names differ in case only."""
    names = {name.lower() for name in others}
    for name in [name for name in fields if name.lower() in names and name not in others]:
        del fields[name]
    fields |= others


def _usual_fields(config: Config, host: str, prefix: str) -> Iterator[tuple[str, str]]:
    proto = "$client_scheme" if config.trusted_proxies else "$scheme"
    yield "Host", host
    yield "Connection", "$connection_upgrade"
    yield "Upgrade", "$http_upgrade"
    yield "X-Forwarded-For", "$remote_addr"
    yield "X-Forwarded-Host", "$http_host"
    yield "X-Forwarded-Proto", proto
    yield "X-Forwarded-Prefix", literal(prefix)
    yield "X-Request-Id", "$request_id"
    claims = config.jwt.forward.values() if config.jwt is not None else ()
    token = [config.identity_token.header] if config.identity_token is not None else []
    for name in dict.fromkeys((*_REMOVED, *claims, *token)):
        yield name, '""'


def write_response_fields(out: Writer, maps: ResponseMaps, config: Config, route: Route | None) -> None:
    """Write the fields that clients receive on a route, or on requests without a route."""
    if config.request_id_in_responses:
        out.add("add_header", "X-Request-Id", "$request_id", "always")
    rules = route.response_headers if route is not None else None
    changed = {name.lower() for name in (*rules.set, *rules.add, *rules.default)} if rules is not None else set()
    if rules is not None:
        for name in (*rules.remove, *rules.set):
            out.add("proxy_hide_header", name)
        for name, value in (*rules.set.items(), *rules.add.items()):
            out.add("add_header", name, literal(value), "always")
        for name, value in rules.default.items():
            out.add("add_header", name, maps.variable(name, value), "always")
    security = config.security_of(route) if route is not None else config.security_headers
    if security is None:
        return
    for field, value in _security_fields(config, security):
        if field.lower() in changed:
            continue
        if security.override:
            out.add("proxy_hide_header", field)
            out.add("add_header", field, literal(value), "always")
        else:
            out.add("add_header", field, maps.variable(field, value), "always")


def _security_fields(config: Config, security: SecurityHeaders) -> Iterator[tuple[str, str]]:
    for key, field in _SECURITY.items():
        if getattr(security, key) != "off":
            yield field, getattr(security, key)
    if config.tls is not None and security.hsts != "off":
        yield "Strict-Transport-Security", security.hsts
