"""`passerelle explain`: the route is that of the router, and each reason is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.config import Route, load_text
from passerelle.errors import Failure
from passerelle.routing.router import Router, RouteRule, canonical_path
from passerelle.supervisor.explanation import ExplainedRequest, explanation, why_not
from tests.cli.test_main import GOOD, Run, run
from tests.routing.test_router import methods, requests, tables

__all__ = ["run"]

CONFIG = load_text(GOOD)


def ask(method: str, path: str, host: str = "", length: int | None = None) -> dict[str, Any]:
    path, mark, query = path.partition("?")
    return explanation(
        CONFIG, ExplainedRequest(host.encode(), method.encode(), path.encode(), (mark + query).encode(), length)
    )


def test_a_route_with_a_rewrite(run: Run) -> None:
    assert run("explain", "GET", "/user/%34%32?full=1") == (
        0,
        """\
path      /user/42 (canonical form of /user/%34%32)
route     routes[1]  GET /user/{user_id}
params    user_id = 42
service   user (2 instances, p2c)
upstream  GET /internal/42?full=1
timeout   500ms
attempts  1
body      at most 10MiB

other routes
  routes[0]  /{rest*}                     path: the route matches too, but is less specific
  routes[2]  PUT,DELETE /user/{user_id}   method: the route allows DELETE, PUT
  routes[3]  api.example.com/user/me      host: the route is for api.example.com, not a request without host
  routes[4]  /api/{user_id}/{product_id}  path: segment 1 is 'user', not 'api'
""",
        "",
    )


def test_a_composition(run: Run) -> None:
    code, out, _ = run("explain", "gateway.yaml", "GET", "http://localhost:8080/api/1/2#x")
    assert code == 0
    assert out.startswith(
        """\
host      localhost
path      /api/1/2
route     routes[4]  /api/{user_id}/{product_id}
params    user_id = 1, product_id = 2
part      user: GET /user/1 from user (2 instances, p2c), timeout 5s, required, passes 404
part      product: GET /product/2 from product (5 instances, p2c), timeout 30s, on error null
timeout   30s
attempts  2
body      at most 10MiB
"""
    )


def test_caching_compression_and_hedging_are_listed(run: Run) -> None:
    Path("gateway.yaml").write_text(
        """\
services:
  user: {targets: ["http://127.0.0.1:1", "http://127.0.0.1:2"], concurrency: {min: 4, max: 90}}
