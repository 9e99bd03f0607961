"""Header rules and security headers in a running gateway, for responses of every origin."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from passerelle.http.field_rules import OWN_REQUEST, OWN_REQUEST_PREFIXES
from passerelle.security.credentials.api_keys import KeyStore
from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.secure import Authority, SecureClient
from tests.support.upstream import Upstream, answering, ok
from tests.support.wire import Response

JSON = b"Content-Type: application/json"
CAREFUL = {
    "x-content-type-options": b"nosniff",
    "x-frame-options": b"DENY",
    "referrer-policy": b"no-referrer",
    "cross-origin-opener-policy": b"same-origin",
    "cross-origin-resource-policy": b"same-origin",
}


def ruled(rig: Rig, *fields: bytes, **route: Any) -> tuple[Upstream, Client]:
    upstream = rig.upstream(answering(ok(b"{}", JSON, *fields)))
    gateway = rig.forward(upstream, route={"path": "/{user}/{rest*}", **route})
    return upstream, rig.connect(gateway)


# ---- requests


def test_request_header_rules_apply_to_services(rig: Rig) -> None:
    rules = {
        "set": {"X-User": "u:{user}", "Accept-Language": "en", "X-Flag": "on"},
        "add": {"X-Trace": "{rest}"},
        "remove": ["Cookie", "X-Debug"],
    }
    upstream, client = ruled(rig, request_headers=rules)
    sent = [
        *(("X-User", "root"), ("x_user", "root"), ("X_Flag", "off"), ("Accept-Language", "de"), ("X-Trace", "1")),
        *(("Cookie", "a=b"), ("X-DEBUG", "1"), ("X_Debug", "1"), ("X-Debugger", "stays"), ("X-Empty", "")),
    ]
    assert client.request("GET", "/a%3A%20b/c/d", *sent).status == 200
    assert client.request("GET", "/a%0D%0AX-Evil:1/b").status == 400
    (request,) = upstream.requests
    assert request.all("x-user") == [b"u:a%3A%20b"]
    assert request.all("x-flag") == [b"on"]
    assert request.all("accept-language") == [b"en"]
    assert request.all("x-trace") == [b"1", b"c/d"]
    assert request.all("x-debugger") == [b"stays"]
    assert request.all("x-empty") == [b""]
    assert not {"cookie", "x-debug", "x_debug", "x_user", "x_flag"} & set(request.names())
    assert len(request.all("host")) == len(request.all("x-request-id")) == len(request.all("x-forwarded-for")) == 1


def test_the_gateway_writes_each_field_that_only_it_may_set(rig: Rig, tmp_path: Path) -> None:
    upstream = rig.upstream(answering(ok()))
    key = KeyStore(tmp_path / "keys.db").create("acme", (), int(time.time()), None)[1]
    route = {"auth": ["key"], "tell_deadline": True}
    client = rig.connect(rig.forward(upstream, route=route, keys={"store": str(tmp_path / "keys.db")}))
    assert client.request("GET", "/", ("X-API-Key", key)).status == 200
    names = set(upstream.requests[0].names())
    assert names >= OWN_REQUEST
    for prefix in OWN_REQUEST_PREFIXES:
        assert any(name.startswith(prefix) for name in names), prefix


def test_rules_may_set_forwarding_fields_that_the_gateway_does_not_write(rig: Rig) -> None:
    rules = {"X-Real-IP": "10.0.0.1", "X-Forwarded-Port": "443", "X-Forwarded-Prefix": "/shop"}
    upstream, client = ruled(rig, request_headers={"set": rules})
    forged = [(name, "forged") for name in (*rules, "X_Real_IP", "X-Forwarded-Server")]
    assert client.request("GET", "/a/b", *forged).status == 200
    (request,) = upstream.requests
    assert {name: request.all(name) for name in rules} == {name: [value.encode()] for name, value in rules.items()}
    assert not {"x_real_ip", "x-forwarded-server"} & set(request.names())


# ---- the prefix that a rewrite strips


@pytest.mark.parametrize(
    ("path", "rewrite", "target", "prefix"),
    [
        ("/fl/{r*}", "/{r}", "/fl/a/b", b"/fl"),
        ("/api/v1/{r*}", "/v1/{r}", "/api/v1/x", b"/api"),
        ("/shop/user/{id}", "/user/{id}", "/shop/user/7", b"/shop"),
        ("/fl/{r*}", "/app/{r}", "/fl/a", None),
        ("/{tenant}/x/{r*}", "/x/{r}", "/t/x/a", None),
        ("/fl/{r*}", "/fl/{r}", "/fl/a", None),
        ("/fl/{r*}", None, "/fl/a", None),
    ],
)
def test_a_service_receives_the_prefix_that_a_rewrite_strips(
    rig: Rig, path: str, rewrite: str | None, target: str, prefix: bytes | None
) -> None:
    route = {"path": path, **({"rewrite": rewrite} if rewrite else {})}
    upstream, client = ruled(rig, **route)
    assert client.request("GET", target, ("X-Forwarded-Prefix", "/forged")).status == 200
    assert upstream.requests[0].all("x-forwarded-prefix") == ([prefix] if prefix else [])


@pytest.mark.parametrize(
    ("sent", "rewrite", "received"),
    [
        ("/outer", "/{r}", b"/outer/fl"),
        ("/outer/", "/{r}", b"/outer/fl"),
        ("/outer", "/fl/{r}", b"/outer"),
        ("//evil.example", "/{r}", b"/fl"),
        ("/a, /b", "/fl/{r}", None),
        ("https://evil.example/", "/fl/{r}", None),
    ],
)
def test_the_prefix_of_a_trusted_proxy_comes_first(rig: Rig, sent: str, rewrite: str, received: bytes | None) -> None:
    upstream = rig.upstream(answering(ok()))
    route = {"path": "/fl/{r*}", "rewrite": rewrite}
    client = rig.connect(rig.forward(upstream, route=route, trusted_proxies=["127.0.0.1"]))
    assert client.request("GET", "/fl/a", ("X-Forwarded-Prefix", sent)).status == 200
    assert upstream.requests[0].all("x-forwarded-prefix") == ([received] if received else [])


def test_a_rule_for_the_prefix_replaces_it(rig: Rig) -> None:
    upstream, client = ruled(
        rig, path="/fl/{r*}", rewrite="/{r}", request_headers={"set": {"X-Forwarded-Prefix": "/own"}}
    )
    assert client.request("GET", "/fl/a").status == 200
    assert upstream.requests[0].all("x-forwarded-prefix") == [b"/own"]


def test_a_body_goes_on_as_it_is(rig: Rig) -> None:
    upstream, client = ruled(rig, request_headers={"set": {"Content-Type": "application/json"}})
    assert client.request("POST", "/a/b", ("Content-Type", "text/plain"), body=b"[1]").status == 200
    (request,) = upstream.requests
    assert (request.body, request.get("content-type")) == (b"[1]", b"application/json")


def test_parts_of_a_composition_get_them_too(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"{}", JSON)))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {
                "path": "/{user}",
                "compose": {"a": {"service": "u", "path": "/a"}, "b": {"service": "u", "path": "/b"}},
                "request_headers": {"set": {"X-User": "{user}"}, "remove": "Cookie"},
            }
        ],
    )
    answer = rig.connect(gateway).request("GET", "/42", ("Cookie", "a=b"), ("X-User", "root"))
    assert answer.status == 200
    assert [request.all("x-user") for request in upstream.requests] == [[b"42"], [b"42"]]
    assert not any(request.all("cookie") for request in upstream.requests)


def test_a_client_s_own_fields_are_gone_from_every_request_of_a_connection(rig: Rig) -> None:
    upstream, client = ruled(rig, request_headers={"set": {"Authorization": "Basic c2VjcmV0"}})
    for _ in range(3):
        client.request("GET", "/a/b", ("Authorization", "Bearer mine"))
    assert [request.all("authorization") for request in upstream.requests] == [[b"Basic c2VjcmV0"]] * 3


# ---- responses

RULES = {"set": {"Server": "shop", "Cache-Control": "no-cache"}, "add": {"Link": "</a>"}, "remove": ["X-Powered-By"]}
ITS_OWN = (b"Server: Flask/3", b"X-Powered-By: Python", b"x-powered-by: WSGI", b"Link: </own>", b'ETag: "1"')


def follows_the_rules(answer: Response) -> bool:
    assert answer.all("server") == [b"shop"]
    assert answer.all("cache-control") == [b"no-cache"]
    assert not answer.all("x-powered-by")
    return b"</a>" in answer.all("link")


def test_response_header_rules_apply_to_clients(rig: Rig) -> None:
    _, client = ruled(rig, *ITS_OWN, response_headers=RULES)
    answer = client.request("GET", "/a/b")
    assert follows_the_rules(answer)
    assert answer.all("link") == [b"</own>", b"</a>"]
    assert answer.get("etag") == b'"1"'
    assert follows_the_rules(client.request("HEAD", "/a/b"))


def test_what_is_stored_stays_as_it_came(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"{}", JSON, b"Cache-Control: max-age=60", *ITS_OWN)))
    services = {"u": {"targets": [upstream.url]}}
    ruled_route = {"path": "/{rest*}", "service": "u", "cache": {}, "response_headers": RULES}
    gateway = rig.gateway(services, [ruled_route])
    client = rig.connect(gateway)
    for fields, status in (((), 200), ((), 200), ((("If-None-Match", '"1"'),), 304), ((("Range", "bytes=0-0"),), 206)):
        answer = client.request("GET", "/a", *fields)
        assert answer.status == status
        assert follows_the_rules(answer)
    gateway.reload(services, [{"path": "/{rest*}", "service": "u", "cache": {}}])
    answer = client.request("GET", "/a")
    assert (answer.get("server"), answer.get("cache-control")) == (b"Flask/3", b"max-age=60")
    assert len(answer.all("x-powered-by")) == 2
    assert len(upstream.requests) == 1


def test_compositions_and_the_gateway_s_own_answers(rig: Rig, tmp_path: Path) -> None:
    upstream = rig.upstream(answering(ok(b"{}", JSON)))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/whole", "compose": {"a": {"service": "u", "path": "/a"}}, "response_headers": RULES},
            {"path": "/key", "service": "u", "auth": ["key"], "response_headers": RULES},
        ],
        keys={"store": str(tmp_path / "keys.db")},
    )
    client = rig.connect(gateway)
    assert follows_the_rules(client.request("GET", "/whole"))
    refused = client.request("GET", "/key")
    assert refused.status == 401
    assert follows_the_rules(refused)
    assert refused.get("www-authenticate") is not None


def test_the_gateway_s_own_cookies_are_not_the_service_s(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"{}", b"Set-Cookie: own=1")))
    balance = {"policy": "p2c", "sticky": {"cookie": "at", "secret": "0123456789abcdef0123456789abcdef"}}
    gateway = rig.forward(
        upstream, service={"balance": balance}, route={"response_headers": {"remove": ["Set-Cookie"]}}
    )
    (cookie,) = rig.connect(gateway).request("GET", "/").all("set-cookie")
    assert b"own" not in cookie


# ---- security headers


def test_security_headers_are_on_every_answer(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"{}", JSON, b"Cache-Control: max-age=60")))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/a", "methods": ["GET"], "service": "u"},
            {"path": "/kept", "service": "u", "cache": {}},
            {"path": "/whole", "compose": {"a": {"service": "u", "path": "/a"}}},
            {"path": "/off", "service": "u", "security_headers": "off"},
            {
                "path": "/own",
                "service": "u",
                "security_headers": {"frame_options": "SAMEORIGIN", "opener_policy": "off"},
            },
        ],
        security_headers=True,
    )
    client = rig.connect(gateway)
    asked = [("GET", "/a"), ("POST", "/a"), ("GET", "/kept"), ("GET", "/kept"), ("GET", "/whole"), ("GET", "/none")]
    for method, path in asked:
        answer = client.request(method, path)
        assert {name: answer.get(name) for name in CAREFUL} == CAREFUL, path
        assert answer.get("strict-transport-security") is None
    assert client.request("POST", "/a").status == 405
    assert not set(CAREFUL) & set(client.request("GET", "/off").names())
    own = client.request("GET", "/own")
    assert (own.get("x-frame-options"), own.get("cross-origin-opener-policy")) == (b"SAMEORIGIN", None)
    gateway.reload({"u": {"targets": [upstream.url]}}, [{"path": "/a", "service": "u"}], security_headers="off")
    assert not set(CAREFUL) & {*client.request("GET", "/a").names(), *client.request("GET", "/none").names()}


@pytest.mark.parametrize(("override", "frame", "csp"), [(False, b"SAMEORIGIN", b"own"), (True, b"DENY", b"a 'none'")])
def test_headers_that_the_service_sets_itself(rig: Rig, override: bool, frame: bytes, csp: bytes) -> None:
    settings = {"override": override, "content_security_policy": "a 'none'"}
    own = (b"x-frame-options: SAMEORIGIN", b"Content-Security-Policy: own")
    _, client = ruled(rig, *own, security_headers=settings)
    answer = client.request("GET", "/a/b")
    assert answer.get("x-frame-options") == frame
    assert answer.get("content-security-policy") == csp
    assert answer.get("x-content-type-options") == b"nosniff"


@pytest.mark.parametrize(
    ("trusted", "proto", "told"),
    [(["127.0.0.0/8"], "https", b"max-age=9"), (["127.0.0.0/8"], "http", None), ([], "https", None)],
)
def test_hsts_is_for_tls(rig: Rig, trusted: list[str], proto: str, told: bytes | None) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream, trusted_proxies=trusted, security_headers={"hsts": "max-age=9"})
    answer = rig.connect(gateway).request("GET", "/", ("X-Forwarded-Proto", proto))
    assert answer.get("strict-transport-security") == told


def test_a_stored_response_has_hsts_for_tls_clients(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"{}", b"Cache-Control: max-age=60")))
    top = {"trusted_proxies": ["127.0.0.0/8"], "security_headers": {"hsts": "max-age=9"}}
    client = rig.connect(rig.forward(upstream, route={"cache": {}}, **top))
    for proto, told in (("http", None), ("https", b"max-age=9"), ("http", None), ("https", b"max-age=9")):
        answer = client.request("GET", "/", ("X-Forwarded-Proto", proto))
        assert answer.get("strict-transport-security") == told
    assert len(upstream.requests) == 2  # one for each scheme, which the service receives


def test_hsts_over_tls(rig: Rig, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway", "localhost")
    tls = {"certificate": str(certificate), "key": str(key)}
    gateway = rig.forward(rig.upstream(answering(ok())), tls=tls, security_headers=True)
    client = SecureClient(gateway.port, authority.client_context())
    rig.clients.append(client)
    assert client.request("GET", "/").get("strict-transport-security") == b"max-age=31536000"


def test_rules_and_security_headers_together(rig: Rig) -> None:
    rules = {"set": {"X-Frame-Options": "SAMEORIGIN"}}
    _, client = ruled(rig, b"X-Frame-Options: ALLOW", response_headers=rules, security_headers={"override": True})
    assert client.request("GET", "/a/b").get("x-frame-options") == b"SAMEORIGIN"
