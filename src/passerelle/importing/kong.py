"""First configurations from declarative ones of Kong.

The file is longer than 400 lines because it has one step for each plugin of Kong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import urlsplit

from passerelle.importing.documents import Table, read
from passerelle.importing.draft import Draft, DraftRoute, ImportProblem, Skipped, closed
from passerelle.importing.units import duration, network, size_text

# Plugins that decide who may use a route, and that have no counterpart which could be written from them.
_ACCESS = {
    "acl": "write require with roles",
    "basic-auth": "write basic with a file, and auth: [basic] of the route",
    "bot-detection": "a plugin in Python can do it",
    "hmac-auth": "a plugin in Python can do it",
    "jwt": "write jwt with the key, and auth: [jwt] of the route",
    "ldap-auth": "write forward_auth",
    "mtls-auth": "write tls.client_ca, and auth: [mtls] of the route",
    "oauth2": "write jwt, or forward_auth",
    "oauth2-introspection": "write forward_auth",
    "openid-connect": "write jwt, or oidc with sessions",
    "pre-function": "a plugin in Python can do it",
    "session": "write sessions",
}
_WHY = {
    "consumers": "create their keys: passerelle keys create --owner NAME",
    "correlation-id": "passerelle has X-Request-Id",
    "prometheus": "the admin port has metrics",
    "opentelemetry": "write tracing",
    **dict.fromkeys(("file-log", "http-log", "loggly", "syslog", "tcp-log", "udp-log"), "write access_log"),
    **dict.fromkeys(("datadog", "statsd", "zipkin"), "write tracing, or read the metrics of the admin port"),
    "keyauth_credentials": "create the keys: passerelle keys create --owner NAME",
    "slots": "passerelle needs no number of slots",
    "concurrency": "passerelle needs no number of probes at once",
    "post-function": "a plugin in Python can do it",
    "regex_priority": "the most specific path wins; write priority of the route where paths are the same",
    "certificates": "write tls.certificates",
    "snis": "write tls.certificates",
    "ca_certificates": "write tls.client_ca",
    "write_timeout": "there is one timeout of a request",
    "tags": "names of routes and services have no tags",
}
_UNKNOWN = "passerelle has no counterpart for it"
_BALANCE = {"least-connections": "least_inflight", "latency": "ewma", "round-robin": "round_robin"}
# Browsers omit these ports in the Origin that they send.
_DEFAULT_PORT = re.compile(r"^(http://[^/]*):80$|^(https://[^/]*):443$")
_PERIODS = (("second", "s"), ("minute", "m"), ("hour", "h"), ("day", "d"))


def import_kong(path: str) -> tuple[str, list[Skipped]]:
    """Return the configuration for the declarative configuration ``path`` of Kong, and what was not carried over.

    :raises ImportProblem: if it cannot be read.
    :raises OSError: if it cannot be opened.
    """
    content = read(path)
    if not ("_format_version" in content or "services" in content or "routes" in content):
        raise ImportProblem(f"{path}: it has no _format_version, services and routes, as files of Kong do")
    return _Importer(Draft(path), content).result()


class _Importer:
    """Makes a draft of the content of one file."""

    def __init__(self, draft: Draft, content: Table) -> None:
        self._draft = draft
        self._content = content
        self._upstreams = {str(each.read("name")): each for each in content.tables("upstreams")}
        self._plugins = content.tables("plugins")
        self._overridden: list[Table] = []

    def result(self) -> tuple[str, list[Skipped]]:
        """Return the text and what was not carried over."""
        content = self._content
        for key in ("_format_version", "_transform", "_comment", "_workspace"):
            content.read(key)
        # Kong listens on port 8000, and has no limit of bodies unless nginx_http_client_max_body_size sets one.
        self._draft.top |= {"listen": "0.0.0.0:8000", "limits": {"body": "unlimited"}}
        routes = content.tables("routes")
        for service in content.tables("services"):
            name = str(service.read("name") or service.read("id") or "service")
            made = self._service(name, service)
            plugins = [*self._global("service", name), *service.tables("plugins")]
            for route in service.tables("routes"):
                self._route(route, made, plugins)
            for route in routes:
                if _reference(route.get("service")) == name:
                    route.read("service")
                    self._route(route, made, plugins)
        for route in routes:
            if route.get("service") is None:
                self._skip(route.line, "routes", "it names no service; no route was written")
            elif route.is_untouched:  # its service is not in the file
                self._skip(route.line, "routes", "its service is not in this file; no route was written")
        for plugin in self._overridden:
            if any(key == "config" for key, _ in plugin.unread()):
                plugin.read_all()
                self._skip(plugin.line, f"plugin {plugin.get('name')}", "a further one of that name takes its place")
        for path, key, line in content.all_unread():
            if key not in ("id", "name", "created_at", "updated_at"):
                self._skip(line, path, _WHY.get(key, _UNKNOWN))
        return self._draft.finish()

    def _skip(self, line: int, what: str, why: str) -> None:
        self._draft.skip(self._draft.source, line, what, why)

    def _global(self, kind: str, name: str) -> list[Table]:
        """Return the plugins of the file that apply to all services, or to the service or route ``name``."""
        found = []
        for plugin in self._plugins:
            targets = {each: _reference(plugin.get(each)) for each in ("service", "route", "consumer")}
            if targets[kind] == name or (kind == "service" and not any(targets.values())):
                plugin.read(kind)
                found.append(plugin)
        return found

    # ---- services

    def _service(self, name: str, service: Table) -> dict[str, Any]:
        """Return what routes need of a service: its name, the path in front of theirs, and their timeout."""
        url = service.read("url")
        parts = urlsplit(str(url)) if url else None
        try:
            port = parts.port if parts is not None else None
        except ValueError:
            port = None
        scheme = (parts.scheme if parts is not None else None) or str(service.read("protocol") or "http")
        host = (parts.hostname if parts is not None else None) or str(service.read("host") or "")
        number = service.read("port")
        port = port or (number if isinstance(number, int) else 443 if scheme == "https" else 80)
        path = (parts.path if parts is not None else None) or str(service.read("path") or "")
        keys: dict[str, Any] = {}
        upstream = self._upstreams.get(host)
        if upstream is not None:
            self._targets(upstream, scheme, keys)
        else:
            keys["targets"] = [f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"]
        if scheme == "https" and service.read("tls_verify") is not True:
            keys["tls"] = {"verify": False}
        connect = service.read("connect_timeout")
        if isinstance(connect, int) and connect > 0:
            keys["connect_timeout"] = duration(connect / 1000)
        retries, timeout = service.read("retries"), service.read("read_timeout")
        of_routes: dict[str, Any] = {}
        if isinstance(timeout, int) and timeout > 0:
            of_routes["timeout"] = duration(timeout / 1000)
        if isinstance(retries, int):
            of_routes["attempts"] = max(1, min(retries + 1, 10))
        return {"name": name, "keys": keys, "path": path.rstrip("/"), "of_routes": of_routes}

    def _targets(self, upstream: Table, scheme: str, keys: dict[str, Any]) -> None:
        targets = []
        weights = set()
        for each in upstream.tables("targets"):
            address, weight = str(each.read("target")), each.read("weight")
            weight = weight if isinstance(weight, int) else 100
            if weight == 0:
                continue
            address = address if ":" in address else f"{address}:8000"
            targets.append({"url": f"{scheme}://{address}", "weight": weight})
            weights.add(weight)
        algorithm = str(upstream.read("algorithm") or "round-robin")
        if len(weights) > 1:
            keys["balance"] = "weighted" if algorithm == "round-robin" else _BALANCE.get(algorithm, "weighted")
            keys["targets"] = targets
        else:
            keys["targets"] = [each["url"] for each in targets]
            if algorithm in _BALANCE:
                keys["balance"] = _BALANCE[algorithm]
            else:
                self._skip(upstream.line_of("algorithm"), "upstreams.algorithm", "write balance of the service")
        active = upstream.table("healthchecks").table("active")
        path = active.read("http_path")
        healthy, unhealthy = active.table("healthy"), active.table("unhealthy")
        interval = healthy.read("interval")
        unhealthy.read("interval")
        active.read("type")
        if path and isinstance(interval, int) and interval > 0:
            keys["health"] = {"path": str(path), "interval": f"{interval}s"}
            timeout = active.read("timeout")
            if isinstance(timeout, int | float) and 0 < timeout < interval:
                keys["health"]["timeout"] = duration(timeout)
            failures = [unhealthy.read(key) for key in ("http_failures", "tcp_failures", "timeouts")]
            for key, counts in (("rise", [healthy.read("successes")]), ("fall", failures)):
                numbers = [each for each in counts if isinstance(each, int) and each > 0]
                if numbers:
                    keys["health"][key] = min(numbers)

    # ---- routes

    def _route(self, route: Table, service: dict[str, Any], plugins: list[Table]) -> None:
        name = str(route.read("name") or "")
        what = f"routes {name}".strip()
        steps = _Steps(self._draft, self._skip)
        # Of a plugin on several levels, that of the route wins.
        chosen = {
            str(each.get("name")): each for each in (*plugins, *self._global("route", name), *route.tables("plugins"))
        }
        for plugin_name, plugin in chosen.items():
            steps.apply(plugin_name, plugin)
        for plugin in (*plugins, *self._plugins):
            if plugin.get("name") in chosen:
                plugin.read("name")
                if plugin.get("config") is not None and plugin not in chosen.values():
                    self._overridden.append(plugin)
        route.read("protocols")
        for key in ("snis", "expression"):
            if route.get(key) is not None:
                route.read(key)
                self._skip(route.line_of(key), f"{what} {key}", "it selects requests; no route was written")
                return
        base: dict[str, Any] = {}
        if route.get("headers") is not None:
            wanted = _header_conditions(route.table("headers"))
            if wanted is None:
                self._skip(route.line_of("headers"), f"{what} headers", "write match of the route; none was written")
                return
            base["match"] = {"headers": wanted}
        hosts, methods = route.texts("hosts"), route.texts("methods")
        if hosts:
            base["host"] = hosts if len(hosts) > 1 else hosts[0]
        if methods:
            base["methods"] = methods
        strip = route.read("strip_path") is not False
        keys = dict(service["keys"])
        if route.read("preserve_host") is not True:
            keys["host"] = "upstream"
        target = self._draft.add_service(service["name"], keys)
        for path in route.texts("paths") or ["/"]:
            if path.startswith("~"):
                self._skip(route.line_of("paths"), f"{what} {path}", "expressions have no counterpart; write the paths")
                continue
            for keys in _routes(path, base, target, service, steps, strip=strip):
                self._draft.routes.append(DraftRoute(keys, self._draft.source, route.line, what))


def _header_conditions(headers: Table) -> dict[str, Any] | None:
    """Return the conditions on header fields, whose values Kong compares without letter case; None for expressions."""
    found: dict[str, Any] = {}
    for name in headers:
        values = headers.texts(name)
        if not values or any(value.startswith("~*") or not value.isascii() for value in values):
            return None
        found[name] = {"pattern": "(?i)" + "|".join(re.sub(r"([^A-Za-z0-9 ])", r"\\\1", value) for value in values)}
    return found or None


def _routes(
    path: str, base: dict[str, Any], target: str, service: dict[str, Any], steps: _Steps, *, strip: bool
) -> list[dict[str, Any]]:
    bare = path.rstrip("/")
    patterns = [f"{bare}/{{rest*}}"]
    if bare == path and (strip or service["path"]):
        patterns = [path, *patterns]  # what the service receives ends with a slash for one of them alone
    found = []
    for pattern in patterns:
        keys = {"path": pattern, **base}
        if steps.is_closed:
            found.append(closed(keys))
        elif steps.response is not None:
            found.append(keys | {"respond": steps.response})
        else:
            plain = pattern.replace("*}", "}")
            inner = (plain[len(bare) :] or "/") if strip else plain
            rewrite = service["path"] + inner if service["path"] and inner != "/" else service["path"] or inner
            more = {"rewrite": rewrite} if rewrite != plain else {}
            found.append(keys | {"service": target} | more | service["of_routes"] | steps.keys)
    return found


class _Steps:
    """What the plugins of a route do: keys of routes, and of the file."""

    def __init__(self, draft: Draft, skip: Callable[[int, str, str], None]) -> None:
        self.keys: dict[str, Any] = {}
        self.response: Any = None
        self.is_closed = False
        self._draft = draft
        self._skip = skip

    def apply(self, name: str, plugin: Table) -> None:
        """Apply one plugin."""
        plugin.read("name")
        config = plugin.table("config")
        if plugin.read("enabled") is False:
            config.read_all()
            return
        what = f"plugin {name}"
        handler = self.HANDLERS.get(name)
        if plugin.get("consumer") is not None:
            plugin.read("consumer")
            config.read_all()
            self._skip(plugin.line, what, "plugins of one consumer have no counterpart")
        elif handler is not None:
            handler(self, config, plugin.line, what)
        else:
            config.read_all()
            if name in _ACCESS or name not in _WHY:
                # Unknown plugins may be guards as well.
                self._close(plugin.line, what, _ACCESS.get(name, _UNKNOWN))
            else:
                self._skip(plugin.line, what, _WHY[name])

    def _close(self, line: int, what: str, why: str) -> None:
        self.is_closed = True
        self._skip(line, what, f"{why}; until then the route responds 501")

    def _key_auth(self, config: Table, line: int, what: str) -> None:
        names = config.texts("key_names") or ["apikey"]
        for key in ("hide_credentials", "key_in_header", "key_in_query", "key_in_body"):
            config.read(key)
        self._draft.top.setdefault("keys", {"store": "keys.db", "header": names[0]})
        self.keys["auth"] = ["key"]
        for name in names[1:]:
            self._skip(line, f"{what} {name}", "keys have one header")

    def _rate_limiting(self, config: Table, line: int, what: str) -> None:
        limit_by = str(config.read("limit_by") or "consumer")
        by = {"ip": "address", "consumer": "consumer", "credential": "key"}.get(limit_by)
        if limit_by == "header" and config.get("header_name"):
            by = f"header:{config.read('header_name')}"
        for key in ("policy", "fault_tolerant", "hide_client_headers"):
            config.read(key)
        limits = []
        for key, unit in _PERIODS:
            number = config.read(key)
            if isinstance(number, int) and number > 0:
                limits.append({"rate": f"{number}/{unit}", "by": by})
        if by is None or not limits:
            config.read_all()
            self._skip(line, what, "write rate_limit of the route")
            return
        if by in ("consumer", "key") and "auth" not in self.keys:
            for limit in limits:
                limit["by"] = "address"
        self.keys["rate_limit"] = limits if len(limits) > 1 else limits[0]

    def _proxy_cache(self, config: Table, line: int, what: str) -> None:
        ttl = config.read("cache_ttl")
        config.read("strategy")
        self.keys["cache"] = {"ttl": duration(float(ttl if isinstance(ttl, int) and ttl > 0 else 300))}

    def _cors(self, config: Table, line: int, what: str) -> None:
        origins = [_DEFAULT_PORT.sub(r"\1\2", each) for each in config.texts("origins")]
        cors: dict[str, Any] = {"origins": list(dict.fromkeys(origins)) or ["*"]}
        for key, own in (("methods", "methods"), ("headers", "headers"), ("exposed_headers", "expose")):
            if values := config.texts(key):
                cors[own] = values
        if config.read("credentials") is True:
            cors["credentials"] = True
        if isinstance(age := config.read("max_age"), int) and age > 0:
            cors["max_age"] = duration(age)
        self.keys["cors"] = cors

    def _ip_restriction(self, config: Table, line: int, what: str) -> None:
        clients: dict[str, Any] = {}
        for key in ("allow", "deny"):
            ranges = [network(each) for each in config.texts(key, f"{'white' if key == 'allow' else 'black'}list")]
            if None in ranges:
                self._close(line, what, "it has a range that cannot be read")
                return
            if ranges:
                clients[key] = ranges
        for key in ("status", "message"):
            config.read(key)
        if clients:
            self.keys["clients"] = clients

    def _request_size(self, config: Table, line: int, what: str) -> None:
        size = config.read("allowed_payload_size")
        factor = {"bytes": 1, "kilobytes": 1024}.get(str(config.read("size_unit") or "megabytes"), 1024 * 1024)
        self.keys["body"] = size_text((size if isinstance(size, int) else 128) * factor)

    def _request_transformer(self, config: Table, line: int, what: str) -> None:
        self._transform(config, "request_headers")

    def _response_transformer(self, config: Table, line: int, what: str) -> None:
        self._transform(config, "response_headers")

    def _transform(self, config: Table, target: str) -> None:
        rules: dict[str, Any] = {}
        values: dict[str, str] = {}
        for key in ("add", "replace"):
            for each in config.table(key).texts("headers"):
                name, _, value = each.partition(":")
                if "$(" in value:
                    self._skip(config.line, f"{target} {name.strip()}", "its variables have no counterpart")
                else:
                    values[name.strip()] = value.strip()
        if values:
            rules["set"] = values
        if removed := config.table("remove").texts("headers"):
            rules["remove"] = removed
        if rules:
            self.keys[target] = rules

    def _termination(self, config: Table, line: int, what: str) -> None:
        status, body = config.read("status_code"), config.read("body", "message")
        config.read("content_type")
        number = status if isinstance(status, int) else 503
        self.response = {"status": number, "body": str(body)} if body else number

    HANDLERS: ClassVar[dict[str, Callable[[_Steps, Table, int, str], None]]] = {
        "key-auth": _key_auth,
        "rate-limiting": _rate_limiting,
        "proxy-cache": _proxy_cache,
        "cors": _cors,
        "ip-restriction": _ip_restriction,
        "request-size-limiting": _request_size,
        "request-transformer": _request_transformer,
        "response-transformer": _response_transformer,
        "request-termination": _termination,
    }


def _reference(found: object) -> str:
    """Return the name that `service`, `route` or `consumer` refers to; empty without one."""
    if isinstance(found, Table):
        return str(found.read("name") or found.read("id") or "")
    return str(found) if found else ""
