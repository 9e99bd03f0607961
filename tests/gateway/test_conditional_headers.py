"""Header rules with conditions in a running gateway."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.upstream import Connection, Upstream, answering, ok

RESPONSES = {
    "/json": b'HTTP/1.1 200 OK\r\nContent-Type: Application/JSON; charset=utf-8\r\nETag: "1"\r\n',
    "/page": b"HTTP/1.1 200 OK\r\nCONTENT-TYPE: text/html\r\nX-Old: 1\r\nX-Old: 2\r\n",
    "/gone": b"HTTP/1.1 404 Not Found\r\nCache-Control: max-age=60\r\n",
    "/broken": b"HTTP/1.1 503 No\r\n",
}


def by_path(conn: Connection) -> None:
    while True:
        request = conn.read_request()
        conn.send(RESPONSES[request.target.decode()] + b"Content-Length: 0\r\n\r\n")


def ruled(rig: Rig, **route: Any) -> tuple[Upstream, Client]:
    upstream = rig.upstream(by_path)
    return upstream, rig.connect(rig.forward(upstream, route={"path": "/{rest*}", "attempts": 1, **route}))


RULES = {
    "set": {"X-Always": "1"},
    "default": {"Cache-Control": "no-store"},
    "when": [
        {"status": ["4xx", 503], "set": {"X-Always": "error"}, "remove": "ETag"},
        {"content_type": "text/*", "add": {"X-Page": "1"}, "remove": ["X-Old"]},
        {"content_type": ["application/json"], "present": ["ETag"], "set": {"X-Tagged": "yes"}},
        {"absent": ["Content-Type", "X-Old"], "default": {"X-Bare": "1", "X-Always": "no"}},
        {"present": "X-Always", "set": {"X-Never": "rules see what the service sent"}},
    ],
}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/json", {"x-always": [b"1"], "cache-control": [b"no-store"], "x-tagged": [b"yes"], "etag": [b'"1"']}),
        ("/page", {"x-always": [b"1"], "cache-control": [b"no-store"], "x-page": [b"1"]}),
        ("/gone", {"x-always": [b"error"], "cache-control": [b"max-age=60"], "x-bare": [b"1"]}),
        ("/broken", {"x-always": [b"error"], "cache-control": [b"no-store"], "x-bare": [b"1"]}),
    ],
)
def test_rules_for_some_responses(rig: Rig, path: str, fields: dict[str, list[bytes]]) -> None:
    _, client = ruled(rig, response_headers=RULES)
    answer = client.request("GET", path)
    names = ("x-always", "cache-control", "x-page", "x-old", "x-tagged", "x-bare", "x-never", "etag")
    assert {name: answer.all(name) for name in names if answer.all(name)} == fields


def test_they_apply_to_stored_responses_and_to_errors_of_the_gateway(rig: Rig) -> None:
    rules = {"when": [{"status": "2xx", "set": {"X-Good": "1"}}, {"status": "5xx", "default": {"Retry-After": "7"}}]}
    upstream = rig.upstream(answering(ok(b"a", b"Cache-Control: max-age=60")))
    services = {"u": {"targets": [upstream.url]}}
    routes: list[dict[str, Any]] = [
        {"path": "/a", "service": "u", "cache": {}, "response_headers": rules},
        {"path": "/b", "respond": {"status": 500}, "response_headers": rules},
    ]
    client = rig.connect(rig.gateway(services, routes))
    assert [client.request("GET", "/a").all("x-good") for _ in range(3)] == [[b"1"]] * 3
    assert len(upstream.requests) == 1
    failed = client.request("GET", "/b")
    assert (failed.all("x-good"), failed.all("retry-after")) == ([], [b"7"])


def test_with_security_headers_and_a_rewritten_location(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"", b"Location: /inner", b"X-Frame-Options: ALLOW")))
    route = {
        "path": "/a/{rest*}",
        "rewrite": "/{rest}",
        "rewrite_response": True,
        "security_headers": {"override": True},
        "cors": {"origins": ["https://a.example"]},
        "response_headers": {"when": {"present": "Location", "set": {"Referrer-Policy": "origin"}}},
    }
    client = rig.connect(rig.forward(upstream, route=route))
    answer = client.request("GET", "/a/b", ("Origin", "https://a.example"))
    assert answer.all("location") == [b"/a/inner"]
    assert answer.all("x-frame-options") == [b"DENY"]
    assert answer.all("referrer-policy") == [b"origin"]  # a rule of the route comes before the default for all
    assert answer.all("access-control-allow-origin") == [b"https://a.example"]


def test_rules_for_some_requests(rig: Rig) -> None:
    rules = {
        "default": {"X-Tenant": "none", "Accept-Language": "en"},
        "when": [
            {"absent": "X-Tenant", "set": {"X-Path": "{rest}"}},
            {"content_type": "application/json", "remove": "X-Debug", "add": {"X-Kind": "json"}},
            {"present": ["X-Debug"], "default": {"X-Level": "debug"}},
        ],
    }
    upstream = rig.upstream(answering(ok(b"")))
    client = rig.connect(rig.forward(upstream, route={"path": "/{rest*}", "request_headers": rules}))
    client.request("GET", "/a%20b")
    client.request("GET", "/a", ("x_tenant", "t"), ("X-Debug", "1"))
    client.request("POST", "/a", ("X-Tenant", ""), ("X-Debug", "1"), ("Content-Type", "application/json"), body=b"{}")
    bare, debugged, sent = upstream.requests
    names = ("x-tenant", "x_tenant", "x-path", "x-kind", "x-debug", "x-level", "accept-language")

    def received(request: Any) -> dict[str, list[bytes]]:
        return {name: request.all(name) for name in names if request.all(name)}

    assert received(bare) == {"x-tenant": [b"none"], "x-path": [b"a%20b"], "accept-language": [b"en"]}
    assert received(debugged) == {
        "x_tenant": [b"t"],
        "x-debug": [b"1"],
        "x-level": [b"debug"],
        "accept-language": [b"en"],
    }
    assert received(sent) == {"x-tenant": [b""], "x-kind": [b"json"], "x-level": [b"debug"], "accept-language": [b"en"]}
