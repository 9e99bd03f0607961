"""However an exchange ends, nothing of it is retained: no slot, counter, timer or connection.

A state machine plays clients and services through a real gateway: every framing of requests on every kind of route;
early, late, partial, broken and endless responses; clients and services that pause, half-close, reset or stay. At the
end the clients disconnect, the services keep their connections open and silent (as a hostile one does), and the gateway
must return to idle by itself.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.support.client import head
from tests.support.gateways import Rig
from tests.support.wire import wait_until

PATHS = ("/plain", "/cached", "/coded", "/careful", "/both")
BIG = b"b" * 3_000_000


def configuration(ports: dict[str, int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One route of each kind, with short timeouts."""
    url = {name: [f"http://127.0.0.1:{port}"] for name, port in ports.items()}
    services = {
        "s": {"targets": url["s"], "max_connections": 6, "retries": {"methods": ["GET"]}},
        "g": {
            "targets": url["g"] + url["h"],
            "breaker": {"minimum": 1000},
            "concurrency": "adaptive",
            "max_connections": 6,
        },
    }
    routes = [
        {"path": "/plain", "service": "s"},
        {"path": "/cached", "service": "s", "cache": {"ttl": "1ms"}},
        {"path": "/coded", "service": "s", "compress": {"min_size": "1B"}},
        {"path": "/careful", "service": "g", "attempt_timeout": "150ms", "hedge": {"after": "50ms"}},
        {"path": "/both", "compose": {"s": {"service": "s", "path": "/plain"}, "g": {"service": "g", "path": "/x"}}},
    ]
    for route in routes:
        route["timeout"] = "400ms"
    return services, routes


