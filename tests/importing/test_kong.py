"""What is imported from declarative files of Kong, and what is listed because it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from passerelle.config import inspect_text
from passerelle.importing.draft import ImportProblem
from passerelle.importing.kong import import_kong


def imported(folder: Path, text: str) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration, and what was not carried over, each as `line: what: why`."""
    file = folder / "kong.yaml"
    file.write_text(text)
    made, skipped = import_kong(str(file))
    report = inspect_text(made, environ={}, elsewhere=True)
    assert report.config is not None, report.errors
    found: dict[str, Any] = yaml.safe_load(made)
    return found, [f"{each.line}: {each.what}: {each.why}" for each in skipped]


FILE = """_format_version: "3.0"
services:
  - name: s
    url: http://127.0.0.1:5000{path}
    routes:
      - {{name: r, paths: [/a]{route}}}
    plugins: {plugins}
"""


def with_plugin(
    folder: Path, plugins: str, route: str = ", strip_path: false"
) -> tuple[list[dict[str, Any]], list[str]]:
    found, skipped = imported(folder, FILE.format(plugins=plugins, route=route, path=""))
    return found["routes"], skipped


PATHS = [
    ("", "", [("/a", "/"), ("/a/{rest*}", "/{rest}")]),
    ("/v1", "", [("/a", "/v1"), ("/a/{rest*}", "/v1/{rest}")]),
    ("", ", strip_path: false", [("/a/{rest*}", None)]),
    ("/v1", ", strip_path: false", [("/a", "/v1/a"), ("/a/{rest*}", "/v1/a/{rest}")]),
]


@pytest.mark.parametrize(("path", "route", "routes"), PATHS)
def test_paths_are_stripped_and_prefixed(
    tmp_path: Path, path: str, route: str, routes: list[tuple[str, str | None]]
) -> None:
    found, skipped = imported(tmp_path, FILE.format(plugins="[]", route=route, path=path))
    assert [(each["path"], each.get("rewrite")) for each in found["routes"]] == routes
    assert found["services"]["s"] == {"targets": ["http://127.0.0.1:5000"], "host": "upstream"}
    assert skipped == []


PLUGINS: list[tuple[str, dict[str, Any]]] = [
    ("[{name: key-auth, config: {key_names: [X-Key]}}]", {"auth": ["key"]}),
    (
        "[{name: rate-limiting, config: {minute: 5, limit_by: ip, policy: local}}]",
        {"rate_limit": {"rate": "5/m", "by": "address"}},
    ),
    (
        "[{name: rate-limiting, config: {second: 1, hour: 9, limit_by: header, header_name: X-T}}]",
        {"rate_limit": [{"rate": "1/s", "by": "header:X-T"}, {"rate": "9/h", "by": "header:X-T"}]},
    ),
    ("[{name: proxy-cache, config: {strategy: memory, cache_ttl: 30}}]", {"cache": {"ttl": "30s"}}),
    ("[{name: ip-restriction, config: {deny: [10.0.0.1]}}]", {"clients": {"deny": ["10.0.0.1"]}}),
    ("[{name: request-size-limiting, config: {allowed_payload_size: 2}}]", {"body": "2MiB"}),
    (
        '[{name: request-transformer, config: {add: {headers: ["X-A:1"]}, remove: {headers: [X-B]}}}]',
        {"request_headers": {"set": {"X-A": "1"}, "remove": ["X-B"]}},
    ),
    (
        "[{name: cors, config: {origins: ['https://a.example'], max_age: 60}}]",
        {"cors": {"origins": ["https://a.example"], "max_age": "1m"}},
    ),
    ("[{name: key-auth, enabled: false}]", {}),
]


@pytest.mark.parametrize(("plugins", "keys"), PLUGINS)
def test_a_plugin_becomes_keys_of_the_route(tmp_path: Path, plugins: str, keys: dict[str, Any]) -> None:
    (route,), skipped = with_plugin(tmp_path, plugins)
    assert (route, skipped) == ({"path": "/a/{rest*}", "service": "s", **keys}, [])


def test_a_termination_is_a_response(tmp_path: Path) -> None:
    (route,), skipped = with_plugin(
        tmp_path, "[{name: request-termination, config: {status_code: 410, message: gone}}]"
    )
    assert (route, skipped) == ({"path": "/a/{rest*}", "respond": {"status": 410, "body": "gone"}}, [])


def test_headers_of_a_route_become_conditions(tmp_path: Path) -> None:
    text = """_format_version: "3.0"
services:
  - name: s
    url: http://10.0.0.1
    routes:
      - {paths: [/a/], headers: {X-A: [b, "c.d"], X-B: ["1"]}}
      - {paths: [/b/], headers: {X-A: [b]}, plugins: [{name: acl, config: {allow: [x]}}]}
      - {paths: [/c/], headers: {Host: [b]}}
"""
    found, skipped = imported(tmp_path, text)
    conditions = {"headers": {"X-A": {"pattern": r"(?i)b|c\.d"}, "X-B": {"pattern": "(?i)1"}}}
    first, second = found["routes"]
    assert first["match"] == conditions
    assert second == {
        "path": "/b/{rest*}",
        "match": {"headers": {"X-A": {"pattern": "(?i)b"}}},
        "respond": 501,
    }
    assert any("routes: passerelle refuses it: match.headers.Host" in each for each in skipped), skipped


