"""What is imported from files of Traefik, and what is listed because it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from passerelle.config import inspect_text
from passerelle.importing.draft import ImportProblem
from passerelle.importing.traefik import import_traefik
from passerelle.importing.traefik_rules import Match, RuleError, parse_rule


def imported(folder: Path, text: str, name: str = "dynamic.yaml") -> tuple[dict[str, Any], list[str]]:
    """Return the configuration, and what was not carried over, each as `line: what: why`."""
    file = folder / name
    file.write_text(text)
    made, skipped = import_traefik(str(file))
    report = inspect_text(made, environ={}, elsewhere=True)
    assert report.config is not None, report.errors
    found: dict[str, Any] = yaml.safe_load(made)
    return found, [f"{each.line}: {each.what}: {each.why}" for each in skipped]


FILE = """http:
  routers:
    r: {{rule: "{rule}", service: s, middlewares: [m]}}
  services:
    s: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:5000/"}}]}}}}
  middlewares:
    m: {middleware}
"""


def with_middleware(
    folder: Path, middleware: str, rule: str = "PathPrefix(`/a`)"
) -> tuple[list[dict[str, Any]], list[str]]:
    found, skipped = imported(folder, FILE.format(rule=rule, middleware=middleware))
    return found["routes"], skipped


RULES = [
    ("Host(`a`, `b`) && PathPrefix(`/x`)", [Match(("a", "b"), (), (("/x", True),))]),
    ('Host(`a`) || Path("/x")', [Match(("a",)), Match(paths=(("/x", False),))]),
    (
        "Header(`X-A`, `b`) && HeaderRegexp(`X-B`, `^v[0-9]+$`) && Query(`q`, `1`) && ClientIP(`10.0.0.0/8`, `::1`)",
        [
            Match(
                conditions={
                    "headers": {"X-A": "b", "X-B": {"pattern": "v[0-9]+"}},
                    "query": {"q": "1"},
                    "clients": ["10.0.0.0/8", "::1"],
                }
            )
        ],
    ),
    ("HeaderRegexp(`X`, `(?i)a|b`)", [Match(conditions={"headers": {"X": {"pattern": "(?i).*(?:a|b).*"}}})]),
    ("QueryRegexp(`q`, `^a`)", [Match(conditions={"query": {"q": {"pattern": "a.*"}}})]),
    ("(Host(`a`) || Host(`b`)) && Method(`get`)", [Match(("a",), ("GET",)), Match(("b",), ("GET",))]),
]


@pytest.mark.parametrize(("rule", "alternatives"), RULES)
def test_rules_have_alternatives(rule: str, alternatives: list[Match]) -> None:
    assert parse_rule(rule) == alternatives


@pytest.mark.parametrize(
    "rule",
    [
        *(
            "",
            "Host(`a`",
            "Host()",
            "!Host(`a`)",
            "HostRegexp(`a`)",
            "Header(`X`)",
            "Query(`a`)",
            "Header(`X`, `y`) && Header(`x`, `z`)",
            "ClientIP(`10.0.0.1`) && ClientIP(`10.0.0.2`)",
            r"HeaderRegexp(`X`, `a\b`)",
            "HeaderRegexp(`X`, `^a|b$`)",
            "HeaderRegexp(`X`, `a+?`)",
            "Host(`a`) &&",
            "&& Host(`a`)",
        ),
        *("Host(`a`) Path(`/x`)", "Path(`/a`) && Path(`/b`)", "(Host(`a`)", "Host(`a`))", "x" * 100),
        " && ".join(["(Method(`A`) || Host(`b`))"] * 12),
    ],
)
def test_rules_without_counterpart_are_refused(rule: str) -> None:
    with pytest.raises(RuleError):
        parse_rule(rule)


def test_conditions_of_a_rule_are_those_of_the_route(tmp_path: Path) -> None:
    rule = "PathPrefix(`/a`) && Header(`X-A`, `b`) && ClientIP(`10.0.0.0/8`)"
    (route,), skipped = with_middleware(tmp_path, "{compress: {}}", rule)
    assert route["match"] == {"headers": {"X-A": "b"}, "clients": ["10.0.0.0/8"]}
    (refused, *_), skipped = with_middleware(tmp_path, "{compress: {}}", "Header(`Host`, `b`)")
    assert refused["respond"] == 404 and any("match.headers.Host" in each for each in skipped), skipped


MIDDLEWARES: list[tuple[str, dict[str, Any]]] = [
    ('{replacePath: {path: "/z"}}', {"rewrite": "/z"}),
    ('{ipAllowList: {sourceRange: ["10.0.0.0/8"]}}', {"clients": {"allow": ["10.0.0.0/8"]}}),
    (
        "{rateLimit: {average: 10, burst: 20, period: 1m}}",
        {"rate_limit": {"rate": "10/m", "burst": 20, "by": "address"}},
    ),
    ("{compress: {}}", {"compress": ["gzip"]}),
    ("{retry: {attempts: 4}}", {"attempts": 4}),
    ("{buffering: {maxRequestBodyBytes: 2097152}}", {"body": "2MiB"}),
    (
        '{headers: {customRequestHeaders: {X-A: "1", X-B: ""}}}',
        {"request_headers": {"set": {"X-A": "1"}, "remove": ["X-B"]}},
    ),
    (
        '{headers: {accessControlAllowOriginList: ["https://a.example"], accessControlMaxAge: 60}}',
        {"cors": {"origins": ["https://a.example"], "max_age": "1m"}},
    ),
]


@pytest.mark.parametrize(("middleware", "keys"), MIDDLEWARES)
def test_a_middleware_becomes_keys_of_the_route(tmp_path: Path, middleware: str, keys: dict[str, Any]) -> None:
    routes, skipped = with_middleware(tmp_path, middleware)
    plain = {key: value for key, value in routes[-1].items() if key not in ("path", "service")}
    assert (plain, skipped) == (keys, [])


def test_prefixes_are_stripped_and_added(tmp_path: Path) -> None:
    steps = 'strip: {stripPrefix: {prefixes: ["/a"]}}', "add: {addPrefix: {prefix: /v1}}"
    text = "\n    ".join(["{chain: {middlewares: [strip, add]}}", *steps])
    routes, skipped = with_middleware(tmp_path, text)
    assert skipped == []
    assert [(route["path"], route["rewrite"]) for route in routes] == [("/a", "/v1/"), ("/a/{rest*}", "/v1/{rest}")]


CLOSED = [
    "{basicAuth: {users: ['a:$apr1$secret']}}",
    "{forwardAuth: {address: 'http://auth'}}",
    "{ipAllowList: {sourceRange: [nonsense]}}",
    "{plugin: {own: {}}}",
    "{ipWhiteList: {sourceRange: ['10.0.0.0/8'], ipStrategy: {depth: 1}}}",
]


@pytest.mark.parametrize("middleware", CLOSED)
def test_a_route_whose_access_rules_have_no_counterpart_is_closed(tmp_path: Path, middleware: str) -> None:
    routes, skipped = with_middleware(tmp_path, middleware)
    assert [route["respond"] for route in routes] == [501]
    assert "until then the route responds 501" in skipped[0]
    assert "secret" not in skipped[0]


def test_a_middleware_that_is_not_in_the_file_closes_the_route(tmp_path: Path) -> None:
    text = FILE.format(rule="Path(`/a`)", middleware="{}").replace("[m]", "[other@file]")
    found, skipped = imported(tmp_path, text)
    assert found["routes"] == [{"path": "/a", "respond": 501}]
    assert skipped[0].startswith("3: middleware other: it is not in this file")


def test_middlewares_of_an_entry_point_apply_to_all_routers(tmp_path: Path) -> None:
    text = "entryPoints: {web: {address: ':80', http: {middlewares: [m@file]}}}\n"
    text += FILE.format(rule="Path(`/a`)", middleware="{basicAuth: {}}").replace(", middlewares: [m]", "")
    assert imported(tmp_path, text)[0]["routes"] == [{"path": "/a", "respond": 501}]


def test_what_has_no_counterpart_is_listed_with_its_line(tmp_path: Path) -> None:
    text = """entryPoints:
  web: {address: ":80"}
  websecure: {address: ":443"}
