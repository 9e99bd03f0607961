"""Keys of other gateways, and the keys that passerelle has for them.

People who come from nginx, HAProxy, Traefik, Kong, Envoy, Caddy or Compose write the keys that they know. Most of these
are not similar to ours, so the search for a similar name does not find them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Only what cannot be a secret is repeated in a replacement.
_ADDRESS = re.compile(
    r"(?:(https?)://)?([A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-f:]+\](?::\d{1,5})?)(/[\w./-]*)?"
).fullmatch
_PATH = re.compile(r"/[\w{}./-]*").fullmatch
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}").fullmatch
_HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*").fullmatch
_RATE = re.compile(r"\d+/[smhd]").fullmatch

_LONGEST = 100  # characters of a value that a replacement repeats
_MOST = 4  # items of a list that a replacement repeats


class Replacement(NamedTuple):
    """The key of passerelle, empty if there is none, and what to change."""

    key: str
    text: str


_Make = Callable[[Any, Mapping[str, Any]], str]
"""Returns what to change, for the value of the unknown key and the mapping that it is in."""


def replacement(model: str, word: str, value: object, around: Mapping[str, Any]) -> Replacement | None:
    """Return the replacement of the key ``word`` in the mapping ``around`` of ``model``; None if none is known."""
    found = _TABLES.get(model, {}).get(_plain(word))
    if found is None or found[0] in around:
        return None
    key, text = found
    # The message stays short.
    if isinstance(value, str) and len(value) > _LONGEST:
        value = None
    elif isinstance(value, list):
        value = value[:_MOST]
    return Replacement(key, text if isinstance(text, str) else text(value, around))


def policy_of(word: str) -> str | None:
    """Return the balancing policy that other products call ``word``; None if none is known."""
    return _POLICIES.get(_plain(word).replace("_", ""))


def _plain(word: str) -> str:
    """Convert ``stripPrefix``, ``strip-prefix`` and ``STRIP_PREFIX`` to ``strip_prefix``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).lower().replace("-", "_")


def _write(text: str) -> _Make:
    return lambda value, around: f"write {text}"


def _of_route(key: str, example: str) -> str:
    return f"{key} is a key of a route: {key}: {example}"


def _listen(value: Any, around: Mapping[str, Any]) -> str:
    text = str(value).rpartition(":")[2]
    return f"write listen: 127.0.0.1:{text if text.isdecimal() else 8080} (0.0.0.0 for all interfaces)"


def _targets(value: Any, around: Mapping[str, Any]) -> str:
    values = value if isinstance(value, list) else [value]
    matches = [_ADDRESS(item) for item in values if isinstance(item, str)]
    found = [match for match in matches if match is not None]
    if len(found) != len(values) or not found:
        return 'write targets: ["http://127.0.0.1:5000"]'
    urls = ", ".join(f'"{match[1] or "http"}://{match[2]}"' for match in found)
    note = "; a path is set with rewrite of a route" if any((match[3] or "/") != "/" for match in found) else ""
    return f"write targets: [{urls}]{note}"


def _service(value: Any, around: Mapping[str, Any]) -> str:
    if isinstance(value, str) and _WORD(value):
        return f"write service: {value}"
    match = _ADDRESS(value) if isinstance(value, str) else None
    url = f"{match[1] or 'http'}://{match[2]}" if match is not None else "http://127.0.0.1:5000"
    return f'write service: NAME, and under services NAME: {{targets: ["{url}"]}}'


def _path(value: Any, around: Mapping[str, Any]) -> str:
    return f"write path: {value if isinstance(value, str) and _PATH(value) else '/user/{user_id}'}"


def _prefix(value: Any, around: Mapping[str, Any]) -> str:
    base = value.rstrip("/") if isinstance(value, str) and _PATH(value) else "/user"
    return f'write path: "{base}/{{rest*}}"'


def _strip(value: Any, around: Mapping[str, Any]) -> str:
    path = value if isinstance(value, str) and _PATH(value) else around.get("path")
    if not isinstance(path, str) or not _PATH(path):
        path = "/user"
    base = path.removesuffix("{rest*}").rstrip("/") or "/user"
    return f'write path: "{base}/{{rest*}}" and rewrite: "/{{rest}}"'


def _methods(value: Any, around: Mapping[str, Any]) -> str:
    names = value if isinstance(value, list) else [value]
    words = [name.upper() for name in names if isinstance(name, str) and name.isalpha()]
    return f"write methods: [{', '.join(words) or 'GET'}]"


def _host(value: Any, around: Mapping[str, Any]) -> str:
    names = value if isinstance(value, list) else [value]
    known = [name for name in names if isinstance(name, str) and _HOST(name)]
    several = "; a route has one host, so write one route for each" if len(names) > 1 else ""
    return f"write host: {known[0] if known else 'api.example.com'}{several}"