class Service:
    """A listening socket whose connections do only what the state machine commands."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.heard: dict[int, bytes] = {}

    def look(self) -> None:
        """Accept and read what is pending."""
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self.listener.accept()
                sock.setblocking(False)
                self.connections.append(sock)
                self.heard[id(sock)] = b""
        for sock in list(self.connections):
            try:
                while data := sock.recv(65536):
                    self.heard[id(sock)] += data
                self.drop(sock)
            except BlockingIOError:
                pass
            except OSError:
                self.drop(sock)

    def drop(self, sock: socket.socket) -> None:
        self.connections.remove(sock)
        sock.close()

    def close(self) -> None:
        for sock in self.connections:
            sock.close()
        self.listener.close()


RESPONSES = {
    "whole": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "whole and close": b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
    "an error": b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno",
    "no body": b"HTTP/1.1 204 No\r\n\r\n",
    "a head and half": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha",
    "two bytes": b"lf",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n2\r\nab\r\n",
    "last chunk": b"0\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\n\r\nsome",
    "half a head": b"HTTP/1.1 200 OK\r\nConte",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "switch": b"HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello",
    "garbage": b"\0\1\2\r\n\r\n",
    "big": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG) + BIG,
    "json": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
}
PIECES = {
    "a byte": b"x",
    "the rest": b"xxxxxxxx",
    "a chunk": b"1\r\ny\r\n",
    "the last chunk": b"0\r\n\r\n",
    "nonsense": b"nonsense",
    "too much": b"u" * 100_000,
}
FIELDS = {
    "keep": (),
    "close": (("Connection", "close"),),
    "expect": (("Expect", "100-continue"),),
    "upgrade": (("Connection", "upgrade"), ("Upgrade", "websocket")),
}
INDEX = st.integers(0, 50)
RESET = struct.pack("ii", 1, 0)


class Ends(RuleBasedStateMachine):
    """Clients and services in any order; :meth:`teardown` checks the invariants."""

    rig: Rig

    @initialize()
    def begin(self) -> None:
        self.services = {name: Service() for name in ("s", "g", "h")}
        services, routes = configuration({name: service.port for name, service in self.services.items()})
        limits = {"body_timeout": "300ms", "idle_timeout": "500ms", "head_timeout": "300ms", "write_timeout": "500ms"}
        self.running = self.rig.gateway(services, routes, limits=limits)
        self.clients: list[socket.socket] = []
        self.backlog: dict[int, bytes] = {}

    # ---- clients

    @rule(
        path=st.sampled_from(PATHS),
        method=st.sampled_from(["GET", "HEAD", "POST", "PUT"]),
        framing=st.sampled_from(["none", "counted", "chunked"]),
        fields=st.sampled_from(sorted(FIELDS)),
        version=st.sampled_from(["1.1", "1.1", "1.0"]),
        slow=st.booleans(),
    )
    def request(self, path: str, method: str, framing: str, fields: str, version: str, slow: bool) -> None:
        extra = [*FIELDS[fields]]
        body = b""
        if framing == "chunked":
            extra.append(("Transfer-Encoding", "chunked"))
            body = b"1\r\nx\r\n"
        elif framing == "counted":
            extra.append(("Content-Length", "9"))
            body = b"x"
        sock = socket.socket()
        if slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", self.running.port))
        sock.setblocking(False)
        self.clients.append(sock)
        start = head(method, path, *extra).replace(b"HTTP/1.1", b"HTTP/" + version.encode(), 1)
        self._push(sock, start + body)
        self._turn()

    @rule(which=INDEX, what=st.sampled_from(sorted(PIECES)))
    def more(self, which: int, what: str) -> None:
        for sock in self._client(which):
            self._push(sock, PIECES[what])
            self._turn()

    @rule(which=INDEX, how=st.sampled_from(["closes", "half-closes", "resets", "reads"]))
    def client(self, which: int, how: str) -> None:
        for sock in self._client(which):
            if how == "reads":
                with contextlib.suppress(OSError):
                    while sock.recv(1 << 20):
                        pass
            elif how == "half-closes":
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
            else:
                self.clients.remove(sock)
                if how == "resets":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                sock.close()
            self._turn()

    # ---- services

    @rule(which=INDEX, what=st.sampled_from(sorted(RESPONSES)))
    def respond(self, which: int, what: str) -> None:
        for _, sock in self._connection(which):
            self._push(sock, RESPONSES[what])
            self._turn()

    @rule(which=INDEX, how=st.sampled_from(["closes", "half-closes", "resets"]))
    def service(self, which: int, how: str) -> None:
        for service, sock in self._connection(which):
            if how == "half-closes":
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
            else:
                if how == "resets":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                service.drop(sock)
            self._turn()

    @rule(seconds=st.sampled_from([0.06, 0.2]))
    def wait(self, seconds: float) -> None:
        select.select([], [], [], seconds)
        self._turn()

    # ---- helpers

    def _client(self, which: int) -> list[socket.socket]:
        """Return one of the clients, if there is any."""
        return [self.clients[which % len(self.clients)]] if self.clients else []

    def _asked(self) -> list[tuple[Service, socket.socket]]:
        """Return the connections on which a service has received data."""
        services = self.services.values()
        return [(service, sock) for service in services for sock in service.connections if service.heard[id(sock)]]

    def _connection(self, which: int) -> list[tuple[Service, socket.socket]]:
        """Return one of these connections, if there is any."""
        asked = self._asked()
        return [asked[which % len(asked)]] if asked else []

    def _push(self, sock: socket.socket, data: bytes) -> None:
        """Write what the socket accepts; the rest is written when it accepts more."""
        self.backlog[id(sock)] = self.backlog.get(id(sock), b"") + data
        self._flush(sock)

    def _flush(self, sock: socket.socket) -> None:
        data = self.backlog.get(id(sock), b"")
        try:
            while data:
                data = data[sock.send(data) :]
        except BlockingIOError:
            pass
        except OSError:
            data = b""
        self.backlog[id(sock)] = data

    def _turn(self) -> None:
        """Let the gateway, and then the services, handle all pending events."""
        for _ in range(2):
            self.rig.loop.call(lambda: None)
            for service in self.services.values():
                service.look()
                for sock in service.connections:
                    self._flush(sock)

    # ---- invariants

    def teardown(self) -> None:
        if not hasattr(self, "running"):
            return
        try:
            for sock in self.clients:
                sock.close()
            with contextlib.suppress(AssertionError):
                wait_until(self._at_rest, "nothing is held", 12)
            assert self.rig.loop.call(self._held) == []
            self._serves()
        finally:
            for service in self.services.values():
                service.close()
            self.running.stop()
            self.rig.gateways.remove(self.running)

    def _at_rest(self) -> bool:
        self._turn()
        return not self.rig.loop.call(self._held)

    def _held(self) -> list[str]:
        """Return what the gateway retains although no client is connected."""
        gateway = self.running.gateway
        snapshot = gateway.snapshot()
        held = [f"{name}: in flight" for name, route in snapshot["routes"].items() if route["in_flight"]]
        held += ["client connections"] * snapshot["connections"]["open"]
        held += ["deadlines" for deadlines in gateway._deadlines.values() if len(deadlines)]
        cache = gateway.context.cache
        if cache is not None and (cache.fetches or len(cache.flights)):
            held.append("a fetch of the cache")
        for name, service in gateway._services.items():
            if service.streaming:
                held.append(f"{name}: streaming")
            if any(service.tunnels.counts()):
                held.append(f"{name}: tunnels")
            if service.limiter is not None and any(service.limiter.snapshot()[key] for key in ("running", "waiting")):
                held.append(f"{name}: places under the limit")
            for instance in gateway._members[name].instances:
                pool = instance.endpoint
                if instance.in_flight:
                    held.append(f"{instance.name}: in flight")
                if pool.waiting or pool._tasks:
                    held.append(f"{instance.name}: waiting for a connection")
                if pool.open != len(pool.idle):
                    held.append(f"{instance.name}: {pool.open} connections, {len(pool.idle)} idle")
                if pool.set_aside or pool._reserve.taken or pool._connections - set(pool.idle):
                    held.append(f"{instance.name}: connections set aside, or places of the reserve")
                for connection in pool.idle:
                    clean = connection.reading and connection._receiver is None and not connection._deferred
                    if not clean or connection._transport.get_write_buffer_size():
                        held.append(f"{instance.name}: an idle connection that is not as a new one")
        return held

    def _serves(self) -> None:
        """Whether every route responds at once, on whatever connection it gets."""
        for path in ("/plain", "/careful"):
            with self.running.connect() as client:
                client.send(head("GET", path))
                for _ in range(200):
                    self._turn()
                    self._answer_all()
                    if select.select([client.sock], [], [], 0.01)[0]:
                        break
                assert client.read_response(within=1).status == 200

    def _answer_all(self) -> None:
        for service in self.services.values():
            for sock in service.connections:
                heard = service.heard[id(sock)]
                if heard.endswith(b"\r\n\r\n") and heard.rpartition(b"GET ")[1] and b"X-Request-Id" in heard:
                    service.heard[id(sock)] = b""
                    self._push(sock, RESPONSES["json"])


@pytest.fixture
def machine(rig: Rig) -> type[Ends]:
    return type("Machine", (Ends,), {"rig": rig})


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_is_held_however_an_exchange_ends(machine: type[Ends]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
