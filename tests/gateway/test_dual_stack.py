"""A listener on every address of both families: IPv4 clients have their IPv4 addresses everywhere."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from passerelle.config import load_text
from passerelle.gateway.gateway import Gateway
from passerelle.http1.server.listener import peer_address
from passerelle.system import ports
from tests.support.client import head
from tests.support.gateways import Rig
from tests.support.secure import Authority, SecureClient
from tests.support.upstream import answering, ok
from tests.support.wire import Wire


class DualStack:
    """A gateway on ``[::]``."""

    def __init__(self, rig: Rig, **top: Any) -> None:
        self.upstream = rig.upstream(answering(ok()))
        settings = {
            "listen": "[::]:0",
            "admin": "off",
            "access_log": "off",
            **top,
            "services": {"u": {"targets": [self.upstream.url]}},
            "routes": [
                {"path": "/{rest*}", "service": "u"},
                {"path": "/v4", "service": "u", "clients": {"allow": ["127.0.0.1"]}},
            ],
        }
        config = load_text(json.dumps(settings))
        (sock,) = ports.for_clients(config.address.host, 0)
        self._rig = rig
        self._gateway = rig.loop.call(lambda: Gateway(config))
        _, self.port = rig.loop.run(self._gateway.start(sock))

    def __enter__(self) -> DualStack:
        return self

    def __exit__(self, *_: object) -> None:
        self._rig.loop.run(self._gateway.stop(0.0))

    def status(self, host: str, target: str = "/") -> int:
        wire = Wire(socket.create_connection((host, self.port), 5))
        try:
            wire.send(head("GET", target))
            return wire.read_response().status
        finally:
            wire.close()


def test_clients_of_both_families_are_served_with_their_own_addresses(rig: Rig) -> None:
    with DualStack(rig) as gateway:
        assert (gateway.status("127.0.0.1"), gateway.status("::1")) == (200, 200)
        addresses = [request.get("x-forwarded-for") for request in gateway.upstream.requests]
        assert addresses == [b"127.0.0.1", b"::1"]
        assert (gateway.status("127.0.0.1", "/v4"), gateway.status("::1", "/v4")) == (200, 403)


def test_clients_of_both_families_are_served_over_tls_too(rig: Rig, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway", "localhost")
    with (
        DualStack(rig, tls={"certificate": str(certificate), "key": str(key)}) as gateway,
        SecureClient(gateway.port, authority.client_context()) as client,
    ):
        assert client.request().status == 200
        assert gateway.upstream.requests[0].get("x-forwarded-for") == b"127.0.0.1"


def test_an_address_of_ipv6_alone_serves_ipv6_alone() -> None:
    (sock,) = ports.for_clients("::1", 0)
    with sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_a_port_that_ipv4_has_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ports.PortTaken):
        ports.for_clients("::", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("name", "address"),
    [
        (("::ffff:10.0.0.1", 1, 0, 0), b"10.0.0.1"),
        (("2001:db8::1", 1, 0, 0), b"2001:db8::1"),
        (("10.0.0.1", 1), b"10.0.0.1"),
        ("", b"local"),
    ],
)
def test_addresses_of_clients(name: object, address: bytes) -> None:
    assert peer_address(name) == address