def _rate(value: Any, around: Mapping[str, Any]) -> str:
    rate = value.get("rate") if isinstance(value, dict) else value
    return f"write rate_limit: {{rate: {rate if isinstance(rate, str) and _RATE(rate) else '10/s'}}}"


def _cache(value: Any, around: Mapping[str, Any]) -> str:
    ttl = value if isinstance(value, str) and re.fullmatch(r"\d+(ms|s|m|h)", value) else "30s"
    return f"write cache: {{ttl: {ttl}}}"


def _count(value: Any, around: Mapping[str, Any]) -> str:
    return f"write instances: {value if type(value) is int else 2}"


def _attempts(value: Any, around: Mapping[str, Any]) -> str:
    return f"write attempts: {value + 1 if type(value) is int and 0 <= value < 10 else 3}, which includes the first one"


def _balance(value: Any, around: Mapping[str, Any]) -> str:
    policy = policy_of(value) if isinstance(value, str) else None
    return f"write balance: {policy or 'round_robin'}"


def _health(value: Any, around: Mapping[str, Any]) -> str:
    path = value.get("path") if isinstance(value, dict) else value
    return f"write health: {{path: {path if isinstance(path, str) and _PATH(path) else '/healthz'}}}"


def _url(value: Any, around: Mapping[str, Any]) -> str:
    host = value if isinstance(value, str) and _ADDRESS(value) else around.get("host")
    host = host if isinstance(host, str) and _ADDRESS(host) else "127.0.0.1"
    if "://" not in host:
        port = around.get("port")
        host = "http://" + host + (f":{port}" if type(port) is int and ":" not in host else "")
    return f'write url: "{host}"'


def _table(*rows: tuple[str, str, str | _Make]) -> dict[str, tuple[str, str | _Make]]:
    """Each row: words, the key, and what to change."""
    return {word: (key, make) for words, key, make in rows for word in words.split()}


_SERVICES = _write('services: {user: {targets: ["http://127.0.0.1:5000"]}}')
_TLS = _write("tls: {certificate: cert.pem, key: key.pem}")
_ROUTES = _write('routes: [{path: "/user/{user_id}", service: user}]')

