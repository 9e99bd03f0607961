"""nginx in front of gateways: requests and responses pass unchanged, and a gateway that ends costs no request."""

from __future__ import annotations

from typing import Any

import pytest

from passerelle.config.models.addresses import Address
from passerelle.system import ports
from tests.conformance.conftest import loop, rig
from tests.export.serving import Nginx, deployment_of, in_front
from tests.requirements import needs
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, answering, ok

__all__ = ["loop", "rig"]

pytestmark = needs("nginx")

ROUTES = [{"path": "/{rest*}", "service": "u", "encoded_slashes": "keep"}]
TARGETS = {"u": {"targets": ["http://127.0.0.1:5000"]}}


def front(*gateways: Running) -> Nginx:
    """Start nginx in front of these gateways."""
    port = ports.free()
    addresses = [Address(host="127.0.0.1", port=gateway.port) for gateway in gateways]
    return Nginx(in_front(deployment_of(TARGETS, ROUTES), *addresses, port=port)[0], port)


def test_no_request_fails_while_one_of_two_gateways_ends(rig: Rig) -> None:
    services = {"u": {"targets": [rig.upstream(answering(ok(b"fine"))).url]}}
    gateways = [rig.gateway(services, ROUTES) for _ in range(2)]
    with front(*gateways) as nginx:
        bodies = [nginx.request("GET", "/").body for _ in range(20)]
        gateways[0].stop(1.0)
        bodies += [nginx.request("GET", "/").body for _ in range(20)]
    assert bodies == [b"fine"] * 40


def test_paths_arrive_as_the_client_sent_them(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, ROUTES)
    targets = ["/a%2Fb", "/a%20b?x=%2F//", "/%C3%A9", "/a;b=c"]
    with front(gateway) as nginx:
        for target in targets:
            assert nginx.request("GET", target).status == 200
        assert nginx.request("GET", "/a/..;/b").status == 400
    assert [request.target.decode() for request in upstream.requests] == targets


def test_a_trusted_nginx_states_the_client_and_a_client_cannot(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, ROUTES, trusted_proxies=["127.0.0.1"])
    forged = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Prefix": "/evil",
        "X-Request-Id": "evil",
    }
    with front(gateway) as nginx:
        nginx.request("GET", "/", *forged.items())
    received = upstream.requests[0]
    assert [received.all(name) for name in forged][:3] == [[b"gw"], [b"http"], []]
    assert b"evil" not in received.raw
    assert len(received.all("X-Request-Id")[0]) == 32


def test_a_stream_is_not_held_back(rig: Rig) -> None:
    def streaming(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        conn.read_request()  # until the connection is closed

    gateway = rig.gateway({"u": {"targets": [rig.upstream(streaming).url]}}, ROUTES)
    with front(gateway) as nginx, nginx.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")
        assert b"first" in client.until(b"first\r\n")


@pytest.mark.parametrize(
    ("route", "service", "key"),
    [
        ({"clients": {"allow": ["10.0.0.0/8"]}}, {}, "routes[0].clients"),
        ({"rate_limit": [{"rate": "3/m"}]}, {}, "routes[0].rate_limit[0]"),
        ({}, {"balance": {"policy": "hash", "by": "address"}}, "services.u.balance.by"),
    ],
)
def test_keys_that_use_the_address_of_the_client_need_trusted_proxies(
    route: dict[str, Any], service: dict[str, Any], key: str
) -> None:
    services, routes = {"u": {**TARGETS["u"], **service}}, [{**ROUTES[0], **route}]
    assert in_front(deployment_of(services, routes))[1] == [key]
    assert in_front(deployment_of(services, routes, trusted_proxies=["10.0.0.1"]))[1] == []


def test_tls_ends_at_nginx_and_what_that_loses_is_listed() -> None:
    tls = {"certificate": "tls/c.pem", "key": "/keys/k $1.pem", "client_ca": "ca.pem", "minimum": "1.3"}
    routes = [{**ROUTES[0], "auth": ["mtls"]}]
    text, lost = in_front(deployment_of(TARGETS, routes, tls=tls))
    assert lost == ["tls", "tls.client_ca"]
    lines = [line.strip() for line in text.splitlines()]
    assert "ssl_certificate /etc/passerelle/tls/c.pem;" in lines
    assert 'ssl_certificate_key "/keys/k $1.pem";' in lines
    assert "ssl_protocols TLSv1.3;" in lines
    assert "proxy_pass https://gateways;" in lines


def test_bodies_and_waits_have_the_largest_limits_of_all_routes() -> None:
    routes = [{**ROUTES[0], "body": "1KiB", "timeout": "2h"}, {"path": "/big", "service": "u", "body": "64MiB"}]
    text, _ = in_front(deployment_of(TARGETS, routes))
    assert "client_max_body_size 64m;" in text
    assert "proxy_read_timeout 7205s;" in text
    unlimited, _ = in_front(deployment_of(TARGETS, [*routes, {"path": "/all", "service": "u", "body": "unlimited"}]))
    assert "client_max_body_size 0;" in unlimited
