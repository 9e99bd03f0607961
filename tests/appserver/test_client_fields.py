"""What applications see of the client, and whose word about it is believed."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from passerelle.appserver import gateway_peer
from passerelle.appserver.asgi import AsgiConnection, BehindGateway
from passerelle.appserver.client_fields import apply_to_scope
from passerelle.appserver.wsgi import base_environ, environ_of
from passerelle.system import socket_owner
from tests.appserver.test_server import Running, environ, running
from tests.support.client import head

__all__ = ["running"]
STATED = {
    "X-Forwarded-For": "203.0.113.7, 10.0.0.1",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "shop.example",
    "X-Forwarded-Prefix": "/shop/",
}
NOBODY = 65534

# Connects to the port or path of the first argument, sends the second, and prints what it receives.
CLIENT = """
import socket, sys
where, text = sys.argv[1:]
if where.startswith("/"):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(where)
else:
    sock = socket.create_connection(("127.0.0.1", int(where)))
sock.sendall(text.encode())
sock.shutdown(socket.SHUT_WR)
while data := sock.recv(65536):
    sys.stdout.write(data.decode())
"""


def seen_by_wsgi(*, from_gateway: bool = True, keep_host: bool = False) -> dict[str, Any]:
    fields = [(name.encode(), value.encode()) for name, value in {"Host": "10.0.0.9", **STATED}.items()]
    base = base_environ("127.0.0.1", 5000)
    return environ_of(
        base, b"GET", b"/cart", "1.1", fields, "127.0.0.1", 4242, from_gateway=from_gateway, keep_host=keep_host
    )


def scope_of(kind: str = "http") -> dict[str, Any]:
    headers = [(b"host", b"10.0.0.9"), *((name.lower().encode(), value.encode()) for name, value in STATED.items())]
    path = {"path": "/cart", "raw_path": b"/cart", "root_path": ""}
    return {"type": kind, "client": ("127.0.0.1", 4242), "scheme": "http", "headers": headers, **path}


class TestFields:
    def test_of_wsgi(self) -> None:
        seen = seen_by_wsgi()
        assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("203.0.113.7", "https")
        assert (seen["HTTP_HOST"], seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("shop.example", "/shop", "/cart")

    def test_of_wsgi_without_the_gateway(self) -> None:
        seen = seen_by_wsgi(from_gateway=False)
        assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("127.0.0.1", "http")
        assert (seen["HTTP_HOST"], seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("10.0.0.9", "", "/cart")

    def test_a_host_that_the_service_is_to_receive_is_kept(self) -> None:
        assert seen_by_wsgi(keep_host=True)["HTTP_HOST"] == "10.0.0.9"
        scope = scope_of()
        apply_to_scope(scope, keep_host=True)
        assert (b"host", b"10.0.0.9") in scope["headers"]

    @pytest.mark.parametrize(("kind", "scheme"), [("http", "https"), ("websocket", "wss")])
    def test_of_asgi(self, kind: str, scheme: str) -> None:
        scope = scope_of(kind)
        apply_to_scope(scope, keep_host=False)
        assert (scope["client"], scope["scheme"]) == (("203.0.113.7", 0), scheme)
        assert [value for name, value in scope["headers"] if name == b"host"] == [b"shop.example"]
        assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/shop", "/shop/cart", b"/shop/cart")

    def test_asgi_applications_see_them_only_of_connections_of_the_gateway(self) -> None:
        seen: list[Any] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["client"][0])

        async def call() -> None:
            await BehindGateway(application)(scope_of(), None, None)

        asyncio.run(call())
        assert seen == ["127.0.0.1"]
        assert "connection_made" in vars(AsgiConnection), "which decides whose connection it is"


def by_nobody(where: str, text: str) -> str:
    """Return the response to a request of a process of another user."""
    options: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    words = [sys.executable, "-c", CLIENT, where, text]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, cwd="/", **options)
    return done.stdout or done.stderr


class TestOwner:
    @pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
    def test_of_a_connection_over_loopback(self, family: socket.AddressFamily, host: str) -> None:
        with (
            socket.create_server((host, 0), family=family) as server,
            socket.create_connection(server.getsockname()[:2]) as client,
            server.accept()[0] as accepted,
        ):
            for sock in (accepted, client):
                ends = family, sock.getpeername(), sock.getsockname()
                assert socket_owner.of_peer(sock) == os.geteuid()
                assert socket_owner.by_netlink(*ends) == os.geteuid()
                assert socket_owner.by_table(*ends) == os.geteuid()

    def test_of_a_unix_socket(self) -> None:
        one, other = socket.socketpair()
        with one, other:
            assert socket_owner.of_peer(one) == os.geteuid()

    def test_it_is_unknown_for_a_socket_that_is_not_connected(self) -> None:
        with socket.socket() as sock:
            assert socket_owner.of_peer(sock) is None

    def test_a_process_of_another_user_on_this_machine_is_not_believed(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [("Connection", "close")])
            return [f"{environ['REMOTE_ADDR']} {environ['SCRIPT_NAME']}".encode()]

        server = running.serve(application)
        request = head("GET", "/", *STATED.items(), ("Connection", "close"))
        assert running.client(server).request("GET", "/", *STATED.items()).body == b"203.0.113.7 /shop"
        if os.geteuid() != 0:  # no process of another user can be started: this one becomes another
            monkeypatch.setattr(gateway_peer.os, "geteuid", lambda: NOBODY)
        response = by_nobody(server.base["SERVER_PORT"], request.decode())
        assert response.endswith("127.0.0.1 "), response

    def test_a_connection_whose_owner_is_unknown_is_not_believed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Transport:
            def __init__(self, sock: socket.socket, peer: Any) -> None:
                self.found = {"socket": sock, "peername": peer}

            def get_extra_info(self, name: str) -> Any:
                return self.found[name]

        def believed(peer: Any = ("127.0.0.1", 1)) -> bool:
            with socket.socket() as sock:
                return gateway_peer.is_gateway(cast(asyncio.BaseTransport, Transport(sock, peer)))

        assert not believed()
        monkeypatch.setattr(socket_owner, "of_peer", lambda sock: os.geteuid())
        assert believed()
        assert not believed(("10.0.0.7", 1)), "of another machine, only the address is known"


def test_a_unix_socket_of_an_instance_is_for_its_user_alone(tmp_path: Path) -> None:
    from passerelle.appserver.main import bind

    path = tmp_path / "instance.sock"
    with bind(os.fspath(path), 0) as sock:
        sock.listen()
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_environ_of_a_client_of_the_gateway(running: Running) -> None:
    seen = environ(running, head("GET", "/cart", *STATED.items()))
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"], seen["SCRIPT_NAME"]) == ("203.0.113.7", "0", "/shop")