@pytest.mark.parametrize("name", ["acl", "jwt", "openid-connect", "basic-auth", "own-plugin", "ip-restriction"])
def test_a_route_whose_access_rules_have_no_counterpart_is_closed(tmp_path: Path, name: str) -> None:
    (route,), skipped = with_plugin(tmp_path, f"[{{name: {name}, config: {{allow: [secret]}}}}]")
    assert route == {"path": "/a/{rest*}", "respond": 501}
    assert skipped[0].startswith(f"7: plugin {name}: ")
    assert "secret" not in skipped[0]


def test_what_has_no_counterpart_is_listed_with_its_line(tmp_path: Path) -> None:
    text = """_format_version: "3.0"
upstreams:
  - name: u
    algorithm: consistent-hashing
    targets: [{target: "10.0.0.1:80", weight: 0}, {target: "10.0.0.2:80", weight: 5}, {target: 10.0.0.3, weight: 9}]
services:
  - name: s
    host: u
    retries: 2
    read_timeout: 5000
    connect_timeout: 500
    write_timeout: 1
    routes:
      - {name: a, paths: [/a, "~/b/.*"], methods: [GET], hosts: [a.example], preserve_host: true, strip_path: false}
      - {name: h, paths: [/h], headers: {X-A: ["~*^b"]}}
routes:
  - {name: c, paths: [/c/], service: {name: s}, strip_path: false}
  - {name: d, paths: [/d]}
  - {name: e, paths: [/e], service: {name: none}}
plugins:
  - {name: prometheus}
  - {name: rate-limiting, route: a, config: {minute: 7, limit_by: ip}}
  - {name: key-auth, consumer: someone}
consumers: [{username: x, keyauth_credentials: [{key: secret}]}]
"""
    found, skipped = imported(tmp_path, text)
    common = {"timeout": "5s", "attempts": 3}
    limit = {"rate_limit": {"rate": "7/m", "by": "address"}}
    assert found["routes"] == [
        {"path": "/a/{rest*}", "host": "a.example", "methods": ["GET"], "service": "s", **common, **limit},
        {"path": "/c/{rest*}", "service": "s-2", **common},
    ]
    targets = [{"url": "http://10.0.0.2:80", "weight": 5}, {"url": "http://10.0.0.3:8000", "weight": 9}]
    plain = {"balance": "weighted", "targets": targets, "connect_timeout": "500ms"}
    assert found["services"] == {"s": plain, "s-2": {**plain, "host": "upstream"}}
    lines = [": ".join(each.split(": ")[:2]) for each in skipped]
    assert {"12: services[0].write_timeout", "14: routes a ~/b/.*", "15: routes h headers"} <= set(lines)
    assert {"18: routes", "19: routes", "21: plugin prometheus", "24: consumers"} <= set(lines)
    assert any(each.startswith("23: plugins[2]") for each in lines), lines
    assert "secret" not in "".join(skipped)


@pytest.mark.parametrize(
    ("text", "reason"), [("", "empty"), ("a: 1", "it has no _format_version"), ("- 1", "no mapping")]
)
def test_odd_files_are_reported_on_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "kong.yaml").write_text(text)
    with pytest.raises(ImportProblem, match=reason):
        import_kong(str(tmp_path / "kong.yaml"))


def test_a_file_with_odd_types_is_read(tmp_path: Path) -> None:
    services = "[1, {name: [], url: 5, routes: [{paths: 3}, x], plugins: {}}, {host: '::1', port: x, routes: [{}]}]"
    text = f"services: {services}\nplugins: 1"
    found, _ = imported(tmp_path, text)
    assert found["routes"]


def test_origins_have_no_default_ports(tmp_path: Path) -> None:
    origins = "[http://a:80, http://a, https://b:443, http://c:443]"
    routes, skipped = with_plugin(tmp_path, f"[{{name: cors, config: {{origins: {origins}}}}}]")
    assert (routes[0]["cors"]["origins"], skipped) == (["http://a", "https://b", "http://c:443"], [])


def test_cors_has_no_methods_that_the_route_does_not_accept(tmp_path: Path) -> None:
    plugins = "[{name: cors, config: {methods: [GET, HEAD, PUT, OPTIONS]}}]"
    routes, skipped = with_plugin(tmp_path, plugins, ", strip_path: false, methods: [GET, POST]")
    assert (routes[0]["cors"], skipped) == ({"origins": ["*"], "methods": ["GET", "HEAD"]}, [])


def test_probes_have_thresholds(tmp_path: Path) -> None:
    text = """_format_version: "3.0"
upstreams:
  - name: u
    targets: [{target: "127.0.0.1:1"}]
    healthchecks:
      active:
        {http_path: /h, timeout: 2, healthy: {interval: 9, successes: 3}, unhealthy: {http_failures: 4, timeouts: 2}}
services: [{name: s, host: u, routes: [{name: r, paths: [/a], strip_path: false}]}]
"""
    found, skipped = imported(tmp_path, text)
    assert skipped == []
    assert found["services"]["s"]["health"] == {"path": "/h", "interval": "9s", "timeout": "2s", "rise": 3, "fall": 2}


def test_values_with_variables_and_logs_are_listed_and_close_no_route(tmp_path: Path) -> None:
    transform = '{name: request-transformer, config: {add: {headers: ["X-T: $(date)", "X-U: 1"]}}}'
    routes, skipped = with_plugin(tmp_path, f"[{transform}, {{name: loggly, config: {{key: k}}}}]")
    assert routes[0]["request_headers"] == {"set": {"X-U": "1"}}
    assert [each.partition(": ")[2] for each in skipped] == [
        "request_headers X-T: its variables have no counterpart",
        "plugin loggly: write access_log",
    ]
