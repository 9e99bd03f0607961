"""Valid files: their values, variables and secrets, warnings, and limits."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from pydantic import ValidationError

from passerelle.config import (
    Address,
    Config,
    ConfigError,
    LoadReport,
    Route,
    Service,
    Target,
    inspect_bytes,
    inspect_text,
    load,
    load_text,
    rules,
    services_of,
)
from passerelle.config.models.balance import Balance

SMALL = """\
services:
  user:
    targets: ["http://127.0.0.1:5001"]
routes:
  - path: /user/{id}
    service: user
"""

FULL = """\
listen: 0.0.0.0:80
admin: off
workers: 4
access_log: logs/access.log
trusted_proxies: [10.0.0.0/8, "::1"]
limits: {head: 16KiB, headers: 50, body: unlimited, head_timeout: 5s, idle_timeout: 1m, body_timeout: 1.5s,
         connections: 20}
services:
  user:
    app: users.app:app
    interface: asgi
    instances: 5
    env: {A: 1.10, B: yes, C: "x", D: true, E: 010, F: null, G: ~, H: }
    cwd: users
    health: {path: /healthz, timeout: 250ms}
    balance: least_inflight
    connect_timeout: 500ms
    max_connections: 7
    max_waiting: 0
    keepalive: 1h
  words:
    run: [python, serve.py, --port, "{port}", --level, 3, --ratio, 1.50]
  line:
    run: python 'my serve.py' --port={port}
  product:
    targets: ["http://127.0.0.1:5006", {url: "http://[::1]:5007/", weight: 3}, http://products]
  far:
    zones: {a: {targets: ["http://a:1"], weight: 3}, b: {targets: [http://b:1, http://c:1]}}
routes:
  - path: /user/{user_id}
    host: "*.Example.com"
    methods: [GET, PUT]
    service: user
    rewrite: /internal/{user_id}
    timeout: 2m
    body: 1MB
    attempts: 1
  - path: /api/{user_id}/{product_id}
    compose:
      user: {service: user, path: "/user/{user_id}", timeout: 5s, pass_status: [404]}
      product: {service: product, path: "/product/{product_id}", on_error: null}
      extra: {service: far, path: /extra, on_error: {value: {a: [1, 2.5, null, "x", off]}}}
  - {path: "/{rest*}", service: line}
  - {path: /words, service: words}
"""


def test_a_minimal_file_has_every_default() -> None:
    config = load_text(SMALL)
    assert config.address == Address(host="127.0.0.1", port=8080)
    assert config.admin is not None and config.admin.listen == Address(host="127.0.0.1", port=9900)
    assert (config.workers, config.access_log, config.trusted_proxies) == (1, "stdout", ())
    limits = config.limits
    assert (limits.head, limits.headers, limits.body, limits.connections) == (32768, 100, 10485760, 10000)
    assert (limits.head_timeout, limits.idle_timeout, limits.body_timeout) == (10.0, 75.0, 30.0)
    service = config.services["user"]
    assert service.targets == (Target(url=Address(host="127.0.0.1", port=5001), weight=1),)
    assert (service.source, service.is_local, service.instances.max, service.env) == ("targets", False, 1, {})
    assert (service.balance.policy, service.connect_timeout, service.keepalive) == ("p2c", 2.0, 4.0)
    assert (service.max_connections, service.max_waiting) == (256, 256)
    route = config.routes[0]
    assert (route.timeout, route.attempts, route.body, route.accepted) == (30.0, 2, None, None)
    assert config.body_limit(route) == 10485760


def test_a_full_file_has_every_value(tmp_path: Path) -> None:
    for folder in ("logs", "users"):
        (tmp_path / folder).mkdir()
    config = load_text(FULL, folder=tmp_path)
    assert (config.address.host, config.address.port, config.admin, config.workers) == ("0.0.0.0", 80, None, 4)
    assert config.access_log == tmp_path / "logs/access.log"
    assert config.trusted_proxies == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))
    limits = config.limits
    assert (limits.head, limits.headers, limits.body, limits.connections) == (16384, 50, "unlimited", 20)
    assert (limits.head_timeout, limits.idle_timeout, limits.body_timeout) == (5.0, 60.0, 1.5)

    user = config.services["user"]
    assert (user.app, user.interface, user.instances.max, user.source, user.is_local) == (
        *("users.app:app", "asgi", 5, "app", True),
    )
    # The environment is text, exactly as written.
    texts = {"A": "1.10", "B": "yes", "C": "x", "D": "true", "E": "010", "F": "null", "G": "~", "H": ""}
    assert user.env == texts
    assert user.cwd == tmp_path / "users"
    assert user.health is not None
    assert (user.health.path, user.health.timeout) == ("/healthz", 0.25)
    assert (user.balance.policy, user.connect_timeout, user.keepalive) == ("least_inflight", 0.5, 3600.0)
    assert (user.max_connections, user.max_waiting) == (7, 0)
    assert config.services["words"].run == ("python", "serve.py", "--port", "{port}", "--level", "3", "--ratio", "1.50")
    assert config.services["line"].run == ("python", "my serve.py", "--port={port}")
    targets = config.services["product"].targets
    assert targets is not None
    assert [(str(target.url), target.weight) for target in targets] == [
        *(("127.0.0.1:5006", 1), ("[::1]:5007", 3), ("products:80", 1)),
    ]
    zones = config.services["far"].zones
    assert zones is not None
    assert [(name, len(zone.targets), zone.weight) for name, zone in zones.items()] == [("a", 1, 3), ("b", 2, 1)]

    one, api, rest, words = config.routes
    assert (one.host, one.methods, one.accepted) == (("*.example.com",), ("GET", "PUT"), frozenset({b"GET", b"PUT"}))
    assert (one.rewrite, one.timeout, one.body, one.attempts) == ("/internal/{user_id}", 120.0, 1_000_000, 1)
    assert one.label == "GET,PUT *.example.com/user/{user_id}"
    assert config.body_limit(one) == 1_000_000
    assert config.body_limit(rest) is None
    assert api.accepted == frozenset({b"GET"})
    assert api.label == "/api/{user_id}/{product_id}"
    assert api.compose is not None
    user_part, product, extra = api.compose.values()
    assert (user_part.required, user_part.timeout, user_part.pass_status) == (True, 5.0, (404,))
    assert (product.required, product.fallback) == (False, None)
    assert (extra.required, extra.fallback) == (False, {"a": [1, 2.5, None, "x", "off"]})
    assert services_of(api) == ["user", "product", "far"]
    assert services_of(words) == ["words"]
    rule = rules(config)[0]
    assert (rule.host, rule.pattern, rule.value) == (b"*.example.com", one.path, one)


def test_a_configuration_does_not_change() -> None:
    config = load_text(SMALL)
    with pytest.raises(ValidationError, match="frozen"):
        config.workers = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.services["user"].balance = Balance()  # type: ignore[misc]


def test_models_built_in_python_are_checked() -> None:
    target = Target.model_validate("http://127.0.0.1:1")
    with pytest.raises(ValidationError, match="a service needs one of app, run, targets, zones"):
        Service()
    with pytest.raises(ValidationError, match="instances: found together with targets"):
        Service(targets=(target,), instances=2)
    with pytest.raises(ValidationError, match="a route needs one of service, compose"):
        Route(path="/a")
    made = Config(services={"a": Service(targets=(target,), app=None)}, routes=(Route(path="/a", service="a"),))
    assert made.services["a"].source == "targets"


# ---- variables and secrets


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${HOST}:80", "h:80"),
        ('"${HOST}:${PORT}"', "h:81"),
        ("'${HOST}:${PORT}'", "h:81"),
        ("${NOPE:-d}:80", "d:80"),
        ("${EMPTY:-d}:80", "d:80"),
        ("${HOST:-d}:80", "h:80"),
        ("a${EMPTY}:80", "a:80"),
        ("'[::${PORT:-1}]:80'", "[::81]:80"),
    ],
)
def test_variables_are_substituted(written: str, value: str) -> None:
    environ = {"HOST": "h", "PORT": "81", "EMPTY": ""}
    assert str(load_text(f"listen: {written}\n{SMALL}", environ=environ).address) == value


def test_dollars() -> None:
    text = SMALL.replace(
        'targets: ["http://127.0.0.1:5001"]', "app: a:b\n    env: {A: $$x, B: $x, C: $, D: '$${X}', E: $$$$}"
    )
    assert load_text(text, environ={}).services["user"].env == {"A": "$x", "B": "$x", "C": "$", "D": "${X}", "E": "$$"}


def test_a_number_may_come_from_a_variable() -> None:
    assert load_text(f"workers: ${{W:-3}}\n{SMALL}", environ={}).workers == 3
    assert load_text(f"workers: ${{W:-3}}\n{SMALL}", environ={"W": "5"}).workers == 5
    assert load_text(f"admin: ${{ADMIN}}\n{SMALL}", environ={"ADMIN": "off"}).admin is None


def test_a_variable_cannot_add_structure() -> None:
    report = inspect_text(f"workers: ${{W}}\n{SMALL}", environ={"W": "1\nlisten: 0.0.0.0:1"})
    assert [problem.key for problem in report.errors] == ["workers"]
    text = SMALL.replace("service: user", "service: ${S}")
    assert "found '[user]'" in inspect_text(text, environ={"S": "[user]"}).errors[0].message


SECRET = SMALL.replace('targets: ["http://127.0.0.1:5001"]', "app: a:b\n    env: {KEY: 'k:${file:key}'}")


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", "s3cret\r\n"])
def test_secrets_are_read_relative_to_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_bytes(content.encode())
    (tmp_path / "gateway.yaml").write_text(SECRET)
    assert load(tmp_path / "gateway.yaml").services["user"].env == {"KEY": "k:s3cret"}


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret")
    text = """\
listen: ${file:key}
services:
  a: {targets: ["${file:key}"]}
  b: {run: [x, "${file:key}"]}
  c: {app: "${file:key}", colour: red}
routes:
  - {path: /a, service: "${file:key}"}
  - {path: "/{b}", service: a, rewrite: "/{${file:key}}"}
  - {path: /c, compose: {u: {service: b, path: "/{${file:key}}"}}}
"""
    report = inspect_text(text, folder=tmp_path)
    assert [problem.key for problem in report.errors] == [
        *("listen", "services.a.targets[0]", "services.b.run", "services.c.app", "services.c.colour"),
        *("routes[0].service", "routes[1].rewrite", "routes[2].compose.u.path"),
    ]
    assert str(report.errors[0]) == (
        "gateway.yaml:1:9: listen: the content of the secret file is not allowed here (it is not shown)"
    )
    assert "s3cret" not in "".join(map(str, report.errors))


@pytest.mark.parametrize(
    ("content", "message"), [(b"x" * 65537, "larger than 65536 bytes"), (b"\xff", "is not UTF-8 text")]
)
def test_secret_files_are_limited(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "key").write_bytes(content)
    (problem,) = inspect_text(SECRET, folder=tmp_path).errors
    assert (problem.line, problem.column, problem.key) == (4, 19, "services.user.env.KEY")
    assert message in problem.message


# ---- warnings


def test_a_configuration_with_warnings_is_valid() -> None:
    text = """\
trusted_proxies: [0.0.0.0/0]
services:
  user: {app: a:b}
  old: {app: c:d}
routes:
  - path: /x
    timeout: 2s
    compose: {u: {service: user, path: /u, timeout: 3s}}
"""
    report = inspect_text(text)
    assert report.config is not None
    assert report.errors == ()
    assert [str(problem) for problem in report.warnings] == [
        "gateway.yaml:4:3: services.old: no route leads to this service",
        "gateway.yaml:1:19: trusted_proxies[0]: 0.0.0.0/0 trusts the X-Forwarded-* fields of every client",
        "gateway.yaml:8:53: routes[0].compose.u.timeout: longer than the route's timeout of 2s, which ends it first",
    ]


def test_warnings_about_logins() -> None:
    text = """
sessions: {store: s.db}
services:
  user: {targets: ['http://127.0.0.1:5001']}
  other: {targets: ['http://127.0.0.1:5002']}
routes:
  - {path: /in, login: {service: user, path: /internal/verify}}
  - {path: '/internal/{rest*}', service: user, host: a.example}
  - {path: '/{a}/verify', service: user, rewrite: '/x/{a}'}
  - {path: '/other/{rest*}', service: other}
"""
    around = "the route a.example/internal/{rest*} reaches the same path, so passwords can be guessed without a limit"
    assert [(w.key, w.message) for w in inspect_text(text).warnings] == [
        ("routes[0].login.path", around),
        ("sessions", "no route accepts these credentials"),
    ]
    text = text.replace("  - {path: /in, login: {service: user, path: /internal/verify}}\n", "")
    assert ("sessions", "no route has login, so no client can get a session") in [
        (w.key, w.message) for w in inspect_text(text).warnings
    ]


def test_warnings_about_hedges_without_a_second_instance() -> None:
    text = """
services:
  one: {targets: ['http://127.0.0.1:5001']}
  two: {targets: ['http://127.0.0.1:5001', 'http://127.0.0.1:5002']}
  app: {app: a:b}
  apps: {app: a:b, instances: 2}
  found: {targets: {file: targets.yaml}}
routes:
  - {path: /a, service: one, hedge: {after: p95}}
  - {path: /b, compose: {a: {service: two, path: /a}, b: {service: app, path: /b}}, hedge: {after: 1s}}
  - {path: /c, service: apps, hedge: {after: 1s}}
  - {path: /d, service: found, hedge: {after: 1s}}
"""
    assert [str(problem) for problem in inspect_text(text).warnings] == [
        "gateway.yaml:7:27: services.found.targets.file: no such file; it provides no targets until it exists",
        "gateway.yaml:9:30: routes[0].hedge: 'one' has one instance; a hedge needs a second one",
        "gateway.yaml:10:85: routes[1].hedge: 'app' has one instance; a hedge needs a second one",
    ]


def test_warnings_about_origins_without_https() -> None:
    text = """
services:
  u: {targets: ['http://127.0.0.1:5001']}
routes:
  - {path: /a, service: u, cors: {credentials: true,
      origins: ['http://localhost:3000', 'http://a.example', 'https://b.example']}}
  - {path: /b, service: u, cors: {origins: 'http://a.example'}}
"""
    assert [(w.key, w.message) for w in inspect_text(text).warnings] == [
        (
            "routes[0].cors.origins[1]",
            "http://a.example with credentials: anyone on the network path to it can act as its visitors",
        )
    ]


def test_warnings_about_signed_tokens() -> None:
    text = """
identity_token: {secret: 0123456789abcdef0123456789abcdef, header: X-Consumer-Email}
jwt: {algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef, forward: {email: x-consumer-email}}
services:
  u: {targets: ['http://127.0.0.1:5001']}
routes:
  - {path: /a, service: u, auth: [jwt]}
"""
    assert [(w.key, w.message) for w in inspect_text(text).warnings] == [
        ("identity_token", "no route has identity_token: true"),
        ("identity_token.header", "jwt also forwards a claim in X-Consumer-Email"),
    ]


def test_errors_come_without_warnings() -> None:
    report = inspect_text(SMALL.replace("service: user", "service: usr"))
    assert len(report.errors) == 1
    assert report.warnings == ()


# ---- the file itself


def test_errors_show_the_file_name_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("services: 1\n")
    with pytest.raises(ConfigError) as failed:
        load("my.yaml")
    assert [problem.file for problem in failed.value.problems] == ["my.yaml", "my.yaml"]
    assert str(failed.value).splitlines()[0] == ("my.yaml:1:1: routes: missing; it is required (the route table)")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nope.yaml")


@pytest.mark.parametrize("data", ["\ufeff" + SMALL, SMALL.replace("\n", "\r\n"), "--- \n" + SMALL, SMALL + "...\n"])
def test_other_ways_to_write_the_same_file(data: str) -> None:
    assert inspect_bytes(data.encode()).config == load_text(SMALL)


def test_json_is_yaml() -> None:
    config = load_text(
        '{"services": {"user": {"targets": ["http://127.0.0.1:5001"]}},'
        ' "routes": [{"path": "/user/{id}", "service": "user"}]}'
    )
    assert config == load_text(SMALL)


def test_aliases_are_expanded() -> None:
    config = load_text(
        "services:\n  a: &a {app: a:b}\n  b: *a\nroutes: [{path: /a, service: a}, {path: /b, service: b}]\n"
    )
    assert config.services["a"] == config.services["b"]


def only(report: LoadReport) -> tuple[int, int, str]:
    (problem,) = report.errors
    return problem.line, problem.column, problem.message


def test_the_size_and_nesting_of_a_file_are_limited() -> None:
    assert only(inspect_bytes(b"#" * (2**20 + 1))) == (1, 1, "larger than 1048576 bytes")
    assert only(inspect_text("a: " + "[" * 2000))[2] == "found more than 32 levels of nesting"
    assert only(inspect_text("- " * 100_000))[2] == "found more than 32 levels of nesting"
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert only(inspect_text(bomb))[2] == "aliases expand to more than 10000 values"


def test_a_file_that_is_not_utf_8_is_an_error() -> None:
    assert only(inspect_bytes(b"a: b\nc: \xc3\xa9\xff\n")) == (2, 5, "octet 0xFF is not UTF-8; save the file as UTF-8")
    assert only(inspect_text("a: \0\n")) == (1, 4, "the character '\\x00' is not allowed")
    assert only(inspect_text("limits:\n\thead: 3\n")) == (
        2,
        1,
        "found a tab in the indentation; YAML is indented with spaces",
    )


@pytest.mark.parametrize("number", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_many_routes(number: int) -> None:
    routes = "".join(f"  - {{path: '/s{n}/{{id}}', service: user}}\n" for n in range(number))
    text = SMALL[: SMALL.index("routes:")] + "routes:\n" + routes
    assert len(load_text(text).routes) == number
    broken = text.replace("service: user}", "service: usr, timeout: 3}", 1000)
    errors = inspect_text(broken).errors
    assert len(errors) == 2_000
    assert errors[-1].line == 1_004


def test_a_route_table_that_is_too_ambiguous_is_an_error() -> None:
    ways = ["".join(f"/{{p{i}}}" if bits >> i & 1 else "/a" for i in range(9)) for bits in range(2**9)]
    text = SMALL[: SMALL.index("  - path")] + "".join(f"  - {{path: '{way}', service: user}}\n" for way in ways)
    line, column, message = only(inspect_text(text))
    assert (line, column) == (5, 3)
    assert message.startswith("a lookup could take 10")