api: {dashboard: true}
certificatesResolvers: {le: {acme: {email: a@example.com}}}
tls: {certificates: [{certFile: a.pem, keyFile: a.key}, {certFile: b.pem, keyFile: b.key}]}
http:
  routers:
    one: {rule: "HostRegexp(`.+`)", service: s}
    two: {rule: "Path(`/a`)", service: none, priority: 7}
    three: {rule: "Path(`/b`)", service: s, tls: {}}
  services:
    s: {loadBalancer: {servers: [{url: "http://127.0.0.1:1", weight: 2}], sticky: {cookie: {}}, passHostHeader: false}}
tcp: {routers: {}}
"""
    found, skipped = imported(tmp_path, text)
    assert found["listen"] == "0.0.0.0:443"
    assert found["tls"] == {"certificate": "a.pem", "key": "a.key"}
    assert found["routes"] == [{"path": "/a", "respond": 501}, {"path": "/b", "service": "s"}]
    assert found["services"]["s"]["host"] == "upstream"
    assert [each.rpartition(": ")[0] for each in skipped] == [
        "2: entryPoints.web",
        "4: api",
        "5: certificatesResolvers",
        "6: tls.certificates[1]",
        "9: http.routers.one.rule",
        "10: http.routers.two.service none",
        "10: http.routers.two.priority",
        "13: http.services.s.loadBalancer.sticky",
        "14: tcp",
    ]


def test_toml_is_read_with_its_lines(tmp_path: Path) -> None:
    text = """[http.routers.r]
