"""First configurations from those of Traefik: static and dynamic files, and labels of Compose files.

The file is longer than 400 lines because it has a step for each middleware, and they all change one route.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from passerelle.importing.documents import Table, read
from passerelle.importing.draft import Draft, DraftRoute, ImportProblem, Skipped, closed
from passerelle.importing.traefik_labels import dynamic_of_labels
from passerelle.importing.traefik_rules import Match, RuleError, parse_rule
from passerelle.importing.units import duration, go_seconds, network, size_text

_ACCESS = {
    "basicauth": "write basic with a file, whose hashes are bcrypt or argon2, and auth: [basic] of the route",
    "digestauth": "passerelle has no digest authentication; see docs/reference/authentication.md",
    "plugin": "write a plugin in Python",
    "passtlsclientcert": "write tls.client_ca, and auth: [mtls] of the route",
}
_WHY = {
    "certificatesresolvers": "write automatic tls, or tls with files",
    "api": "write admin",
    "log": "logs go to stderr",
    "accesslog": "write access_log",
    "metrics": "the admin port has them at /metrics",
    "tracing": "write tracing",
    "ping": "the admin port has it",
    "tcp": "passerelle forwards HTTP alone",
    "udp": "passerelle forwards HTTP alone",
    "circuitbreaker": "write breaker of the service",
    "inflightreq": "write max_connections of the service",
    "redirectregex": "expressions have no counterpart; write redirect of a route",
    "replacepathregex": "expressions have no counterpart; write rewrite with parameters",
    "stripprefixregex": "expressions have no counterpart; write rewrite with parameters",
    "errors": "write errors: with files",
    "priority": "the most specific path wins; write priority of the route where paths are the same",
    "sticky": "write balance.sticky with a secret",
    "middlewares": "there is no such middleware",
    "providers": "name the files in the command",
    "serverstransport": "write tls of the service",
}
_UNKNOWN = "passerelle has no counterpart for it"


def import_traefik(path: str) -> tuple[str, list[Skipped]]:
    """Return the configuration for the Traefik or Compose file ``path``, and what was not carried over.

    :raises ImportProblem: if it cannot be read.
    :raises OSError: if it cannot be opened.
    """
    content = read(path)
    draft = Draft(path)
    services = content.get("services")
    labelled = isinstance(services, Table) and any(
        isinstance(each, Table) and "labels" in each for each in services.values()
    )
    if labelled:
        content = dynamic_of_labels(path, content.table("services"), draft)
    if not any(key.lower() in ("http", "entrypoints") for key in content):
        raise ImportProblem(f"{path}: it has neither http, nor entryPoints, nor services with labels of Traefik")
    return _Importer(draft, content).result()


class _Importer:
    """Makes a draft of the content of one file."""

    def __init__(self, draft: Draft, content: Table) -> None:
        self._draft = draft
        self._content = content
        self._http = content.table("http")
        self._services = self._http.table("services")
        self._middlewares = self._http.table("middlewares")
        self._of_all: list[str] = []  # the middlewares of entry points, which apply to all routers

    def result(self) -> tuple[str, list[Skipped]]:
        """Return the text and what was not carried over."""
        self._entry_points()
        self._tls()
        routers = self._http.table("routers")
        for name in routers:
            router = routers.read(name)
            if isinstance(router, Table):
                self._router(name, router, routers.line_of(name))
        for path, key, line in self._content.all_unread():
            self._skip(line, path, _WHY.get(key.lower(), _UNKNOWN))
        return self._draft.finish()

    def _skip(self, line: int, what: str, why: str) -> None:
        self._draft.skip(self._draft.source, line, what, why)

    # ---- the static configuration

    def _entry_points(self) -> None:
        points = self._content.table("entryPoints")
        chosen: str | None = None
        names = sorted(points, key=lambda name: "websecure" not in name.lower() and "https" not in name.lower())
        for name in names:
            point = points.table(name)
            address = str(point.read("address") or "")
            self._of_all += point.table("http").texts("middlewares")
            match = re.fullmatch(r"([^:]*):(\d+)(?:/tcp)?", address)
            if match is None:
                continue
            if chosen is not None:
                why = f"listen has {chosen} only; add this address to it if all routes may be on it"
                self._skip(points.line_of(name), f"entryPoints.{name}", why)
                points.table(name).read("http")
                continue
            chosen = self._draft.top["listen"] = f"{match[1] or '0.0.0.0'}:{match[2]}"

    def _tls(self) -> None:
        certificates = self._content.table("tls").tables("certificates")
        for number, each in enumerate(certificates):
            certificate, key = each.read("certFile"), each.read("keyFile")
            if number == 0 and certificate and key:
                self._draft.top["tls"] = {"certificate": str(certificate), "key": str(key)}
            else:
                self._skip(each.line, f"tls.certificates[{number}]", "write tls.certificates, one for each name")

    # ---- routers

    def _router(self, name: str, router: Table, line: int) -> None:
        rule, wanted = router.read("rule"), router.read("service")
        router.read("entryPoints")
        tls = router.read("tls")
        if isinstance(tls, Table):
            tls.read("certResolver")
        what = f"http.routers.{name}"
        try:
            matches = parse_rule(str(rule or ""))
        except RuleError as error:
            self._skip(router.line_of("rule"), f"{what}.rule", f"{error}; no route was written")
            router.read_all()
            return
        names = [each.partition("@")[0] for each in (*self._of_all, *router.texts("middlewares"))]
        steps = _Steps(self._middlewares, self._skip)
        for middleware in names:
            steps.apply(middleware, router.line_of("middlewares"))
        service = None
        if str(wanted).partition("@")[0].lower() != "noop":
            service = self._service(str(wanted or "").partition("@")[0], router.line_of("service"), what)
        for match in matches:
            for path, is_prefix in match.paths or (("/", True),):
                for keys in _routes(match, path, is_prefix, service, steps):
                    self._draft.routes.append(DraftRoute(keys, self._draft.source, line, what))

    def _service(self, name: str, line: int, what: str) -> str | None:
        found = next((self._services.read(key) for key in self._services if key.lower() == name.lower()), None)
        balancer = found.table("loadBalancer") if isinstance(found, Table) else Table()
        servers = balancer.tables("servers")
        if not servers:
            self._skip(
                line, f"{what}.service {name}", "it has no servers in this file; until then the route responds 501"
            )
            return None
        targets: list[Any] = []
        weighted = False
        for server in servers:
            url, weight = str(server.read("url") or ""), server.read("weight")
            plain = isinstance(weight, int) and weight != 1
            weighted = weighted or plain
            targets.append({"url": url.rstrip("/"), "weight": weight} if plain else url.rstrip("/"))
        keys: dict[str, Any] = {"targets": targets} | ({"balance": "weighted"} if weighted else {})
        if balancer.read("passHostHeader") is False:
            keys["host"] = "upstream"
        health = balancer.table("healthCheck")
        if health.read("path"):
            keys["health"] = {"path": str(health.read("path"))}
            for key in ("interval", "timeout"):
                if (seconds := go_seconds(health.read(key))) is not None:
                    keys["health"][key] = duration(seconds)
        return self._draft.add_service(name, keys)


class _Steps:
    """What the middlewares of a router do: keys of routes, and changes of their paths."""

    def __init__(self, middlewares: Table, skip: Callable[[int, str, str], None]) -> None:
        self.keys: dict[str, Any] = {}
        self.strip: list[str] = []
        self.add = ""
        self.replace = ""
        self.redirect: dict[str, Any] | None = None
        self.is_closed = False
        self._middlewares = middlewares
        self._skip = skip
        self._applied: set[str] = set()

    def apply(self, name: str, line: int) -> None:
        """Apply the middleware ``name``, which is named at ``line``."""
        found = next((self._middlewares.read(key) for key in self._middlewares if key.lower() == name.lower()), None)
        if not isinstance(found, Table):
            self._close(line, f"middleware {name}", "it is not in this file")
            return
        if name in self._applied:
            return
        self._applied.add(name)
        for kind in found:
            options = found.read(kind)
            options = options if isinstance(options, Table) else Table(found.line_of(kind))
            where, what = found.line_of(kind), f"http.middlewares.{name}.{kind}"
            handler = self.HANDLERS.get(kind.lower())
            if handler is not None:
                handler(self, options, where, what)
            elif kind.lower() in _ACCESS:
                options.read_all()
                self._close(where, what, _ACCESS[kind.lower()])
            else:
                options.read_all()
                self._skip(where, what, _WHY.get(kind.lower(), _UNKNOWN))

    def _close(self, line: int, what: str, why: str) -> None:
        self.is_closed = True
        self._skip(line, what, f"{why}; until then the route responds 501")

    def _chain(self, options: Table, line: int, what: str) -> None:
        for name in options.texts("middlewares"):
            self.apply(name.partition("@")[0], line)

    def _strip_prefix(self, options: Table, line: int, what: str) -> None:
        options.read("forceSlash")
        self.strip = options.texts("prefixes")

    def _add_prefix(self, options: Table, line: int, what: str) -> None:
        self.add = str(options.read("prefix") or "")

    def _replace_path(self, options: Table, line: int, what: str) -> None:
        self.replace = str(options.read("path") or "")

    def _redirect_scheme(self, options: Table, line: int, what: str) -> None:
        permanent = options.read("permanent") in (True, "true")
        scheme = str(options.read("scheme") or "https")
        self.redirect = {"scheme": scheme, "status": 301 if permanent else 302}
        if options.read("port"):
            self._skip(line, f"{what}.port", "write redirect.host with its port")

    def _rate_limit(self, options: Table, line: int, what: str) -> None:
        average, burst = _number(options.read("average")), _number(options.read("burst"))
        period = go_seconds(options.read("period")) or 1.0
        unit = {1.0: "s", 60.0: "m", 3600.0: "h"}.get(period)
        if "sourceCriterion" in options or not average or unit is None:
            options.read_all()
            self._skip(line, what, "write rate_limit of the route")
            return
        limit = {"rate": f"{average}/{unit}", "burst": burst or 1, "by": "address"}
        others = self.keys.get("rate_limit", [])
        self.keys["rate_limit"] = [*(others if isinstance(others, list) else [others]), limit] if others else limit

    def _allow_list(self, options: Table, line: int, what: str) -> None:
        ranges = [network(each) for each in options.texts("sourceRange")]
        if not ranges or None in ranges or "ipStrategy" in options:
            options.read_all()
            self._close(line, what, "write clients of the route, and trusted_proxies")
            return
        if "clients" in self.keys:
            self._close(line, what, "two lists of addresses, which must both hold")
            return
        self.keys["clients"] = {"allow": ranges}

    def _forward_auth(self, options: Table, line: int, what: str) -> None:
        options.read_all()
        self._close(line, what, "write forward_auth of the route, with a service")

    def _compress(self, options: Table, line: int, what: str) -> None:
        self.keys["compress"] = ["gzip"]

    def _retry(self, options: Table, line: int, what: str) -> None:
        attempts = _number(options.read("attempts"))
        if attempts:
            self.keys["attempts"] = min(attempts, 10)

    def _buffering(self, options: Table, line: int, what: str) -> None:
        most = _number(options.read("maxRequestBodyBytes"))
        if most:
            self.keys["body"] = size_text(most)

    def _headers(self, options: Table, line: int, what: str) -> None:
        for key, target in (("customRequestHeaders", "request_headers"), ("customResponseHeaders", "response_headers")):
            fields = options.table(key)
            values = {name: str(fields.read(name)) for name in list(fields)}
            if target == "response_headers":
                values = _security_fields(options) | values
            # Of several middlewares, the later one decides about a field.
            rules = self.keys.get(target, {})
            named = {name.lower() for name in values}
            kept = {name: value for name, value in rules.get("set", {}).items() if name.lower() not in named}
            kept |= {name: value for name, value in values.items() if value}
            removed = [name for name in rules.get("remove", []) if name.lower() not in named]
            removed += [name for name, value in values.items() if not value]
            rules = ({"set": kept} if kept else {}) | ({"remove": removed} if removed else {})
            if rules:
                self.keys[target] = rules
        origins = options.texts("accessControlAllowOriginList")
        if origins:
            cors: dict[str, Any] = {"origins": origins}
            if methods := options.texts("accessControlAllowMethods"):
                cors["methods"] = methods
            if headers := options.texts("accessControlAllowHeaders"):
                cors["headers"] = headers
            if options.read("accessControlAllowCredentials") in (True, "true"):
                cors["credentials"] = True
            if seconds := go_seconds(options.read("accessControlMaxAge")):
                cors["max_age"] = duration(seconds)
            options.read("addVaryHeader")
            self.keys["cors"] = cors

    HANDLERS: ClassVar[dict[str, Callable[[_Steps, Table, int, str], None]]] = {
        "chain": _chain,
        "stripprefix": _strip_prefix,
        "addprefix": _add_prefix,
        "replacepath": _replace_path,
        "redirectscheme": _redirect_scheme,
        "ratelimit": _rate_limit,
        "ipallowlist": _allow_list,
        "ipwhitelist": _allow_list,
        "forwardauth": _forward_auth,
        "compress": _compress,
        "retry": _retry,
        "buffering": _buffering,
        "headers": _headers,
    }


def _routes(match: Match, path: str, is_prefix: bool, service: str | None, steps: _Steps) -> list[dict[str, Any]]:
    """Return the routes for one path of a match: two where a rewritten path may end with a slash or not."""
    base: dict[str, Any] = {}
    if match.hosts:
        base["host"] = list(match.hosts) if len(match.hosts) > 1 else match.hosts[0]
    if match.methods:
        base["methods"] = list(match.methods)
    if match.conditions:
        base["match"] = dict(match.conditions)
    plain = path.rstrip("/")
    paths = [f"{plain}/{{rest*}}"] if is_prefix else [path]
    if is_prefix and plain == path and _rewritten(path, steps) is not None:
        paths = [path, *paths]  # what the service receives ends with a slash for one of them alone
    found = []
    for each in paths:
        keys = {"path": each, **base}
        if steps.is_closed:
            found.append(closed(keys))
        elif steps.redirect is not None:
            found.append(keys | {"redirect": steps.redirect})
        elif service is not None:
            rewrite = _rewritten(each, steps)
            found.append(keys | {"service": service} | ({"rewrite": rewrite} if rewrite else {}) | steps.keys)
        else:
            found.append(closed(keys))
    return found


def _rewritten(path: str, steps: _Steps) -> str | None:
    """Return the path that the service receives; None if it is that of the client."""
    plain = path.replace("*}", "}")
    result = plain
    if steps.replace:
        return steps.replace
    for prefix in steps.strip:
        bare = prefix.rstrip("/")
        if result == bare or result.startswith(f"{bare}/"):
            result = result[len(bare) :] or "/"
            break
    if steps.add:
        result = steps.add.rstrip("/") + result
    return result if result != plain else None


_SECURITY_FIELDS = (
    ("contentSecurityPolicy", "Content-Security-Policy"),
    ("contentSecurityPolicyReportOnly", "Content-Security-Policy-Report-Only"),
    ("referrerPolicy", "Referrer-Policy"),
    ("permissionsPolicy", "Permissions-Policy"),
)


def _security_fields(options: Table) -> dict[str, str]:
    """Return the response fields that a middleware `headers` sets by keys of their own."""
    found = {}
    seconds = _number(options.read("stsSeconds"))
    subdomains, preload = (options.read(key) in (True, "true") for key in ("stsIncludeSubdomains", "stsPreload"))
    options.read("forceSTSHeader")
    if seconds:
        more = "; includeSubDomains" * subdomains + "; preload" * preload
        found["Strict-Transport-Security"] = f"max-age={seconds}{more}"
    if options.read("frameDeny") in (True, "true"):
        found["X-Frame-Options"] = "DENY"
    if frame := options.read("customFrameOptionsValue"):
        found["X-Frame-Options"] = str(frame)
    if options.read("contentTypeNosniff") in (True, "true"):
        found["X-Content-Type-Options"] = "nosniff"
    if options.read("browserXssFilter") in (True, "true"):
        found["X-XSS-Protection"] = "1; mode=block"
    for key, name in _SECURITY_FIELDS:
        if value := options.read(key):
            found[name] = str(value)
    return found


def _number(found: object) -> int | None:
    if isinstance(found, bool):
        return None
    if isinstance(found, int):
        return found
    return int(found) if isinstance(found, str) and found.isdigit() else None