routes:
  - path: /user/{id}
    service: user
    timeout: 3s
    attempt_timeout: 500ms
    hedge: {after: p95}
    stream_idle_timeout: 1m
    compress: {codings: [gzip], types: [text/*], min_size: 1KiB}
    cache: {ttl: 30s, stale_while_revalidate: 1m, tags: ["user:{id}"], query: [], max_body: 1MiB, per_host: false}
  - path: /api/{id}
    cache: {}
    compose:
      user: {service: user, path: "/user/{id}", cache: {ttl: 250ms}}
"""
    )
    code, out, _ = run("explain", "GET", "/user/1")
    assert code == 0
    assert (
        """\
service   user (2 instances, p2c, 4 to 90 concurrent requests)
upstream  GET /user/1
cache     ttl 30s, stale_while_revalidate 1m, tags user:{id}, per_host no, query none, max_body 1MiB
compress  gzip: bodies of text/* from 1KiB
hedge     a second instance after p95
idle      streams 1m
timeout   3s, 500ms an attempt
"""
        in out
    )
    _, out, _ = run("explain", "GET", "/api/1")
    assert "\ncache     user: ttl 250ms\ncache     as the responses state (RFC 9111)\n" in out
    _, out, _ = run("explain", "GET", "/user/1", "--json")
    route = json.loads(out)["route"]
    assert (route["attempt_timeout"], route["hedge"]) == (0.5, "a second instance after p95")
    assert route["service"]["concurrency"] == [4, 90]


def test_a_refusal(run: Run) -> None:
    Path("gateway.yaml").write_text(GOOD.replace('  - {path: "/{rest*}", service: site}\n', ""))
    code, out, _ = run("explain", "POST", "/user/42")
    assert code == 1
    assert (
        out
        == """\
path    /user/42
status  405 the method is not allowed here (Allow: DELETE, GET, HEAD, PUT)

routes
  routes[0]  GET /user/{user_id}          method: the route allows GET
  routes[1]  PUT,DELETE /user/{user_id}   method: the route allows DELETE, PUT
  routes[2]  api.example.com/user/me      host: the route is for api.example.com, not a request without host
  routes[3]  /api/{user_id}/{product_id}  path: segment 1 is 'user', not 'api'
"""
    )
    code, out, _ = run("explain", "GET", "/nope")
    assert code == 1
    assert "status  404 no route matches" in out


def test_a_path_that_is_refused(run: Run) -> None:
    code, out, _ = run("explain", "GET", "/open/..%2fclosed")
    assert (code, out) == (
        1,
        "path    /open/..%2fclosed\nstatus  400 the path is not allowed: hidden dot segment\n",
    )


def test_json_has_everything(run: Run) -> None:
    code, out, _ = run(
        "explain", "PUT", "/user/1", "-H", "Host: API.example.com:80", "-H", "content-length: 2000000", "--json"
    )
    found = json.loads(out)
    assert code == 1
    assert (found["status"], found["host"]) == (413, "api.example.com")
    assert found["reason"] == "the request body is too large: 2000000 bytes, 1000000 allowed"
    assert found["route"]["key"] == "routes[2]"
    assert found["route"]["repeats"] is True
    assert [other["key"] for other in found["others"]] == ["routes[0]", "routes[1]", "routes[3]", "routes[4]"]


def test_the_host_decides() -> None:
    assert ask("GET", "/user/me", "api.example.com")["route"]["key"] == "routes[3]"
    assert ask("GET", "/user/me", "x.example.com")["route"]["key"] == "routes[1]"
    reasons = {other["key"]: other["reason"] for other in ask("GET", "/user/me", "api.example.com")["others"]}
    assert reasons["routes[1]"] == "host: the route matches too, but is less specific"


def test_what_repeats() -> None:
    assert ask("POST", "/x")["route"]["repeats"] is False
    assert ask("PUT", "/x")["route"]["repeats"] is True


def test_post_states_when_it_is_retried(run: Run) -> None:
    assert "attempts  2 (POST is retried only if nothing was sent)" in run("explain", "POST", "/x")[1]


def test_a_long_list_is_cut(run: Run) -> None:
    more = "".join(f"  - {{path: /r{number}, service: user}}\n" for number in range(40))
    Path("gateway.yaml").write_text(GOOD + more)
    out = run("explain", "GET", "/user/1")[1]
    assert out.endswith("  … and 29 more, less similar (--json lists all)\n")
    assert len(json.loads(run("explain", "GET", "/user/1", "--json")[1])["others"]) == 44


def test_an_argument_that_is_no_utf_8_is_no_traceback(run: Run) -> None:
    code, out, _ = run("explain", "GET", "/a\udcff")
    assert code == 1
    assert "octet 0xFF is not allowed in a path" in out
    assert run("explain", "GET", "/a", "-H", "Host: \udcff")[0] == 0


def test_an_encoded_slash_is_kept_or_refused_as_by_the_gateway(run: Run) -> None:
    routes = [{"path": "/a/{id}", "service": "u", "encoded_slashes": "keep"}, {"path": "/{rest*}", "service": "u"}]
    config = {"services": {"u": {"targets": ["http://127.0.0.1:1"]}}, "routes": routes}
    Path("slashes.yaml").write_text(json.dumps(config))
    code, out, _ = run("explain", "slashes.yaml", "GET", "//a/x%2fy")
    assert code == 0
    assert "path      /a/x%2Fy (canonical form of //a/x%2fy)\n" in out
    assert "upstream  GET /a/x%2Fy\nslashes   %2F in a path is kept\n" in out
    code, out, _ = run("explain", "slashes.yaml", "GET", "/b%2fc")
    assert code == 1
    assert "400 the path is not allowed: an encoded slash (%2F) is not allowed in this path\n" in out


def test_an_empty_rest_is_shown(run: Run) -> None:
    assert "params    rest = (empty)" in run("explain", "GET", "http://a")[1]


@given(tables(), requests)
def test_reasons_are_true(rules: list[RouteRule], asked: tuple[bytes, bytes, bytes]) -> None:
    host, method, path = asked
    match = Router(rules).match(host, method, path)
    winner = next((rule for rule in rules if rule.value == match.value), None) if match.value is not None else None
    request = ExplainedRequest(host, method, path, b"", None)
    for rule in rules:
        if rule is winner:
            continue
        (nearness, _), reason = why_not(rule, winner, request, path)
        alone = Router([rule]).match(host, method, path)
        # A route that is reported to match too matches alone, and one that is rejected for its method alone is a 405.
        assert (alone.value is not None) == (nearness == 0)
        assert bool(alone.allowed) == reason.startswith("method: the route allows")


@given(st.text(max_size=20), methods)
def test_any_path_is_explained_as_the_gateway_answers_it(tail: str, named: str | None) -> None:
    path = ("/" + tail).replace("?", "")
    result = ask("GET", path)
    try:
        canonical = canonical_path(path.encode())
    except Failure:
        assert result["status"] == 400
    else:
        assert result["status"] is None
        assert result["canonical_path"] == canonical.decode()


def test_guards_are_listed_in_the_order_in_which_they_run(run: Run) -> None:
    route = {
        "path": "/a",
        "service": "u",
        "clients": {"deny": ["10.0.0.0/8"]},
        "auth": ["key"],
        "require": {"scopes": ["read", "write"], "consumers": ["x", "y"]},
        "cors": {"origins": "*"},
        "rate_limit": [{"rate": "5/s", "by": "consumer", "cost": 2}, {"rate": "3/m", "burst": 9, "dry_run": True}],
        "forward_auth": {"service": "u", "path": "/ask", "copy_headers": ["X-User"], "cache": "10s"},
    }
    config = {"keys": {"store": "k.db"}, "services": {"u": {"targets": ["http://127.0.0.1:1"]}}, "routes": [route]}
    guards = [
        "clients: deny 10.0.0.0/8",
        "rate_limit: 3/m by address, burst 9, dry run",
        "cors: *",
        "auth: key",
        "require: scopes read, write",
        "require: consumer x or y",
        "forward_auth: u /ask, copies X-User, remembered 10s, failure closed",
        "rate_limit: 5/s by consumer, burst 5, cost 2",
    ]
    found = explanation(load_text(json.dumps(config)), ExplainedRequest(b"", b"GET", b"/a", b"", None))
    assert found["route"]["guards"] == guards
    Path("guarded.yaml").write_text(json.dumps(config))
    _, out, _ = run("explain", "guarded.yaml", "GET", "/a")
    assert [line.removeprefix("guard").strip() for line in out.splitlines() if line.startswith("guard ")] == guards
    assert json.loads(run("routes", "guarded.yaml", "--json")[1])[0]["guards"] == guards


def test_cors_and_header_rules_are_listed(run: Run) -> None:
    route = {
        "path": "/a",
        "service": "u",
        "cors": {"origins": ["https://a.example"], "methods": ["GET"], "headers": ["X-A"], "credentials": True},
        "request_headers": {"set": {"Authorization": "Basic c2VjcmV0"}, "remove": ["Cookie"]},
        "response_headers": {"add": {"X-B": "1"}},
        "security_headers": {"hsts": "off", "resource_policy": "off", "opener_policy": "off", "override": True},
    }
    services = {"u": {"targets": ["http://127.0.0.1:1"]}}
    Path("ruled.yaml").write_text(json.dumps({"services": services, "routes": [route]}))
    _, out, _ = run("explain", "ruled.yaml", "GET", "/a")
    assert "c2VjcmV0" not in out
    assert out.splitlines()[2:6] == [
        "guard     cors: https://a.example, methods GET, headers X-A, credentials",
        "headers   request: set Authorization, remove Cookie",
        "headers   response: add X-B",
        "headers   security (override): content_type_options nosniff, frame_options DENY, referrer_policy no-referrer",
    ]
    assert len(json.loads(run("routes", "ruled.yaml", "--json")[1])[0]["headers"]) == 3


# A value for each key of a route that the plain route does not have.
TOLD: dict[str, Any] = {
    "path": "/b",
    "host": "a.example",
    "methods": ["GET"],
    "match": {"query": {"a": {"present": False}}},
    "service": "other",
    "compose": {"a": {"service": "u", "path": "/a"}},
    "redirect": "/new",
    "respond": 204,
    "static": "/",
    "login": {"service": "u", "path": "/verify"},
    "logout": True,
    "oidc": True,
    "rewrite": "/x",
    "plugins": ["q", "p"],
    "rewrite_response": True,
    "encoded_slashes": "keep",
    "log": "off",
    "timeout": "3s",
    "body": "1KiB",
    "attempts": 3,
    "attempt_timeout": "1s",
    "hedge": {"after": "p95"},
    "shadow": {"service": "other", "sample": "10%"},
    "split": {"weights": {"other": 100}},
    "rollout": {},
    "stream_idle_timeout": "off",
    "tunnel_idle_timeout": "7s",
    "tell_deadline": True,
    "cache": {"ttl": "1s"},
    "compress": ["gzip"],
    "cors": {"origins": "*"},
    "request_headers": {"remove": ["Cookie"]},
    "response_headers": {"remove": ["Server"]},
    "security_headers": True,
    "clients": {"deny": ["10.0.0.0/8"]},
    "auth": ["key"],
    "require": {"scopes": ["read"]},
    "forward_auth": {"service": "other", "path": "/ask"},
    "identity_token": True,
    "rate_limit": {"rate": "5/s"},
}
PLAIN: dict[Any, Any] = {float: "7s", int: 7, bool: True}  # keys that are only a value need no row above
BESIDE: dict[str, dict[str, Any]] = {
    "require": {"auth": ["key"]},
    "identity_token": {"auth": ["key"]},
    "rollout": {"split": {"weights": {"other": 0}}},
}
BESIDE["rewrite_response"] = {"path": "/a/b", "rewrite": "/b"}


def both(run: Run, route: dict[str, Any], **service: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `routes` and `explain` print for a route, as JSON."""
    targets = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    config = {
        "keys": {"store": "k.db"},
        "sessions": {"store": "s.db"},
        "identity_token": {"secret": "x" * 32},
        "plugins": {"p": {"guard": "m:check"}, "q": {"response": "m:f", "body": "1KiB"}},
        "services": {"u": {"targets": targets, **service}, "other": {"targets": targets}},
        "routes": [route],
    }
    if "oidc" in route:
        route["path"] = "/{step}"
        config["oidc"] = {"issuer": "https://i", "client_id": "c", "client_secret": "s", "origin": "https://o.example"}
    Path("told.yaml").write_text(json.dumps(config))
    (listed,) = json.loads(run("routes", "told.yaml", "--json")[1])
    method = "POST" if "login" in route or "logout" in route else "GET"
    url = f"http://{route.get('host', 'h')}{route['path']}"
    return listed, json.loads(run("explain", "told.yaml", method, url, "--json")[1])["route"]


@pytest.mark.parametrize("key", list(Route.model_fields))
def test_every_key_of_a_route_is_shown_and_alike_by_routes_and_explain(run: Run, key: str) -> None:
    plain = {"path": "/a", "service": "u", **BESIDE.get(key, {})}
    told = plain | {key: TOLD[key] if key in TOLD else PLAIN[Route.model_fields[key].annotation]}
    if key in ("compose", "redirect", "respond", "static", "login", "logout", "oidc"):
        del told["service"]
    without, (listed, explained) = both(run, plain)[0], both(run, told)
    assert listed != without
    common = listed.keys() & explained.keys() - {"service"}
    assert len(common) >= 15
    assert {name: listed[name] for name in common} == {name: explained[name] for name in common}


def test_plugins_are_shown_in_the_order_in_which_they_run(run: Run) -> None:
    both(run, {"path": "/a", "service": "u", "plugins": ["q", "p"]})
    out = run("explain", "told.yaml", "GET", "/a")[1]
    first = "plugin    p: guard, m:check, timeout 1s\n"
    assert first + "plugin    q: filter of the response, m:f, body to 1KiB, timeout 1s, failure closed\n" in out


def test_settings_of_services_are_shown_by_routes_and_explain(run: Run) -> None:
    plain = {"path": "/a", "service": "u"}
    balance = {"sticky": {"cookie": "lb", "secret": "0123456789abcdef"}}
    listed, explained = both(run, plain, balance=balance, concurrency={"min": 1, "max": 9})
    assert listed["services"] == explained["services"]
    assert listed["services"]["u"] | {"sticky": "lb", "concurrency": [1, 9]} == listed["services"]["u"]
    out = run("explain", "told.yaml", "GET", "/a")[1]
    assert "service   u (2 instances, p2c, sticky by cookie lb, 1 to 9 concurrent requests)\n" in out
    both(run, plain, host="upstream", forwarding=["X-Real-IP", "Forwarded"])
    assert (
        "service   u (2 instances, p2c, host upstream, with X-Real-IP, Forwarded)\n"
        in run("explain", "told.yaml", "GET", "/a")[1]
    )
    both(run, plain, targets=["http://127.0.0.1:1/api"])
    assert "service   u (1 instance, p2c, path /api)\n" in run("explain", "told.yaml", "GET", "/a")[1]
    assert "0123456789abcdef" not in out + run("routes", "told.yaml", "--json")[1]
    both(run, plain, balance={"policy": "hash", "by": "header:X-User"})
    assert "service   u (2 instances, hash by header:x-user)\n" in run("explain", "told.yaml", "GET", "/a")[1]


def test_logins_and_deadlines_are_listed(run: Run) -> None:
    both(run, {"path": "/in", "login": TOLD["login"]})
    out = run("explain", "told.yaml", "POST", "/in")[1]
    assert "guard     login: 5 wrong passwords for a user name, 20 from an address, one forgiven every 3m\n" in out
    assert "login     POST /verify of u (2 instances, p2c)\n" in out
    both(run, {"path": "/a", "service": "u", "tell_deadline": True})
    out = run("explain", "told.yaml", "GET", "/a")[1]
    assert "timeout   30s, services receive the remaining time\n" in out
    both(run, {"path": "/out", "logout": True})
    assert "logout    ends the session\n" in run("explain", "told.yaml", "POST", "/out")[1]


def test_what_a_route_has_from_defaults_and_where_it_is_written(run: Run) -> None:
    services = "services: {u: {targets: ['http://127.0.0.1:1']}}\n"
    Path("told.yaml").write_text(
        services + "defaults:\n  timeout: 5s\n  cors: {origins: '*'}\nroutes:\n  - {path: /a, service: u, cors: null}\n"
    )
    out = run("explain", "told.yaml", "GET", "/a")[1]
    assert "timeout   5s\n" in out and "defaults  timeout (told.yaml:3)\n" in out and "guard" not in out
    Path("told.yaml").write_text(
        "include: more.yaml\n" + services + "profiles: {p: {routes: [{path: /p, service: u}]}}\n"
    )
    Path("more.yaml").write_text("defaults: {timeout: 5s}\nroutes:\n  - {path: /a, service: u}\n")
    out = run("explain", "told.yaml", "GET", "/a")[1]
    assert "file      more.yaml:3\n" in out and "defaults  timeout (more.yaml:1)\n" in out
    found = json.loads(run("explain", "told.yaml", "GET", "/a", "--json")[1])["route"]
    assert (found["place"], found["defaults"], found["profile"]) == (
        "more.yaml:3",
        {"timeout": "more.yaml:1"},
        None,
    )


def test_the_route_of_a_profile_is_explained(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSERELLE_PROFILE", "p")
    Path("told.yaml").write_text(
        """\
services: {u: {targets: ['http://127.0.0.1:1']}}
routes: [{path: /a, service: u}]
profiles:
  p: {routes: [{path: /p, service: u}]}
"""
    )
    assert "file      told.yaml:4 (profile p)\n" in run("explain", "told.yaml", "GET", "/p")[1]


def test_the_hosts_of_a_route_are_explained(run: Run) -> None:
    Path("told.yaml").write_text(
        """\
services: {u: {targets: ['http://127.0.0.1:1']}}
routes:
  - {path: /a, service: u, host: [a.example, "*.b.example"]}
  - {path: /a, service: u, host: "*.example"}
"""
    )
    out = run("explain", "told.yaml", "GET", "http://a.example/a")[1]
    assert "route     routes[0]  a.example,*.b.example/a\n" in out
    assert "  routes[1]  *.example/a  host: the route matches too, but is less specific\n" in out
    out = run("explain", "told.yaml", "GET", "http://c.example/a")[1]
    assert "route     routes[1]  *.example/a\n" in out
    assert "host: the route is for a.example, not c.example\n" in out
    assert "a.example,*.b.example  " in run("routes", "told.yaml")[1]


def test_actions_are_shown(run: Run) -> None:
    both(run, {"path": "/a/{id}", "redirect": "https://a.example/{id}", "rate_limit": {"rate": "5/s"}})
    out = run("explain", "told.yaml", "GET", "/a/1")[1]
    assert "guard     rate_limit: 5/s by address, burst 5\nredirect  307 to https://a.example/{id}\n" in out
    assert "timeout" not in out and "attempts" not in out
    assert "redirect: 307 to https://a.example/{id}" in run("routes", "told.yaml")[1]
    both(run, {"path": "/a", "redirect": {"www": "remove", "status": 301, "query": "drop"}})
    assert (
        "redirect  301 to {scheme}://{host} without www{path}, without the query\n"
        in run("explain", "told.yaml", "GET", "/a")[1]
    )
    both(run, {"path": "/a", "respond": {"status": 503, "body": {"a": 1}, "headers": {"Retry-After": "60"}}})
    assert "respond  503 with JSON, sets Retry-After\n" in run("explain", "told.yaml", "GET", "/a")[1]
    both(run, {"path": "/a/{rest*}", "static": {"folder": "/", "fallback": "/index.html", "precompressed": True}})
    listed = run("routes", "told.yaml")[1]
    assert "static: /, index index.html, otherwise /index.html, precompressed br zstd gzip" in " ".join(listed.split())
    out = run("explain", "told.yaml", "GET", "/a/b")[1]
    assert "static  /, index index.html, otherwise /index.html, precompressed br zstd gzip\n" in out


MATCHED = """\
services: {u: {targets: ['http://127.0.0.1:1']}, v: {targets: ['http://127.0.0.1:2']}}
routes:
  - {path: "/a/{id:int}", service: u, match: {headers: {X-Version: "2"}, cookies: {b: {present: true}}}}
  - {path: "/a/{id:int}", service: u, match: {clients: 10.0.0.0/8, query: {q: {not: x}}}, priority: 2}
  - {path: "/a/{id}", service: v}
  - {path: "/b/{id}", service: v, encoded_slashes: keep, match: {headers: {X-Api-Key: s3cret}}}
  - {path: "/b/{id}", service: v, methods: PUT}
  - {path: "/c/{rest*}", service: u, match: {path: {pattern: ".*[.]php"}}}
"""


def test_conditions_that_hold_and_those_that_fail(run: Run) -> None:
    Path("m.yaml").write_text(MATCHED)
    code, out, _ = run("explain", "m.yaml", "GET", "/a/7", "-H", "X-Version: 2", "--cookie", "b=")
    assert code == 0
    assert "match     header x-version is '2'\nmatch     cookie b is present\nparams    id = 7\n" in out
    assert "match: client address is absent (needed: is in 10.0.0.0/8)\n" in out
    code, out, _ = run("explain", "m.yaml", "GET", "/a/7?q=x", "-H", "X-Version: 1", "--from", "10.0.0.1")
    assert "routes[2]  /a/{id}\n" in out
    assert "match: header x-version is '1' (needed: is '2'), and cookie b is absent (needed: is present)\n" in out
    assert "match: query q is 'x' (needed: is not 'x')\n" in out
    code, out, _ = run(
        "explain", "m.yaml", "GET", "/a/7", "-H", "X-Version: 2", "--cookie", "b=1", "--from", "10.0.0.1"
    )
    assert "priority  2\n" in out and "priority: the route matches too, but is less specific\n" in out
    assert "path: segment 2 is 'x', which {id:int} does not match\n" in run("explain", "m.yaml", "GET", "/a/x")[1]
    out = run("explain", "m.yaml", "GET", "/c//x/%2e/y.ph%70")[1]
    assert "match     path matches '.*[.]php'\n" in out
    assert "match: path is '/c/y' (needed: matches '.*[.]php')\n" in run("explain", "m.yaml", "GET", "/c/./y")[1]
    listed = run("routes", "m.yaml")[1]
    assert "MATCH" in listed and "PRIORITY" in listed
    assert "header x-api-key has a value that is not shown, as it may be a secret" in listed and "s3cret" not in listed


def test_requests_that_no_condition_admits(run: Run) -> None:
    Path("m.yaml").write_text(MATCHED)
    assert "status  404 no route" in run("explain", "m.yaml", "GET", "/c")[1]
    code, out, _ = run("explain", "m.yaml", "GET", "/b/7")
    assert (code, "(Allow: PUT)" in out) == (1, True)
    key = ("-H", "X-Api-Key: s3cret")
    assert run("explain", "m.yaml", "GET", "/b/7%2F8", *key)[0] == 0
    code, out, _ = run("explain", "m.yaml", "PUT", "/b/7%2F8")
    assert code == 1 and "status    400" in out.replace("status  ", "status    ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cookie", "b"), "found the cookie 'b'; allowed is NAME=VALUE"),
        (("--from", "localhost"), "found the address 'localhost'; allowed is an IPv4 or IPv6 address"),
    ],
)
def test_wrong_cookies_and_addresses(run: Run, arguments: tuple[str, ...], message: str) -> None:
    Path("m.yaml").write_text(MATCHED)
    code, _, err = run("explain", "m.yaml", "GET", "/a/7", *arguments)
    assert code == 2 and message in err
