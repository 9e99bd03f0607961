"""Several listeners of one gateway: TLS or not, Unix sockets, the PROXY protocol, redirects to https, and reloads."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from passerelle.config import load_text
from passerelle.gateway.endpoints import BoundSocket
from passerelle.gateway.gateway import Gateway
from passerelle.supervisor.listeners import Listeners
from passerelle.system.ports import PortTaken
from tests.http1.server.test_proxy_protocol import FOUR, v2
from tests.support.client import head
from tests.support.gateways import Rig
from tests.support.secure import Authority
from tests.support.upstream import answering, ok
from tests.support.wire import Closed, Response, Wire, wait_until

LOCAL = "127.0.0.1:0"
PROXIED = {"address": LOCAL, "proxy_protocol": "127.0.0.1"}


class Listening:
    """A gateway with several listeners in front of one upstream."""

    def __init__(self, rig: Rig, listen: Any, routes: Any = None, **top: Any) -> None:
        self.rig = rig
        self.upstream = rig.upstream(answering(ok()))
        self._top = {
            "admin": "off",
            "access_log": "off",
            "services": {"u": {"targets": [self.upstream.url]}},
            "routes": routes or [{"path": "/{rest*}", "service": "u"}],
            **top,
        }
        self.listeners = Listeners(1)
        config = load_text(json.dumps({"listen": listen, **self._top}))
        with self.listeners.bind(config) as opened:
            opened.adopt()
        self.gateway = rig.loop.call(lambda: Gateway(config))
        rig.loop.run(self.gateway.start(self.listeners.for_worker(0)))

    def reload(self, listen: Any, **top: Any) -> None:
        config = load_text(json.dumps({"listen": listen, **self._top, **top}))
        with self.listeners.bind(config) as opened:
            self.rig.loop.call(lambda: self.gateway.reload(config))
            self.rig.loop.run(self.gateway.listen(opened.for_worker(0)))
            opened.adopt()

    def connect(self, index: int = 0) -> Wire:
        address = self.listeners.addresses[index]
        sock = socket.socket(socket.AF_UNIX if address.startswith("unix:") else socket.AF_INET)
        sock.settimeout(5)
        host, _, port = address.rpartition(":")
        try:
            sock.connect(address.removeprefix("unix:") if address.startswith("unix:") else (host, int(port)))
        except OSError:
            sock.close()
            raise
        return Wire(sock)

    def get(self, index: int = 0, target: str = "/", *fields: tuple[str, str], before: bytes = b"") -> Response:
        wire = self.connect(index)
        try:
            wire.send(before + head("GET", target, *fields))
            return wire.read_response()
        finally:
            wire.close()

    def is_refused(self, data: bytes, index: int = 0) -> bool:
        """Whether the connection is closed without a byte."""
        wire = self.connect(index)
        try:
            wire.send(data)
            wire.read_response()
        except (Closed, OSError) as error:
            return not getattr(error, "data", b"")
        finally:
            wire.close()
        return False

    @property
    def forwarded_for(self) -> list[bytes | None]:
        return [request.get("x-forwarded-for") for request in self.upstream.requests]

    def close(self) -> None:
        self.rig.loop.run(self.gateway.stop(0.0))
        self.listeners.close()


def is_closed(wire: Wire) -> bool:
    """Whether a request on an open connection gets no response."""
    try:
        wire.send(head())
        wire.read_response()
    except (Closed, OSError):
        return True
    return False


@contextlib.contextmanager
def listening(rig: Rig, listen: Any, routes: Any = None, **top: Any) -> Iterator[Listening]:
    found = Listening(rig, listen, routes, **top)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Any]:
    certificate, key = Authority(tmp_path).issue("gateway", "localhost")
    return {"certificate": str(certificate), "key": str(key)}


def secured(gateway: Listening, index: int, before: bytes = b"", data: bytes = b"") -> Wire:
    """Return a connection over TLS, whose ClientHello is sent in one piece with ``before``."""
    wire = gateway.connect(index)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    wire.sock.sendall(before + outgoing.read())
    while True:
        incoming.write(wire.sock.recv(65536))
        try:
            session.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
    wire.sock.sendall(outgoing.read())
    session.write(data)
    wire.sock.sendall(outgoing.read())
    answer = b""
    while b"\r\n\r\n" not in answer:
        incoming.write(wire.sock.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            answer += session.read(65536)
    wire.buffer[:] = answer
    return wire


# ---- addresses


def test_each_listener_has_tls_or_not(rig: Rig, tls: dict[str, Any]) -> None:
    listen = [LOCAL, {"address": LOCAL, "tls": False}]
    with listening(rig, listen, tls=tls) as gateway:
        assert gateway.get(1).status == 200
        secured(gateway, 0, data=head()).close()
        assert [request.get("x-forwarded-proto") for request in gateway.upstream.requests] == [b"http", b"https"]


def test_both_families_have_one_port(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with listening(rig, [f"127.0.0.1:{port}", f"[::]:{port}"]) as gateway:
        assert gateway.get().status == 200
        with socket.create_connection(("::1", port), 5) as sock:
            wire = Wire(sock)
            wire.send(head())
            assert wire.read_response().status == 200
        assert gateway.forwarded_for == [b"127.0.0.1", b"::1"]


def test_a_unix_socket_has_its_permissions_and_is_removed_at_the_end(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with listening(rig, {"address": f"unix:{path}", "mode": "0600"}) as gateway:
        assert path.stat().st_mode & 0o777 == 0o600
        assert gateway.get().status == 200
        gateway.reload({"address": f"unix:{path}", "mode": "0666"})
        assert path.stat().st_mode & 0o777 == 0o666
        assert gateway.get().status == 200
    assert not path.exists()


def test_clients_of_a_unix_socket_have_the_address_of_the_machine(rig: Rig, tmp_path: Path) -> None:
    forwarded = ("X-Forwarded-For", "192.0.2.1")
    with listening(rig, f"unix:{tmp_path}/s") as gateway:
        assert gateway.get(0, "/", forwarded).status == 200
        gateway.reload(f"unix:{tmp_path}/s", trusted_proxies=["127.0.0.1"])
        assert gateway.get(0, "/", forwarded).status == 200
        assert gateway.forwarded_for == [b"127.0.0.1", b"192.0.2.1, 127.0.0.1"]


# ---- the PROXY protocol


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n", b"192.0.2.1"),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n", b"2001:db8::1"),
        (b"PROXY UNKNOWN\r\n", b"127.0.0.1"),
        (v2(0x21, 0x11, FOUR), b"192.0.2.1"),
        (v2(0x20, 0x00), b"127.0.0.1"),
    ],
)
def test_the_client_is_that_of_the_header(rig: Rig, header: bytes, client: bytes) -> None:
    with listening(rig, PROXIED) as gateway:
        assert gateway.get(before=header).status == 200
        wire = gateway.connect()
        for octet in header + head():  # a header in pieces
            wire.send(bytes([octet]))
        assert wire.read_response().status == 200
        wire.send(head())
        assert wire.read_response().status == 200
        wire.close()
        assert gateway.forwarded_for == [client] * 3


def test_tls_follows_the_header(rig: Rig, tls: dict[str, Any]) -> None:
    header = b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n"
    with listening(rig, PROXIED, tls=tls) as gateway:
        for before in (header, v2(0x21, 0x11, FOUR)):
            secured(gateway, 0, before, head()).close()
        assert gateway.forwarded_for == [b"192.0.2.1"] * 2
        assert gateway.is_refused(header + head())


def test_guards_limits_and_trusted_proxies_see_the_client_of_the_header(rig: Rig) -> None:
    def header(address: str) -> bytes:
        return f"PROXY TCP4 {address} 198.51.100.2 1 2\r\n".encode()

    routes = [
        {"path": "/{rest*}", "service": "u"},
        {"path": "/inside", "service": "u", "clients": {"allow": ["192.0.2.0/24"]}},
    ]
    with listening(
        rig, PROXIED, routes, trusted_proxies=["203.0.113.1"], limits={"connections_per_address": 1}
    ) as gateway:
        assert gateway.get(0, "/inside", before=header("192.0.2.7")).status == 200
        assert gateway.get(0, "/inside", before=header("198.51.100.7")).status == 403
        forwarded = ("X-Forwarded-For", "198.51.100.9")
        assert gateway.get(0, "/", forwarded, before=header("203.0.113.1")).status == 200
        assert gateway.get(0, "/", forwarded, before=header("203.0.113.2")).status == 200
        assert gateway.forwarded_for[1:] == [b"198.51.100.9, 203.0.113.1", b"203.0.113.2"]
        open_one = gateway.connect()
        open_one.send(header("192.0.2.8") + head())
        assert open_one.read_response().status == 200
        assert gateway.get(before=header("192.0.2.8")).status == 429
        assert gateway.get(before=header("192.0.2.9")).status == 200
        open_one.close()


def test_all_but_a_header_of_a_trusted_proxy_is_refused(rig: Rig) -> None:
    others = {"address": LOCAL, "proxy_protocol": ["10.0.0.0/8", "::1"]}
    with listening(rig, [PROXIED, others, LOCAL]) as gateway:
        assert gateway.is_refused(head())
        assert gateway.is_refused(b"PROXY TCP4 192.0.2.1 198.51.100.2 1 x\r\n" + head())
        assert gateway.is_refused(b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n" + head(), 1)
        # On a listener without the protocol, a header is a malformed request.
        assert gateway.get(2, before=b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n").status == 400
        assert not gateway.upstream.requests
        assert rig.loop.call(gateway.gateway.snapshot)["connections"]["refused"] == 3


def test_a_header_that_does_not_come_ends_the_connection_and_counts_until_then(rig: Rig) -> None:
    limits = {"head_timeout": "200ms", "connections": 2}
    with listening(rig, [PROXIED, LOCAL], limits=limits) as gateway:
        silent, begun = gateway.connect(), gateway.connect()
        begun.send(b"PROXY TCP4 192.0")
        listener = gateway.gateway._listener
        wait_until(lambda: len(listener.headers) == 2 or listener.refused > 0, "both wait for their header")
        for wire in (silent, begun):
            with pytest.raises((Closed, OSError)):
                wire.read_response()
            wire.close()
        wait_until(lambda: not listener.headers, "no header is waited for")
        assert gateway.get(1).status == 200


def test_a_client_that_leaves_within_its_header_leaves_nothing(rig: Rig) -> None:
    with listening(rig, PROXIED) as gateway:
        wire = gateway.connect()
        wire.send(b"PROXY TCP4")
        listener = gateway.gateway._listener
        wait_until(lambda: len(listener.headers) == 1, "the header is waited for")
        wire.close()
        wait_until(lambda: not listener.headers, "the connection is gone")


def test_a_stop_does_not_wait_for_a_header(rig: Rig) -> None:
    with listening(rig, PROXIED) as gateway:
        wire = gateway.connect()
        wire.send(b"PROXY TCP4")
        listener = gateway.gateway._listener
        wait_until(lambda: len(listener.headers) == 1, "the header is waited for")
        rig.loop.run(gateway.gateway.stop(60.0))
        assert is_closed(wire) and not listener.headers
        wire.close()


def test_a_unix_socket_with_the_protocol(rig: Rig, tmp_path: Path) -> None:
    with listening(rig, {"address": f"unix:{tmp_path}/s", "proxy_protocol": "unix"}) as gateway:
        assert gateway.get(before=b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n").status == 200
        assert gateway.forwarded_for == [b"192.0.2.1"]


# ---- redirects to https


def redirecting(status: int = 308, **more: Any) -> list[Any]:
    return [{"address": LOCAL, "https_redirect": status, "https_port": 8443, **more}, LOCAL]


def test_plain_http_is_redirected_with_path_query_and_method(rig: Rig) -> None:
    with listening(rig, [*redirecting(), {"address": LOCAL, "https_redirect": 301, "https_port": 443}]) as gateway:
        response = gateway.get(0, "/a/b%20c?q=1&r=%2F")
        assert (response.status, response.get("location")) == (308, b"https://gw:8443/a/b%20c?q=1&r=%2F")
        response = gateway.get(2, "/")
        assert (response.status, response.get("location")) == (301, b"https://gw/")
        wire = gateway.connect()
        wire.send(b"POST /x HTTP/1.1\r\nHost: shop.example.com:80\r\nContent-Length: 2\r\n\r\nab")
        response = wire.read_response("POST")
        assert (response.status, response.get("location")) == (308, b"https://shop.example.com:8443/x")
        wire.close()
        assert not gateway.upstream.requests
        assert gateway.get(1).status == 200
        snapshot = rig.loop.call(gateway.gateway.snapshot)
        assert snapshot["routes"]["https_redirect"] is not None


def test_only_hosts_of_routes_are_redirected_to(rig: Rig) -> None:
    routes = [{"path": "/{rest*}", "host": ["shop.example.com", "*.example.net"], "service": "u"}]
    with listening(rig, redirecting(), routes) as gateway:
        found = {}
        for host in ("shop.example.com", "a.example.net", "evil.example", "shop.example.com:80"):
            wire = gateway.connect()
            wire.send(f"GET /p HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            response = wire.read_response()
            found[host] = response.status, response.get("location")
            wire.close()
        assert found == {
            "shop.example.com": (308, b"https://shop.example.com:8443/p"),
            "a.example.net": (308, b"https://a.example.net:8443/p"),
            "evil.example": (404, None),
            "shop.example.com:80": (308, b"https://shop.example.com:8443/p"),
        }


def test_requests_that_came_over_https_to_a_trusted_proxy_are_forwarded(rig: Rig) -> None:
    secure = ("X-Forwarded-Proto", "https")
    with listening(rig, redirecting(), trusted_proxies=["127.0.0.1"]) as gateway:
        assert gateway.get(0, "/", secure).status == 200
    with listening(rig, redirecting()) as gateway:
        assert gateway.get(0, "/", secure).status == 308


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/.well-known/acme-challenge/to-Ken_1", 200),
        ("/.well-known/acme-challenge/", 308),
        ("/.well-known/acme-challenge/a/b", 308),
        ("/.well-known/acme-challenge/../../admin", 308),
        ("/.well-known/acme-challenge/%2e%2e", 308),
        ("/.well-known/acme-challenge/a?b", 308),
    ],
)
def test_challenges_of_acme_are_not_redirected(rig: Rig, target: str, status: int) -> None:
    with listening(rig, redirecting()) as gateway:
        assert gateway.get(0, target).status in (status, 400)
        assert len(gateway.upstream.requests) == (status == 200)


# ---- reloads


def test_a_reload_adds_and_removes_listeners(rig: Rig, tmp_path: Path) -> None:
    with listening(rig, [LOCAL, f"unix:{tmp_path}/a"]) as gateway:
        first = gateway.listeners.addresses[0]
        kept, leaving = gateway.connect(0), gateway.connect(1)
        for wire in (kept, leaving):
            wire.send(head())
            assert wire.read_response().status == 200
        gateway.reload([f"unix:{tmp_path}/b", LOCAL])
        assert gateway.listeners.addresses == [f"unix:{tmp_path}/b", first]
        assert not (tmp_path / "a").exists()
        assert gateway.get(0).status == gateway.get(1).status == 200
        kept.send(head())
        assert kept.read_response().status == 200
        assert is_closed(leaving)
        kept.close()
        leaving.close()


def test_a_request_in_flight_on_a_removed_listener_is_completed(rig: Rig, tmp_path: Path) -> None:
    with listening(rig, [LOCAL, f"unix:{tmp_path}/a"]) as gateway:
        wire = gateway.connect(1)
        wire.send(b"POST / HTTP/1.1\r\nHost: gw\r\nContent-Length: 2\r\n\r\na")
        wait_until(lambda: len(gateway.upstream.requests) + len(gateway.upstream.connections) > 0, "it is forwarded")
        gateway.reload([LOCAL])
        wire.send(b"b")
        assert wire.read_response("POST").status == 200
        wire.close()


def test_a_reload_turns_the_redirect_and_the_protocol_on_and_off(rig: Rig) -> None:
    with listening(rig, [LOCAL, LOCAL]) as gateway:
        wire = gateway.connect()
        wire.send(head())
        assert wire.read_response().status == 200
        gateway.reload([{"address": LOCAL, "https_redirect": 308, "https_port": 443}, PROXIED])
        assert is_closed(wire), "a connection from before is not served any longer"
        wire.close()
        assert gateway.get(0).status == 308
        assert gateway.is_refused(head(), 1)
        gateway.reload([LOCAL, LOCAL])
        assert gateway.get(0).status == gateway.get(1).status == 200


def test_connections_end_when_the_listener_that_they_came_through_gets_tls(rig: Rig, tls: dict[str, Any]) -> None:
    with listening(rig, LOCAL) as gateway:
        wire = gateway.connect()
        wire.send(head())
        assert wire.read_response().status == 200
        gateway.reload(LOCAL, tls=tls)  # the list is the same
        assert is_closed(wire)
        wire.close()


def test_a_socket_that_cannot_listen_changes_nothing(rig: Rig) -> None:
    with listening(rig, LOCAL) as gateway, socket.socket() as one, socket.socket() as other:
        for sock in (one, other):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", 0))
        other.bind(one.getsockname())  # nothing listens there yet
        one.listen()
        (kept,) = gateway.listeners.for_worker(0)
        with pytest.raises(OSError, match="in use"):
            rig.loop.run(gateway.gateway.listen([kept, BoundSocket(0, kept.key + 1, other)]))
        assert gateway.get().status == 200


def test_an_address_that_is_taken_changes_nothing(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, listening(rig, LOCAL) as gateway:
        before, open_before = gateway.listeners.addresses, len(os.listdir("/proc/self/fd"))
        with pytest.raises(PortTaken):
            gateway.reload([LOCAL, LOCAL, f"127.0.0.1:{taken.getsockname()[1]}"])
        assert gateway.listeners.addresses == before
        assert len(os.listdir("/proc/self/fd")) == open_before
        assert gateway.get().status == 200