_TABLES: dict[str, dict[str, tuple[str, str | _Make]]] = {
    "Config": _table(
        ("port bind address addr host hosts server listener listeners entrypoints", "listen", _listen),
        ("upstream upstreams backend backends cluster clusters apis servers targets pools", "services", _SERVICES),
        ("location locations path paths endpoint endpoints rules ingress frontend frontends", "routes", _ROUTES),
        ("ssl https certificates certificate cert certs", "tls", _TLS),
        ("log logs logging log_file accesslog", "access_log", _write("access_log: stdout, off or a path")),
        ("processes threads worker_processes", "workers", _write("workers: 2")),
        (
            "rate rate_limit rate_limits ratelimit limit_req throttle",
            "",
            _of_route("rate_limit", "{rate: 10/s}"),
        ),
        ("timeout timeouts", "", _of_route("timeout", "3s")),
        ("cors", "", _of_route("cors", "{origins: ['https://www.example.com']}")),
        ("auth authentication", "", _of_route("auth", "[key]")),
        ("middleware middlewares filters", "", "guards are keys of a route: auth, rate_limit, cors, clients, plugins"),
        ("gzip compression compress", "", _of_route("compress", "true")),
        ("version name", "", "remove it"),
    ),
    "Service": _table(
        (
            "url urls uri server servers upstream upstreams backend backends endpoint endpoints hosts address"
            " addresses nodes members proxy_pass load_balancer loadbalancer origin",
            "targets",
            _targets,
        ),
        ("port ports", "", "remove it: an instance gets a free port, and a target has its port in its URL"),
        ("replicas count scale processes workers num_instances nb_instances instance", "instances", _count),
        (
            "command cmd exec start script entrypoint program",
            "run",
            _write('run: [python, serve.py, --port, "{port}"]'),
        ),
        ("environment environ variables", "env", _write("env: {NAME: value}")),
        ("workdir working_dir working_directory dir directory chdir folder root", "cwd", _write("cwd: FOLDER")),
        ("graceful_timeout stop_timeout", "grace", _write("grace: 30s")),
        ("post_fork post_worker_init when_ready on_starting", "on_start", _write("on_start: module:function")),
        ("module wsgi asgi application callable", "app", _write("app: users:app (module:attribute)")),
        (
            "health_check healthcheck health_checks healthz health_path check probe readiness liveness",
            "health",
            _health,
        ),
        (
            "lb lb_policy load_balancing load_balance balancing policy algorithm strategy balancer method",
            "balance",
            _balance,
        ),
        ("sticky session_affinity affinity", "balance", _write("balance: {sticky: {cookie: NAME, secret: …}}")),
        (
            "timeout read_timeout proxy_read_timeout",
            "",
            _of_route("timeout", "3s; to connect: connect_timeout"),
        ),
        ("retry", "retries", "attempts of a route limits the retries of a request, retries of a service their share"),
        ("circuit_breaker circuitbreaker", "breaker", _write("breaker: {threshold: 50%}")),
        ("outlier_detection passive_health max_fails", "eject", _write("eject: {failures: 5}")),
        ("max_conns maxconn connections", "max_connections", _write("max_connections: 256")),
        ("ssl https", "tls", "write https:// in the URL of the target; tls has the authorities and certificates"),
        ("path paths prefix route routes", "", "paths belong to routes: {path: /user/{user_id}, service: NAME}"),
        ("cache", "", _of_route("cache", "{ttl: 30s}")),
    ),
    "Route": _table(
        ("url uri location pattern endpoint paths", "path", _path),
        ("prefix path_prefix", "path", _prefix),
        (
            "upstream upstreams backend backends target targets proxy_pass to destination cluster forward_to"
            " forward handler servers server reverse_proxy services",
            "service",
            _service,
        ),
        (
            "strip_prefix strip_path strip_uri strip rewrite_target path_rewrite replace_path remove_prefix"
            " prefix_rewrite",
            "rewrite",
            _strip,
        ),
        ("hosts domain domains server_name hostname vhost", "host", _host),
        ("method verb verbs http_methods http_method", "methods", _methods),
        ("rate ratelimit rate_limits rate_limiting limit limits throttle limit_req", "rate_limit", _rate),
        ("ttl caching cached proxy_cache expires", "cache", _cache),
        (
            "headers set_headers proxy_set_header add_header",
            "request_headers",
            _write("request_headers: {set: {Name: value}} or response_headers"),
        ),
        (
            "jwt api_key apikey key_auth authentication basic_auth",
            "auth",
            _write("auth: [key], or basic, jwt, mtls, oidc, session"),
        ),
        ("retry retries num_retries", "attempts", _attempts),
        ("gzip compression", "compress", _write("compress: true")),
        (
            "whitelist blacklist allow deny allowlist denylist ip_allow ip_restriction",
            "clients",
            _write("clients: {allow: [10.0.0.0/8]}"),
        ),
        ("max_body max_body_size client_max_body_size body_size body_limit", "body", _write("body: 10MiB")),
        ("websocket websockets upgrade", "", "remove it: WebSockets need no key"),
        ("order weight", "", "remove it: the most specific route wins, in any order; priority decides where none is"),
        ("ssl tls", "", "tls is a key of the file: tls: {certificate: cert.pem, key: key.pem}"),
        ("root alias static_files file_server", "static", _write("static: FOLDER")),
        ("return redirect_to redirect_url rewrite_to", "redirect", _write("redirect: /new/{name}")),
        ("name id", "", "remove it: logs and metrics name a route by its path"),
        ("app run instances", "", "it is a key of a service; the route names that service: service: NAME"),
    ),
    "Target": _table(
        ("address host uri server port", "url", _url),
    ),
    "Part": _table(
        ("url uri", "path", _path),
        ("upstream backend target", "service", _service),
        ("default fallback", "on_error", _write("on_error: null, or on_error: {value: …}")),
    ),
    "Health": _table(
        ("url uri endpoint", "path", _path),
        ("period", "interval", _write("interval: 3s")),
        ("retries threshold unhealthy_threshold", "fall", _write("fall: 3")),
        ("healthy_threshold", "rise", _write("rise: 1")),
    ),
}

_POLICIES = {
    "leastconn": "least_inflight",
    "leastconnection": "least_inflight",
    "leastconnections": "least_inflight",
    "leastrequest": "least_inflight",
    "leastrequests": "least_inflight",
    "roundrobin": "round_robin",
    "rr": "round_robin",
    "wrr": "weighted",
    "weightedroundrobin": "weighted",
    "random": "p2c",
    "randomtwo": "p2c",
    "powerof2": "p2c",
    "poweroftwochoices": "p2c",
    "peakewma": "ewma",
    "leasttime": "ewma",
    "iphash": "{policy: hash, by: address}",
    "source": "{policy: hash, by: address}",
    "consistenthash": "{policy: hash, by: address}",
    "consistenthashing": "{policy: hash, by: address}",
    "ringhash": "{policy: hash, by: address}",
    "maglev": "{policy: hash, by: address}",
    "urihash": "{policy: hash, by: param:NAME}",
}
