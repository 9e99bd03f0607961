"""The Host that a service receives: that of the client, the address of the instance, or a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import Rig
from tests.support.secure import Authority, SecureUpstream, server_context
from tests.support.upstream import Upstream, answering, ok

JSON = ok(b"{}", b"Content-Type: application/json")


def authority(upstream: Upstream) -> bytes:
    return upstream.url.removeprefix("http://").encode()


def test_services_receive_the_host_of_the_client_by_default(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    rig.connect(rig.forward(upstream)).request("GET", "/")
    assert upstream.requests[0].all("host") == [b"gw"]


@pytest.mark.parametrize("route", [{}, {"cache": {}}, {"request_headers": {"set": {"X-A": "1"}}}, {"attempts": 1}])
def test_a_service_receives_the_name_that_is_set(rig: Rig, route: dict[str, Any]) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream, service={"host": "shop.example:8080"}, route=route)
    client = rig.connect(gateway)
    client.send(b"GET / HTTP/1.1\r\nX-Before: Host: a\r\nhOsT: client.example\r\nX-After: 1\r\n\r\n")
    assert client.read_response().status == 200
    (request,) = upstream.requests
    assert request.all("host") == [b"shop.example:8080"]
    assert request.all("x-forwarded-host") == [b"client.example"]
    assert (request.all("x-before"), request.all("x-after")) == ([b"Host: a"], [b"1"])


def test_a_service_receives_the_address_of_the_instance_of_each_attempt(rig: Rig) -> None:
    failing, working = rig.upstream(answering(ok())), rig.upstream(answering(ok()))
    failing.refuse()
    client = rig.connect(rig.forward(failing, working, service={"host": "upstream", "eject": "off"}))
    for _ in range(4):
        assert client.request("POST", "/", body=b"x").status == 200
    assert {request.get("host") for request in working.requests} == {authority(working)}


def test_a_client_of_http_1_0_without_a_host(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream, service={"host": "shop.example"}))
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert client.read_response().status == 200
    assert upstream.requests[0].all("host") == [b"shop.example"]


def test_parts_and_authorization_requests_receive_it_too(rig: Rig) -> None:
    shop, users, auth = (rig.upstream(answering(JSON)) for _ in range(3))
    services = {
        "shop": {"targets": [shop.url], "host": "shop.example"},
        "users": {"targets": [users.url], "host": "upstream"},
        "auth": {"targets": [auth.url], "host": "auth.example"},
    }
    parts = {"a": {"service": "shop", "path": "/a"}, "b": {"service": "users", "path": "/b"}}
    route = {"path": "/", "compose": parts, "forward_auth": {"service": "auth", "path": "/verify"}}
    assert rig.connect(rig.gateway(services, [route])).request("GET", "/").status == 200
    assert shop.requests[0].all("host") == [b"shop.example"]
    assert users.requests[0].all("host") == [authority(users)]
    assert auth.requests[0].all("host") == [b"auth.example"]


def test_a_hedge_receives_the_address_of_its_own_instance(rig: Rig) -> None:
    slow = rig.upstream(lambda conn: conn.read_request() and conn.wait_closed())
    quick = rig.upstream(answering(ok()))
    service = {"host": "upstream", "balance": "round_robin"}
    client = rig.connect(rig.forward(slow, quick, service=service, route={"hedge": {"after": "20ms"}}))
    for _ in range(2):
        assert client.request("GET", "/").status == 200
    assert {request.get("host") for request in quick.requests} == {authority(quick)}
    assert {request.get("host") for request in slow.requests} == {authority(slow)}


def test_a_reload_sets_it_for_the_next_request(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    client.request("GET", "/")
    for host in ("one.example", "two.example"):
        gateway.reload({"u": {"targets": [upstream.url], "host": host}}, [{"path": "/{r*}", "service": "u"}])
        client.request("GET", "/")
    assert [r.get("host") for r in upstream.requests] == [b"gw", b"one.example", b"two.example"]


def test_the_name_is_also_that_of_the_certificate(rig: Rig, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    upstream = SecureUpstream(answering(ok()), server_context(authority.issue("shop", "shop.example"), None))
    rig.upstreams.append(upstream)
    tls = {"tls": {"ca": str(authority.file)}}
    assert rig.connect(rig.forward(upstream, service={**tls, "host": "shop.example:8443"})).request().status == 200
    assert rig.connect(rig.forward(upstream, service={**tls, "host": "other.example"})).request().status == 502
    named = {"tls": {"ca": str(authority.file), "server_name": "shop.example"}, "host": "other.example"}
    assert rig.connect(rig.forward(upstream, service=named)).request().status == 200
    assert upstream.requests[-1].all("host") == [b"other.example"]
