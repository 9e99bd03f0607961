"""nginx in place of the gateway: it chooses, forwards, stores and refuses as the gateway does, or not at all."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.conformance.conftest import loop, rig
from tests.export.serving import deployment_of, in_place, serving
from tests.requirements import needs
from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.upstream import Connection, Upstream, answering, ok

__all__ = ["loop", "rig"]

pytestmark = needs("nginx")

ODD_VALUES = {
    "dollar": "a$b ${host} $1",
    "quotes": 'say "hi", it\'s {ok};',
    "backslashes": r"\n \t \\ \" \ end\\",
    "yes": "yes",
    "octal": "0123",
    "exponent": "1e3",
    "comment": "# no comment",
    "empty-list": "[]",
}


def targets(*upstreams: Upstream) -> dict[str, Any]:
    """Return a service with these instances."""
    return {"targets": [upstream.url for upstream in upstreams]}


def named(rig: Rig, name: str) -> dict[str, Any]:
    """Return a service whose only instance responds with ``name``."""
    return targets(rig.upstream(answering(ok(name.encode()))))


def test_odd_values_of_header_fields_arrive_as_they_are(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    values = {f"X-{name}": value for name, value in ODD_VALUES.items()}
    route = {
        "path": "/{rest*}",
        "service": "u",
        "request_headers": {"set": {n: v for n, v in values.items() if "{" not in v}, "remove": ["X-Old"]},
        "response_headers": {"set": values},
    }
    with serving(deployment_of({"u": targets(upstream)}, [route])) as nginx, nginx.connect() as client:
        response = client.request("GET", "/x", ("X-Old", "1"), ("X-yes", "no"))
    received = upstream.requests[0]
    for name, value in values.items():
        assert response.all(name) == [value.encode()], name
        if "{" not in value:
            assert received.all(name) == [value.encode()], name
    assert received.all("X-Old") == []


@pytest.mark.parametrize(
    ("path", "rewrite", "target", "forwarded"),
    [
        ("/u/{id}", "/i/{id}", "/u/a%20b?q=%2F", "/i/a%20b?q=%2F"),
        ("/u/{id}", "/i/{id}", "/u/a%3Fb", "/i/a%3Fb"),
        ("/u/{id}", "/i/{id}", "/u/100%25", "/i/100%25"),
        ("/u/{a}/{b}", "/{b}/x-{a}.json", "/u/1/2", "/2/x-1.json"),
        ("/f/{rest*}", "/{rest}", "/f/a/b/", "/a/b/"),
        ("/f/{rest*}", "/{rest}", "/f/", "/"),
        ("/u/{id}", "/$1/$host/{id}", "/u/7", "/$1/$host/7"),
        ("/p.q/{id}", "/i/{id}", "/p.q/(a)", "/i/(a)"),
        ("/a%20b", "/c%20d", "/a%20b", "/c%20d"),
        ("/plain/{id}", None, "/plain/%C3%A9?x", "/plain/%C3%A9?x"),
    ],
)
def test_paths_reach_the_service_rewritten(
    rig: Rig, path: str, rewrite: str | None, target: str, forwarded: str
) -> None:
    upstream = rig.upstream(answering(ok()))
    route = {"path": path, "service": "u", **({"rewrite": rewrite} if rewrite else {})}
    services = {"u": targets(upstream)}
    with serving(deployment_of(services, [route])) as nginx:
        assert nginx.request("GET", target).status == 200
    assert rig.connect(rig.gateway(services, [route])).request("GET", target).status == 200
    assert [request.target.decode() for request in upstream.requests] == [forwarded, forwarded]


@pytest.mark.parametrize(
    "target", ["/a//b", "/a/../b", "/a/%2e%2e/b", "/a/./b", "/a%2Fb", "/a%5Cb", "/a%00", "/a/..;/b"]
)
def test_paths_that_a_service_could_read_differently_are_refused(rig: Rig, target: str) -> None:
    upstream = rig.upstream(answering(ok()))
    deployment = deployment_of({"u": targets(upstream)}, [{"path": "/{rest*}", "service": "u"}])
    with serving(deployment) as nginx:
        assert nginx.request("GET", target).status == 400
        assert nginx.request("GET", "/a?x=//../%2F").status == 200
    assert len(upstream.requests) == 1


ROUTES = [
    {"path": "/", "service": "root"},
    {"path": "/user", "methods": ["GET"], "service": "list"},
    {"path": "/user", "methods": ["POST"], "service": "create"},
    {"path": "/user/{id}", "methods": ["GET", "PUT"], "service": "one"},
    {"path": "/user/{id}", "service": "any"},
    {"path": "/user/me", "service": "me"},
    {"path": "/user/{id}/{rest*}", "service": "rest"},
    {"path": "/User", "service": "capital"},
    {"path": "/a.c", "methods": ["DELETE"], "service": "dot"},
    {"path": "/n/{word:[a-z.-]+}", "service": "word"},
    {"path": "/n/{id:int}", "service": "number"},
    {"path": "/n/{kind:x|y}/{rest*}", "service": "kind"},
    {"host": "api.example.com", "path": "/{all*}", "service": "api"},
    {"host": "*.example.com", "path": "/user", "service": "wild"},
    {"host": "deep.api.example.com", "path": "/only", "service": "deep"},
    {"host": ["*.api.example.com", "example.com"], "path": "/only", "service": "several"},
    {"host": ["*.example.com", "example.com"], "path": "/only/{id}", "methods": ["PUT"], "service": "several"},
]
HOSTS = (
    *("gw", "x.api.example.com", "api.example.com", "www.example.com", "deep.api.example.com", "example.com"),
    "API.example.com:80",
)
PATHS = (
    "/",
    "/user",
    "/user/",
    "/user/7",
    "/user/me",
    "/user/7/",
    "/user/7/x/y",
    "/User",
    "/a.c",
    "/abc",
    "/only",
    "/only/7",
    "/x",
    *("/n/7", "/n/a.b-c", "/n/A", "/n/7a", "/n/x/7", "/n/z/7"),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")


def test_nginx_chooses_the_route_that_the_gateway_chooses(rig: Rig) -> None:
    services = {str(route["service"]): named(rig, str(route["service"])) for route in ROUTES}
    deployment = deployment_of(services, ROUTES)
    assert in_place(deployment)[1] == []
    gateway = rig.gateway(services, ROUTES)
    differences = []
    with serving(deployment) as nginx:
        for host, path, method in itertools.product(HOSTS, PATHS, METHODS):
            seen = []
            for client in (gateway.connect(), nginx.connect()):
                with client:
                    client.send(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
                    response = client.read_response(method)
                allowed = sorted(b",".join(response.all("Allow")).replace(b" ", b"").split(b","))
                body = response.body if response.status == 200 else allowed if response.status == 405 else b""
                seen.append((response.status, body))
            if seen[0] != seen[1]:
                differences.append((host, path, method, seen))
    assert differences == []


def test_routes_with_conditions_are_left_out(rig: Rig) -> None:
    services = {name: named(rig, name) for name in ("one", "two", "rest")}
    routes: list[dict[str, Any]] = [
        {"path": "/a", "service": "one", "match": {"headers": {"X-A": "1"}}},
        {"path": "/a", "methods": ["GET"], "service": "rest"},
        {"path": "/a", "service": "two", "priority": 1, "methods": ["GET", "PUT"], "match": {"query": {"q": "1"}}},
        {"path": "/b", "service": "one", "match": {"cookies": {"c": "1"}}},
    ]
    deployment = deployment_of(services, routes)
    assert in_place(deployment)[1] == ["routes[0].match", "routes[2].match", "routes[3].match"]
    gateway = rig.gateway(services, routes)
    with serving(deployment) as nginx, gateway.connect() as client:
        for method, path in (("GET", "/a"), ("PUT", "/a"), ("GET", "/b")):
            found = [each.request(method, path) for each in (client, nginx)]
            assert found[0].status == found[1].status
            assert found[0].status != 200 or found[0].body == found[1].body == b"rest"


def test_a_route_that_another_path_hides_is_a_loss() -> None:
    services = {"u": {"targets": ["http://127.0.0.1:5000"]}}
    routes = [
        {"path": "/user/{id}", "methods": ["GET"], "service": "u"},
        {"path": "/user/{rest*}", "service": "u"},
        {"path": "/user/me", "methods": ["HEAD"], "service": "u"},
    ]
    assert in_place(deployment_of(services, routes))[1] == [f"routes[{index}].path" for index in (0, 1, 1)]


@pytest.mark.parametrize(
    ("keys", "top"),
    [
        ({"auth": ["key"]}, {"keys": {"store": "keys.db"}}),
        ({"auth": ["session"], "require": {"roles": ["admin"]}}, {"sessions": {"store": "s.db", "insecure": True}}),
        ({"forward_auth": {"service": "u", "path": "/check"}}, {}),
    ],
    ids=["key", "role", "forward auth"],
)
def test_a_route_whose_guard_nginx_cannot_have_is_closed(rig: Rig, keys: dict[str, Any], top: dict[str, Any]) -> None:
    upstream = rig.upstream(answering(ok(b"secret")))
    routes = [
        {"path": "/open", "service": "u"},
        {"path": "/{rest*}", "service": "u", "methods": ["GET"], **keys},
        {"path": "/{rest*}", "service": "u", "methods": ["POST"]},
    ]
    if "sessions" in top:
        routes.append({"path": "/login", "login": {"service": "u", "path": "/verify"}})
    deployment = deployment_of({"u": targets(upstream)}, routes, **top)
    assert f"routes[1].{next(iter(keys))}" in in_place(deployment)[1]
    with serving(deployment) as nginx:
        assert nginx.request("GET", "/x").status == 501
        assert nginx.request("GET", "/open").status == 200
        assert nginx.request("POST", "/x", body=b"").status == 200
    assert [request.target for request in upstream.requests] == [b"/open", b"/x"]


def test_fields_that_only_a_gateway_sets_are_removed(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    forged = ("X-Consumer", "X-Consumer-Roles", "X-Consumer-Scopes", "X-Consumer-Auth", "Forwarded", "Proxy")
    prefixes = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix")
    deployment = deployment_of({"u": targets(upstream)}, [{"path": "/", "service": "u"}])
    with serving(deployment) as nginx, nginx.connect() as client:
        client.request("GET", "/", *((name, "forged") for name in (*forged, *prefixes, "X-Request-Id")))
    received = upstream.requests[0]
    assert b"forged" not in received.raw
    assert [received.all(name) for name in prefixes] == [[b"127.0.0.1"], [b"gw"], [b"http"], []]


def test_a_unix_socket_is_exported_and_forwarded_is_a_loss() -> None:
    services = {"u": {"targets": ["unix:/run/app.sock"], "forwarding": ["Forwarded"]}}
    text, findings = in_place(deployment_of(services, [{"path": "/", "service": "u"}]))
    assert "server unix:/run/app.sock " in text
    assert findings == ["services.u.forwarding"]


def test_the_path_of_targets_and_fields_about_the_client(rig: Rig) -> None:
    upstream, plain = rig.upstream(answering(ok())), rig.upstream(answering(ok()))
    services = {
        "u": {"targets": [f"{upstream.url}/v1"], "forwarding": ["X-Real-IP", "X-Forwarded-Port"]},
        "plain": targets(plain),
    }
    routes = [
        {"path": "/plain/{rest*}", "service": "u", "request_headers": {"set": {"x-real-ip": "rule"}}},
        {"path": "/short/{rest*}", "service": "u", "rewrite": "/{rest}"},
        {"path": "/other", "service": "plain"},
    ]
    with serving(deployment_of(services, routes)) as nginx, nginx.connect() as client:
        forged = [("X-Real-IP", "1.2.3.4"), ("X-Forwarded-Port", "1"), ("Forwarded", "for=1.2.3.4")]
        for path in ("/plain/a", "/short/a", "/other"):
            assert client.request("GET", path, *forged).status == 200
    assert [request.target for request in upstream.requests] == [b"/v1/plain/a", b"/v1/a"]
    for request in upstream.requests:
        assert (request.all("x-real-ip"), request.all("forwarded")) == ([b"127.0.0.1"], [])
        assert request.all("x-forwarded-port") not in ([], [b"1"])
    (request,) = plain.requests
    assert [request.all(name) for name in ("x-real-ip", "x-forwarded-port", "forwarded")] == [[], [], []]


def test_fields_that_guards_set_on_other_routes_are_removed(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    forward_auth = {"service": "u", "path": "/check", "copy_headers": ["X-User"]}
    jwt = {"secret": "s" * 32, "algorithms": ["HS256"], "forward": {"email": "X-Consumer-Email"}}
    routes = [
        {"path": "/open", "service": "u"},
        {"path": "/checked", "service": "u", "forward_auth": forward_auth},
        {"path": "/token", "service": "u", "auth": ["jwt"], "identity_token": True},
    ]
    top = {"jwt": {**jwt, "issuer": "i", "audience": "a"}, "identity_token": {"secret": "s" * 32}}
    names = ("X-User", "X-Consumer-Email", "X-Consumer-Token")
    with serving(deployment_of({"u": targets(upstream)}, routes, **top)) as nginx:
        assert nginx.request("GET", "/open", *((name, "forged") for name in names)).status == 200
    assert b"forged" not in upstream.requests[0].raw


def test_services_whose_names_differ_in_case_only_are_kept_apart(rig: Rig) -> None:
    services = {name: named(rig, name) for name in ("user", "User", "cart_api", "u" * 63)}
    routes = [{"path": f"/{name}", "service": name} for name in services]
    with serving(deployment_of(services, routes)) as nginx, nginx.connect() as client:
        assert [client.request("GET", f"/{name}").body.decode() for name in services] == list(services)


def test_requests_are_spread_over_all_instances_and_a_dead_one_is_skipped(rig: Rig) -> None:
    upstreams = [rig.upstream(answering(ok(b"%d" % number))) for number in range(3)]
    service = {**targets(*upstreams), "balance": "round_robin"}
    with serving(deployment_of({"u": service}, [{"path": "/", "service": "u"}])) as nginx, nginx.connect() as client:
        assert {client.request("GET", "/").body for _ in range(30)} == {b"0", b"1", b"2"}
        upstreams[1].close()
        assert {client.request("GET", "/").body for _ in range(30)} == {b"0", b"2"}


def counting(*fields: bytes) -> Any:
    """Return a script that numbers its responses over all connections."""
    numbers = itertools.count()

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(ok(b"%d" % next(numbers), *fields))

    return script


def twice(client: Client, *fields: tuple[str, str]) -> list[bytes]:
    """Send the same request twice; return the bodies."""
    return [client.request("GET", "/", *fields).body for _ in range(2)]


@pytest.mark.parametrize(
    ("response", "request_field", "stored"),
    [
        ((), None, True),
        ((b"Cache-Control: max-age=0",), None, True),
        ((b"Cache-Control: private",), None, False),
        ((b"Cache-Control: no-store",), None, False),
        ((b"Set-Cookie: a=b",), None, False),
        ((b"Vary: *",), None, False),
        ((), ("Authorization", "Bearer x"), False),
        ((), ("Cache-Control", "no-cache"), False),
    ],
)
def test_only_responses_that_may_be_shared_are_stored(
    rig: Rig, response: tuple[bytes, ...], request_field: tuple[str, str] | None, stored: bool
) -> None:
    upstream = rig.upstream(counting(*response))
    route = {"path": "/", "methods": ["GET"], "service": "u", "cache": {"ttl": "60s"}}
    deployment = deployment_of({"u": targets(upstream)}, [route])
    with serving(deployment) as nginx, nginx.connect() as client:
        first, second = twice(client, *([request_field] if request_field else []))
    assert (first == second) is stored


def test_clients_and_rate_limits_are_refused_as_by_the_gateway(rig: Rig) -> None:
    routes = [
        {"path": "/deny", "service": "u", "clients": {"deny": ["127.0.0.0/8"]}},
        {"path": "/other", "service": "u", "clients": {"allow": ["10.0.0.0/8"]}},
        {"path": "/mine", "service": "u", "clients": {"allow": ["127.0.0.1"]}},
        {"path": "/limited", "service": "u", "rate_limit": {"rate": "3/m"}},
        {"path": "/small", "service": "u", "body": "4B"},
    ]
    services = {"u": named(rig, "u")}
    deployment = deployment_of(services, routes)
    assert in_place(deployment)[1] == []
    gateway = rig.gateway(services, routes)
    with serving(deployment) as nginx:
        for port in (gateway.port, nginx.port):
            seen = []
            for path in ("/deny", "/other", "/mine", *["/limited"] * 4):
                with Client(port) as client:
                    seen.append(client.request("GET", path).status)
            assert seen == [403, 403, 200, 200, 200, 200, 429]
            with Client(port) as client:
                assert client.request("POST", "/small", body=b"12345").status == 413


def test_security_fields_are_added_where_the_service_has_none(rig: Rig) -> None:
    own = rig.upstream(answering(ok(b"", b"X-Frame-Options: SAMEORIGIN")))
    routes = [
        {"path": "/none", "service": "none"},
        {"path": "/own", "service": "own"},
        {"path": "/override", "service": "own", "security_headers": {"override": True}},
        {"path": "/off", "service": "own", "security_headers": "off"},
    ]
    services = {"none": named(rig, "none"), "own": targets(own)}
    gateway = rig.gateway(services, routes, security_headers=True)
    names = ("X-Frame-Options", "X-Content-Type-Options", "Referrer-Policy", "Strict-Transport-Security")
    with serving(deployment_of(services, routes, security_headers=True)) as nginx:
        for path in ("/none", "/own", "/override", "/off", "/missing"):
            seen = []
            for client in (gateway.connect(), nginx.connect()):
                with client:
                    response = client.request("GET", path)
                seen.append([response.all(name) for name in names])
            assert seen[0] == seen[1], path


SECRETS = {"TOKEN": "s3cret-of-the-environment-0123456789"}


def test_no_secret_is_exported() -> None:
    services = {
        "u": {
            "targets": ["http://127.0.0.1:5000"],
            "balance": {"policy": "p2c", "sticky": {"cookie": "at", "secret": "${TOKEN}"}},
            "health": {"path": "/", "headers": {"Authorization": "${TOKEN}"}},
        },
        "local": {"app": "a:b", "env": {"DATABASE": "${TOKEN}"}},
    }
    fields = {"X-Plain": "${TOKEN}", "Authorization": "Bearer s3cret-in-the-file"}
    routes = [
        {"path": "/", "service": "u", "auth": ["jwt"], "request_headers": {"set": fields}},
        {"path": "/x", "service": "u", "request_headers": {"set": fields}},
        {"path": "/y", "service": "local"},
    ]
    top = {
        "redis": "redis://:${TOKEN}@127.0.0.1/0",
        "jwt": {"secret": "${TOKEN}", "algorithms": ["HS256"], "issuer": "i", "audience": "a"},
        "admin": {"listen": "127.0.0.1:9900", "token": "${TOKEN}"},
    }
    text = json.dumps({**top, "services": services, "routes": routes})
    assert_no_secret(text)


def assert_no_secret(text: str) -> None:
    from passerelle.export import prometheus_rules, systemd
    from tests.export.serving import deployed, in_front

    deployment = deployed(text, environ=SECRETS)
    exports = [
        in_place(deployment)[0],
        in_front(deployment)[0],
        systemd.export(deployment, "/usr/local/bin/passerelle", "passerelle")[0],
        prometheus_rules.export(deployment)[0],
    ]
    assert not [export for export in exports if "s3cret" in export]
    assert "TOKEN" in exports[2]  # by its name
    lost = in_place(deployment)[1]
    assert {"routes[1].request_headers.set.X-Plain", "routes[1].request_headers.set.Authorization"} <= set(lost)
