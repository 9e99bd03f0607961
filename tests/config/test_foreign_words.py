"""Keys and policies of other gateways: the message has what to write, and that is valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from passerelle.config import foreign_words, inspect_text
from passerelle.config.models.config import Config, Health, Part, Route, Service, Target

SERVICE = "services:\n  user: {{{}}}\nroutes: [{{path: /a, service: user}}]\n"
ROUTE = "services:\n  user: {{app: 'a:b'}}\nroutes:\n  - {{{}}}\n"
FILE = "{}\nservices:\n  user: {{app: 'a:b'}}\nroutes: [{{path: /a, service: user}}]\n"

CASES = [
    (SERVICE, "url: http://127.0.0.1:5000", 'write targets: ["http://127.0.0.1:5000"]'),
    (SERVICE, "upstream: localhost:5000", 'write targets: ["http://localhost:5000"]'),
    (SERVICE, "upstreams: ['a:1', 'https://b:2']", 'write targets: ["http://a:1", "https://b:2"]'),
    (
        SERVICE,
        "backend: http://a:1/api",
        'write targets: ["http://a:1"]; a path is set with rewrite of a route',
    ),
    (SERVICE, "servers: [{host: a}]", 'write targets: ["http://127.0.0.1:5000"]'),
    (SERVICE, "proxy_pass: 'http://a:1/'", 'write targets: ["http://a:1"]'),
    (SERVICE, "hosts: ['a:1']", 'write targets: ["http://a:1"]'),
    (SERVICE, "app: 'a:b', replicas: 3", "write instances: 3"),
    (
        SERVICE,
        "app: 'a:b', port: 5000",
        "remove it: an instance gets a free port, and a target has its port in its URL",
    ),
    (SERVICE, "app: 'a:b', healthcheck: /ok", "write health: {path: /ok}"),
    (SERVICE, "app: 'a:b', load-balancing: leastconn", "write balance: least_inflight"),
    (SERVICE, "cmd: serve", 'write run: [python, serve.py, --port, "{port}"]'),
    (ROUTE, "url: '/user/{id}', service: user", "write path: /user/{id}"),
    (ROUTE, "location: /a, proxy_pass: 'http://a:1'", "write path: /a"),
    (ROUTE, "path: /a, upstream: user", "write service: user"),
    (
        ROUTE,
        "path: /a, proxy_pass: 'http://a:1'",
        'write service: NAME, and under services NAME: {targets: ["http://a:1"]}',
    ),
    (ROUTE, "prefix: /user/, service: user", 'write path: "/user/{rest*}"'),
    (
        ROUTE,
        "path: '/user/{rest*}', service: user, strip_prefix: true",
        'write path: "/user/{rest*}" and rewrite: "/{rest}"',
    ),
    (
        ROUTE,
        "path: /a, service: user, stripPath: /user",
        'write path: "/user/{rest*}" and rewrite: "/{rest}"',
    ),
    (
        ROUTE,
        "path: /a, service: user, hosts: [a.example, b.example]",
        "write host: a.example; a route has one host, so write one route for each",
    ),
    (ROUTE, "path: /a, service: user, method: post", "write methods: [POST]"),
    (ROUTE, "path: /a, service: user, rate: 5/s", "write rate_limit: {rate: 5/s}"),
    (ROUTE, "path: /a, service: user, ttl: 5s", "write cache: {ttl: 5s}"),
    (ROUTE, "path: /a, service: user, retries: 2", "write attempts: 3, which includes the first one"),
    (ROUTE, "path: /a, service: user, websocket: true", "remove it: WebSockets need no key"),
    (
        ROUTE,
        "path: /a, service: user, ssl: true",
        "tls is a key of the file: tls: {certificate: cert.pem, key: key.pem}",
    ),
    (FILE, "port: 8000", "write listen: 127.0.0.1:8000 (0.0.0.0 for all interfaces)"),
    (FILE, "ssl: {cert: a}", "write tls: {certificate: cert.pem, key: key.pem}"),
    (FILE, "rate: 5/s", "rate_limit is a key of a route: rate_limit: {rate: 10/s}"),
    (FILE, "logging: true", "write access_log: stdout, off or a path"),
]


@pytest.mark.parametrize(("around", "line", "message"), CASES, ids=[line for _, line, _ in CASES])
def test_a_key_of_another_gateway_has_its_replacement(around: str, line: str, message: str) -> None:
    errors = [problem.message for problem in inspect_text(around.format(line)).errors]
    assert f"unknown key; {message}" in errors
    # One mistake is one line.
    assert len(errors) == line.count("proxy_pass: 'http://a:1'") * line.count("location") + 1


@pytest.mark.parametrize("line", [line for around, line, _ in CASES if around == SERVICE])
def test_a_replacement_of_a_service_is_valid(line: str) -> None:
    problem = inspect_text(SERVICE.format(line)).errors[0]
    written = re.match(r"unknown key; write ([^;]+)", problem.message)
    if written is not None:
        rest = "app: 'a:b', " if line.startswith("app") else ""
        text = f"services:\n  user: {{{rest}{written[1]}}}\nroutes: [{{path: /a, service: user}}]\n"
        report = inspect_text(text)
        assert [error for error in report.errors if "unknown" in error.message or "allowed" in error.message] == []


def test_the_replacement_of_strip_prefix_is_valid() -> None:
    problem = inspect_text(ROUTE.format("path: /user, service: user, strip_prefix: /user")).errors[0]
    written = problem.message.removeprefix("unknown key; write ").replace(" and ", ", ")
    assert inspect_text(ROUTE.format(f"{written}, service: user")).errors == ()


def test_a_replacement_names_a_key_that_exists() -> None:
    models = {model.__name__: model for model in (Config, Service, Route, Target, Part, Health)}
    assert foreign_words._TABLES.keys() == models.keys()
    for name, table in foreign_words._TABLES.items():
        for word, (key, _) in table.items():
            assert word not in models[name].model_fields, (name, word)
            assert not key or key in models[name].model_fields, (name, word)


def test_a_replacement_never_repeats_what_may_be_a_secret() -> None:
    text = ROUTE.format("path: /a, service: user, proxy_pass: 'http://user:pass@a:1/?key=hidden'")
    assert "pass@" not in str(inspect_text(text).errors) and "hidden" not in str(inspect_text(text).errors)


def test_a_replacement_of_a_long_value_is_short() -> None:
    for value in ("/" + "a" * 10_000, "[" + ", ".join(f"'a:{port}'" for port in range(5000)) + "]"):
        (error,) = inspect_text(SERVICE.format(f"upstreams: {value}")).errors
        assert len(error.message) < 200


def test_the_content_of_a_secret_file_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("swordfish")
    report = inspect_text(ROUTE.format("path: /a, upstream: '${file:word}'"), folder=tmp_path)
    assert report.errors and "swordfish" not in str(report.errors)


@pytest.mark.parametrize(
    ("word", "policy"),
    [
        ("least_conn", "least_inflight"),
        ("leastconn", "least_inflight"),
        ("LEAST_REQUEST", "least_inflight"),
        ("roundrobin", "round_robin"),
        ("ip_hash", "{policy: hash, by: address}"),
    ],
)
def test_a_policy_of_another_product_has_its_replacement(word: str, policy: str) -> None:
    errors = inspect_text(SERVICE.format(f"app: 'a:b', balance: {word}")).errors
    assert [error.message.rpartition("; ")[2] for error in errors] == [f"write {policy}"]
    assert inspect_text(SERVICE.format(f"app: 'a:b', balance: {policy}")).errors == ()
    assert yaml.safe_load(policy)