rule = "Path(`/a`)"
service = "s"

[[http.services.s.loadBalancer.servers]]
url = "http://127.0.0.1:1"

[http.services.s.loadBalancer.odd]
x = 1
"""
    found, skipped = imported(tmp_path, text, "dynamic.toml")
    assert found["routes"] == [{"path": "/a", "service": "s"}]
    assert skipped == ["8: http.services.s.loadBalancer.odd: passerelle has no counterpart for it"]


def test_labels_of_a_compose_file_are_read(tmp_path: Path) -> None:
    text = """services:
  web:
    image: web
    labels:
      - traefik.enable=true
      - traefik.http.routers.web.rule=Host(`a.example`) && PathPrefix(`/api`)
      - traefik.http.routers.web.middlewares=strip
      - traefik.http.middlewares.strip.stripprefix.prefixes=/api
      - traefik.http.services.web.loadbalancer.server.port=8000
      - other=1
  plain:
    expose: ["9000"]
    labels: {traefik.http.routers.plain.rule: "Path(`/plain`)"}
  lost:
    labels: {traefik.http.routers.lost.rule: "Path(`/lost`)"}
  database: {image: postgres}
"""
    found, skipped = imported(tmp_path, text, "compose.yaml")
    assert found["services"] == {
        "web": {"targets": ["http://web:8000"]},
        "plain": {"targets": ["http://plain:9000"]},
    }
    assert [(route["path"], route.get("rewrite")) for route in found["routes"]] == [
        ("/api", "/"),
        ("/api/{rest*}", "/{rest}"),
        ("/plain", None),
        ("/lost", None),
    ]
    assert found["routes"][-1]["respond"] == 501
    assert skipped[0].startswith("14: services.lost: no port is known")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.yaml", "", "empty"),
        ("a.yaml", "[1]", "it is no mapping"),
        ("a.yaml", "a: [", ""),
        ("a.yaml", "services: {a: {image: b}}", "it has neither http"),
        ("a.toml", "a = ", ""),
        ("a.yaml", "a: &a [*a]", ""),
        ("a.yaml", "http: {routers: 5}\n" + "x: " + "[" * 5000, ""),
        ("a.yaml", "x" * 20_000_000, "more than"),
    ],
)
def test_odd_files_are_reported_on_one_line(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ImportProblem) as caught:
        import_traefik(str(tmp_path / name))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_with_odd_types_is_read(tmp_path: Path) -> None:
    found, _ = imported(tmp_path, "http: {routers: {r: 5, q: {rule: [1]}}, services: [], middlewares: x}")
    assert found["routes"] == [{"path": "/{rest*}", "respond": 404}]


def test_fields_of_several_middlewares_are_joined(tmp_path: Path) -> None:
    text = """http:
  routers:
    r: {rule: "Path(`/a`)", service: s, middlewares: [one, two]}
  services:
    s: {loadBalancer: {servers: [{url: "http://127.0.0.1:5000/"}]}}
  middlewares:
    one: {headers: {stsSeconds: 60, stsPreload: true, frameDeny: true, customResponseHeaders: {X-A: "1", Server: ""}}}
    two: {headers: {contentSecurityPolicy: "default-src 'self'", customResponseHeaders: {x-a: "2"}}}
"""
    found, skipped = imported(tmp_path, text)
    assert skipped == []
    assert found["routes"][0]["response_headers"] == {
        "set": {
            "Strict-Transport-Security": "max-age=60; preload",
            "X-Frame-Options": "DENY",
            "Content-Security-Policy": "default-src 'self'",
            "x-a": "2",
        },
        "remove": ["Server"],
    }


def test_of_two_lists_of_addresses_none_is_dropped(tmp_path: Path) -> None:
    text = """http:
  routers:
    r: {rule: "Path(`/a`)", service: s, middlewares: [one, two, few, more]}
  services:
    s: {loadBalancer: {servers: [{url: "http://127.0.0.1:5000/"}]}}
  middlewares:
    one: {ipAllowList: {sourceRange: [10.0.0.0/8]}}
    two: {ipAllowList: {sourceRange: [0.0.0.0/0]}}
    few: {rateLimit: {average: 1}}
    more: {rateLimit: {average: 100, period: 1m}}
"""
    found, skipped = imported(tmp_path, text)
    assert found["routes"] == [{"path": "/a", "respond": 501}]
    assert [each.partition(": ")[2].partition(":")[0] for each in skipped] == ["http.middlewares.two.ipAllowList"]
    found, _ = imported(tmp_path, text.replace("one, two, ", ""))
    assert [each["rate"] for each in found["routes"][0]["rate_limit"]] == ["1/s", "100/m"]
