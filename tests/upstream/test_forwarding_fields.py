"""Further fields about the client, paths of targets, and Unix sockets: what a service receives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from passerelle.upstream.forwarding_fields import ForwardingFields
from tests.support.gateways import Rig
from tests.support.upstream import answering, ok

ALL = ["Forwarded", "X-Real-IP", "X-Forwarded-Port"]
FORGED = (
    b"Forwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX_Real_IP: 1.2.3.4\r\nX-Forwarded-Port: 1\r\n"
    b"x-forwarded_port: 1\r\nX-Forwarded-For: 1.2.3.4\r\n"
)


def test_a_service_receives_the_fields_that_are_set_and_nothing_that_a_client_sends(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream, service={"forwarding": ALL}))
    client.send(b"GET / HTTP/1.1\r\nHost: shop.example:8443\r\n" + FORGED + b"X-After: 1\r\n\r\n")
    assert client.read_response().status == 200
    (request,) = upstream.requests
    assert request.all("forwarded") == [b'for=127.0.0.1;host="shop.example:8443";proto=http']
    assert request.all("x-real-ip") == [b"127.0.0.1"]
    assert request.all("x-forwarded-port") == [b"8443"]
    assert request.all("x-after") == [b"1"] and request.all("host") == [b"shop.example:8443"]
    assert b"1.2.3.4" not in request.raw


def test_without_the_key_a_service_receives_none_of_them(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    client.send(b"GET / HTTP/1.1\r\nHost: gw\r\n" + FORGED + b"\r\n")
    assert client.read_response().status == 200
    assert [upstream.requests[0].all(name) for name in ("forwarded", "x-real-ip", "x-forwarded-port")] == [[], [], []]


def test_what_a_trusted_proxy_reports_is_in_the_fields(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    services = {"u": {"targets": [upstream.url], "forwarding": ALL}}
    gateway = rig.gateway(services, [{"path": "/", "service": "u"}], trusted_proxies=["127.0.0.1", "10.0.0.0/8"])
    client = rig.connect(gateway)
    client.send(
        b"GET / HTTP/1.1\r\nHost: inner\r\nX-Forwarded-For: 1.2.3.4, 2001:db8::7, 10.0.0.9\r\nX-Real-IP: 1.2.3.4\r\n"
        b'X-Forwarded-Host: shop"\\.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\n\r\n'
    )
    assert client.read_response().status == 200
    (request,) = upstream.requests
    assert request.all("forwarded") == [
        b'for="[2001:db8::7]";host="shop\\"\\\\.example";proto=https, for=10.0.0.9, for=127.0.0.1'
    ]
    assert (request.all("x-real-ip"), request.all("x-forwarded-port")) == ([b"2001:db8::7"], [b"443"])


@pytest.mark.parametrize("route", [{"cache": {}}, {"attempts": 1}, {"tell_deadline": True}, {"rewrite": "/a/{rest}"}])
def test_they_replace_what_rules_set(rig: Rig, route: dict[str, Any]) -> None:
    upstream = rig.upstream(answering(ok()))
    rules = {"request_headers": {"set": {"X-Real-IP": "fixed", "X-Forwarded-Port": "1"}}}
    gateway = rig.forward(upstream, service={"forwarding": ["X-Real-IP"]}, route={**rules, **route})
    assert rig.connect(gateway).request("GET", "/").status == 200
    (request,) = upstream.requests
    assert (request.all("x-real-ip"), request.all("x-forwarded-port")) == ([b"127.0.0.1"], [b"1"])


def test_a_head_without_the_lines_of_the_gateway() -> None:
    head = b"POST /verify HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: somewhere\r\n\r\n"
    added = b"Forwarded: for=unknown\r\nX-Real-IP: somewhere\r\nX-Forwarded-Port: 80\r\n\r\n"
    assert ForwardingFields(ALL).apply(head) == head[:-2] + added


def test_the_path_of_a_target_begins_the_path_of_each_request(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"{}", b"Content-Type: application/json")))
    services = {"u": {"targets": [f"{upstream.url}/v1/api/"]}}
    routes = [
        {"path": "/plain/{r*}", "service": "u"},
        {"path": "/short/{r*}", "service": "u", "rewrite": "/{r}", "cache": {}},
        {"path": "/whole", "compose": {"a": {"service": "u", "path": "/part"}}},
        {"path": "/", "service": "u"},
    ]
    client = rig.connect(rig.gateway(services, routes))
    for path in ("/plain/x?q=/a", "/short/x/y", "/whole", "/"):
        assert client.request("GET", path).status == 200
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: gw\r\n\r\n")
    assert client.read_response().status == 200
    assert [request.target for request in upstream.requests] == [
        b"/v1/api/plain/x?q=/a",
        b"/v1/api/x/y",
        b"/v1/api/part",
        b"/v1/api/",
        b"*",
    ]


def test_a_reload_changes_the_path_and_the_fields(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    routes = [{"path": "/{r*}", "service": "u"}]
    client.request("GET", "/x")
    for path, fields in (("/one", ["X-Real-IP"]), ("/two", [])):
        gateway.reload({"u": {"targets": [upstream.url + path], "forwarding": fields}}, routes)
        client.request("GET", "/x")
    assert [(r.target, r.all("x-real-ip")) for r in upstream.requests] == [
        (b"/x", []),
        (b"/one/x", [b"127.0.0.1"]),
        (b"/two/x", []),
    ]


def test_a_service_on_a_unix_socket(rig: Rig, tmp_path: Path) -> None:
    upstream = rig.upstream(answering(ok(b"here")))
    path = tmp_path / "app.sock"
    services = {"u": {"targets": [f"unix:{path}"], "host": "upstream"}}
    client = rig.connect(rig.gateway(services, [{"path": "/{r*}", "service": "u", "attempts": 1}]))
    assert client.request("GET", "/").status == 502  # nothing listens yet
    upstream.listen_on(path)
    for body in (b"", b"x" * 100_000):
        assert client.request("POST", "/a", body=body).body == b"here"
    assert {request.get("host") for request in upstream.requests} == {b"localhost"}
