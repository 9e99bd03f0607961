"""TLS at the listener, over real sockets: negotiation, refusals, closing, and reloading certificates."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.requirements import needs
from tests.support.client import head
from tests.support.gateways import Rig, Running, settle
from tests.support.secure import Authority, SecureClient
from tests.support.upstream import Connection, Upstream, answering, echo, ok
from tests.support.wire import Closed, wait_until

LONG = 20.0
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"


class Secured:
    """A gateway with TLS, an authority for its certificate and one for clients."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig = rig
        self.folder = folder
        self.authority = Authority(folder)
        self.clients = Authority(folder, "clients")
        self.files = self.authority.issue("gateway", "localhost")

    def tls(self, **settings: Any) -> dict[str, Any]:
        return {"certificate": str(self.files[0]), "key": str(self.files[1]), **settings}

    def forward(self, *upstreams: Upstream, tls: dict[str, Any] | None = None, **top: Any) -> Running:
        return self.rig.forward(*upstreams, tls=self.tls(**(tls or {})), **top)

    def connect(
        self, gateway: Running, context: ssl.SSLContext | None = None, receive_buffer: int | None = None
    ) -> SecureClient:
        context = context or self.authority.client_context()
        client = SecureClient(gateway.port, context, receive_buffer=receive_buffer)
        self.rig.clients.append(client)
        return client


@pytest.fixture
def secured(rig: Rig, tmp_path: Path) -> Secured:
    return Secured(rig, tmp_path)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """The warnings in the log of the process."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logger = logging.getLogger("passerelle")
    logger.addHandler(handler)
    yield said
    logger.removeHandler(handler)


def test_requests_go_through_and_services_know_that_it_was_https(rig: Rig, secured: Secured) -> None:
    upstream = rig.upstream(answering(ok(b"hello")))
    client = secured.connect(secured.forward(upstream))
    assert [client.request().body for _ in range(3)] == [b"hello"] * 3
    assert client.request("GET", "/", ("X-Forwarded-Proto", "http")).status == 200
    assert [r.get("x-forwarded-proto") for r in upstream.requests] == [b"https"] * 4
    assert client.tls.version() == "TLSv1.3"


def test_http_1_1_is_negotiated_and_nothing_else(rig: Rig, secured: Secured) -> None:
    gateway = secured.forward(rig.upstream(answering(ok())))
    context = secured.authority.client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    assert secured.connect(gateway, context).tls.selected_alpn_protocol() == "http/1.1"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_and_weak_ciphers_are_refused(rig: Rig, secured: Secured) -> None:
    gateway = secured.forward(rig.upstream(answering(ok())))
    older = secured.authority.client_context()
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    client = secured.connect(gateway, older)
    assert client.tls.version() == "TLSv1.2" and client.request().status == 200
    for change in ("version", "cipher"):
        context = secured.authority.client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        if change == "cipher":
            context.set_ciphers("AES128-SHA256:AES256-GCM-SHA384:@SECLEVEL=0")
        else:
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1_1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):
            secured.connect(gateway, context)
    strict = secured.forward(rig.upstream(answering(ok())), tls={"minimum": "1.3"})
    with pytest.raises(OSError):
        secured.connect(strict, older)
    assert secured.connect(strict).request().status == 200


def test_a_connection_without_tls_is_closed_and_logged_once(rig: Rig, secured: Secured, warnings: list[str]) -> None:
    gateway = secured.forward(rig.upstream(answering(ok())))
    for _ in range(3):
        with rig.connect(gateway) as client, pytest.raises((Closed, OSError)):
            client.request(within=LONG)
    wait_until(lambda: gateway.snapshot()["connections"]["refused"] == 3, "counted", LONG)
    assert [w for w in warnings if "handshake" in w] == ["tls: handshake with 127.0.0.1 failed: http request"]
    assert secured.connect(gateway).request().status == 200


def test_a_handshake_has_a_limit_in_time_and_number(rig: Rig, secured: Secured) -> None:
    limits = {"head_timeout": "300ms", "connections": 2}
    gateway = secured.forward(rig.upstream(answering(ok())), limits=limits)
    silent = [rig.connect(gateway) for _ in range(2)]
    over = rig.connect(gateway)
    for client in (over, *silent):
        assert client.rest_or_response() == 0
    wait_until(lambda: gateway.snapshot()["connections"]["refused"] == 3, "counted", LONG)
    assert secured.connect(gateway).request().status == 200


def test_handshakes_count_for_their_address(rig: Rig, secured: Secured) -> None:
    limits = {"connections": 6, "connections_per_address": 2}
    gateway = secured.forward(rig.upstream(answering(ok())), limits=limits)

    def silent() -> socket.socket:
        found = socket.create_connection(("127.0.0.1", gateway.port), source_address=("127.0.0.1", 0))
        found.settimeout(LONG)
        return found

    clients = [silent() for _ in range(20)]
    try:
        wait_until(lambda: gateway.snapshot()["connections"]["refused"] == 18, "18 are refused", LONG)
        assert len(gateway.gateway._listener.handshakes) == 2
        other = socket.create_connection(("127.0.0.1", gateway.port), source_address=("127.0.0.9", 0))
        with secured.authority.client_context().wrap_socket(other, server_hostname="localhost") as secure:
            secure.sendall(head())
            assert secure.recv(100).startswith(b"HTTP/1.1 200 ")
            for client in clients:
                client.close()
            wait_until(lambda: not gateway.gateway._listener.handshakes, "the handshakes have ended", LONG)
            assert list(gateway.gateway._listener._counts) == [b"127.0.0.9"]
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: not gateway.gateway._listener._counts, "nothing is counted", LONG)


def test_bodies_stream_both_ways(rig: Rig, secured: Secured) -> None:
    client = secured.connect(secured.forward(rig.upstream(echo), limits={"body": "unlimited"}))
    body = bytes(range(256)) * 20_000
    got = exchange(client.tls, head("POST", "/", length=len(body)) + body, len(body))
    assert got.startswith(b"HTTP/1.1 200 ")
    assert got.partition(b"\r\n\r\n")[2] == body


def exchange(tls: ssl.SSLSocket, data: bytes, size: int) -> bytes:
    """Send ``data`` while reading a response with a body of ``size``, in one thread: OpenSSL does not allow two."""
    left, got, whole = memoryview(data), bytearray(), None
    tls.setblocking(False)
    while whole is None or len(got) < whole:
        moved = False
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if left:
                left = left[tls.send(left[: 1 << 16]) :]
                moved = True
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            read = tls.recv(1 << 16)
            assert read, f"closed after {len(got)} bytes"
            got += read
            moved = True
        if whole is None and (end := got.find(b"\r\n\r\n")) >= 0:
            whole = end + 4 + size
        if not moved:
            readable, writable, _ = select.select([tls], [tls] if left else [], [], LONG)
            assert readable or writable, f"nothing moves after {len(got)} bytes, {len(left)} to send"
    return bytes(got)


def test_a_slow_reader_stops_the_upstream(rig: Rig, secured: Secured) -> None:
    size = 64 << 20

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        conn.stream(bytes(1 << 20), 64)

    upstream = rig.upstream(script, send_buffer=1 << 16)
    client = secured.connect(secured.forward(upstream), receive_buffer=1 << 16)
    client.send(head())
    upstream.wait_requests(1, LONG)
    last = -1

    def stands_still() -> bool:
        nonlocal last
        before, last = last, upstream.connections[0].sent
        return before == last > 0 and threading.Event().wait(0.2) is False and upstream.connections[0].sent == last

    wait_until(stands_still, "the upstream waits", LONG)
    assert upstream.connections[0].sent < size // 2
    assert len(client.read_response("GET", 60.0).body) == size


def test_an_answer_that_ends_with_the_connection_ends_in_order(rig: Rig, secured: Secured) -> None:
    gateway = secured.forward(rig.upstream(answering(ok(b"x" * 100_000))))
    client = secured.connect(gateway)
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    client.tls.settimeout(LONG)
    got = b""
    while data := client.tls.recv(1 << 16):  # without close_notify this raises SSLEOFError
        got += data
    assert got.endswith(b"x" * 100_000)


def silent(conn: Connection) -> None:
    """Send no response."""
    conn.read_request()


def test_a_close_notify_of_the_client_frees_everything(rig: Rig, secured: Secured) -> None:
    upstream = rig.upstream(silent)
    gateway = secured.forward(upstream)
    client = secured.connect(gateway)
    client.send(head())
    upstream.wait_requests(1, LONG)
    with contextlib.suppress(OSError):
        client.tls.unwrap()
    settle(gateway, LONG)
    upstream.wait_all_closed(LONG)


def test_tunnels(rig: Rig, secured: Secured) -> None:
    def tunnel(conn: Connection) -> None:
        conn.read_head()
        conn.send(SWITCH + b"early")
        while data := conn.sock.recv(1 << 16):
            conn.send(data)
            if data == b"end":
                conn.close()
                break

    upstream = rig.upstream(tunnel)
    gateway = secured.forward(upstream)
    client = secured.connect(gateway)
    client.send(head("GET", "/", ("Upgrade", "x"), ("Connection", "Upgrade")))
    assert client.read_response().status == 101
    client.tls.settimeout(LONG)
    got = bytes(client.buffer)
    while len(got) < 5:
        got += client.tls.recv(100)
    assert got == b"early"
    for word in (b"ping", b"end"):
        client.send(word)
        assert client.tls.recv(100) == word
    assert client.tls.recv(100) == b""  # the service has closed the tunnel, with close_notify
    settle(gateway, LONG)


def test_idle_clients_do_not_hold_up_a_stop(rig: Rig, secured: Secured) -> None:
    gateway = secured.forward(rig.upstream(answering(ok())))
    client = secured.connect(gateway)
    assert client.request().status == 200
    gateway.stop(grace=60.0)  # this takes less than the 10 s that the rig waits
    client.tls.settimeout(LONG)
    assert client.tls.recv(10) == b""


def test_a_new_certificate_is_taken_without_a_restart(rig: Rig, secured: Secured, warnings: list[str]) -> None:
    gateway = secured.forward(rig.upstream(answering(ok())), limits={"idle_timeout": "60s", "head_timeout": "400ms"})

    def serial() -> str:
        with SecureClient(gateway.port, secured.authority.client_context()) as client:
            found = client.tls.getpeercert()
            assert found is not None
            return str(found["serialNumber"])

    old_client = secured.connect(gateway)
    first = serial()
    secured.authority.issue("gateway", "localhost")
    wait_until(lambda: serial() != first, "the new one is served", LONG)
    second = serial()
    secured.files[1].write_bytes(b"broken")
    wait_until(lambda: any("the previous certificates are kept" in w for w in warnings), "it is said", LONG)
    assert serial() == second
    assert old_client.request().status == 200
    secured.authority.issue("gateway", "localhost")
    wait_until(lambda: serial() != second, "the repaired one is served", LONG)


def test_a_reload_turns_it_on_and_off(rig: Rig, secured: Secured) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    services, routes = {"u": {"targets": [upstream.url]}}, [{"path": "/{rest*}", "service": "u"}]
    assert rig.connect(gateway).request().status == 200
    gateway.reload(services, routes, tls=secured.tls())
    client = secured.connect(gateway)
    assert client.request().status == 200
    gateway.reload(services, routes)
    assert rig.connect(gateway).request().status == 200
    client.send(head())
    assert client.rest_or_response() == 0  # a connection of before ends, as those of a removed listener do


def mutual(rig: Rig, secured: Secured, upstream: Upstream, client: str) -> Running:
    log = secured.folder / "access.log"
    routes: list[dict[str, Any]] = [
        {"path": "/open", "service": "u"},
        {"path": "/any", "service": "u", "auth": ["mtls"]},
        {"path": "/robot", "service": "u", "auth": ["mtls"], "require": {"consumers": ["robot"]}},
        {"path": "/dns", "service": "u", "auth": ["mtls"], "require": {"claims": {"dns": "robot.example"}}},
    ]
    tls = secured.tls(client_ca=str(secured.clients.file), client=client)
    return rig.gateway({"u": {"targets": [upstream.url]}}, routes, tls=tls, access_log=str(log))


def test_the_subject_of_a_verified_certificate_is_the_consumer(rig: Rig, secured: Secured) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = mutual(rig, secured, upstream, "optional")
    robot = secured.clients.issue("robot", "robot.example", common_name="robot")
    other = secured.clients.issue("other", "other.example", common_name="R\u00e9mi X")
    nameless = secured.clients.issue("nameless", "nameless.example")
    statuses = {}
    for name, files in {"robot": robot, "other": other, "nameless": nameless, "anonymous": None}.items():
        client = secured.connect(gateway, secured.authority.client_context(files))
        asked = [client.request("GET", path, ("X-Consumer", "forged")) for path in ("/open", "/any", "/robot", "/dns")]
        statuses[name] = [response.status for response in asked]
        if name == "anonymous":
            assert asked[1].get("www-authenticate") == b'Certificate realm="passerelle"'
    assert statuses == {
        "robot": [200, 200, 200, 200],
        "other": [200, 200, 403, 403],
        "nameless": [200, 401, 401, 401],
        "anonymous": [200, 401, 401, 401],
    }
    told = [(r.target, r.get("x-consumer"), r.get("x-consumer-auth")) for r in upstream.requests]
    assert (b"/robot", b"robot", b"mtls") in told
    assert (b"/any", b"R%C3%A9mi X", b"mtls") in told
    assert (b"/open", None, None) in told


def test_clients_without_valid_certificate_fail_the_handshake(rig: Rig, secured: Secured, warnings: list[str]) -> None:
    upstream = rig.upstream(answering(ok()))
    required = mutual(rig, secured, upstream, "required")
    optional = mutual(rig, secured, upstream, "optional")
    stranger = secured.authority.issue("stranger", "robot.example", common_name="robot")
    for gateway, files in ((required, None), (required, stranger), (optional, stranger)):
        with pytest.raises((OSError, Closed)):
            secured.connect(gateway, secured.authority.client_context(files)).request("GET", "/open")
    assert not upstream.heads
    assert any("certificate" in w for w in warnings)
    robot = secured.clients.issue("robot", "robot.example", common_name="robot")
    client = secured.connect(required, secured.authority.client_context(robot))
    assert client.request("GET", "/robot").status == 200
    assert client.tls.session is None or not client.tls.session.has_ticket


@needs("curl")
def test_curl(rig: Rig, secured: Secured) -> None:
    gateway = secured.forward(rig.upstream(answering(ok(b"hello"))))
    url = f"https://localhost:{gateway.port}/"
    command = ["curl", "-sS", "-m", "20", "--noproxy", "*", "--cacert", str(secured.authority.file)]
    done = subprocess.run(
        [*command, "-w", "%{http_version} %{num_connects}\n", url, url], capture_output=True, timeout=60, check=False
    )
    assert done.stderr == b""
    assert done.stdout == b"hello1.1 1\nhello1.1 0\n"


def test_many_handshakes_that_end_in_the_middle_leave_nothing(rig: Rig, secured: Secured) -> None:
    gateway = secured.forward(rig.upstream(answering(ok())))
    hello = hello_of(secured)
    for length in range(1, len(hello), 7):
        with socket.create_connection(("127.0.0.1", gateway.port), LONG) as sock:
            sock.sendall(hello[:length])
    wait_until(lambda: not rig.loop.call(lambda: gateway.gateway._listener.handshakes), "all are gone", LONG)
    assert secured.connect(gateway).request().status == 200


def hello_of(secured: Secured) -> bytes:
    """Return the first message of a TLS client."""
    outgoing = ssl.MemoryBIO()
    client = secured.authority.client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


# ---- the alert of a failed handshake


def refusal(secured: Secured, gateway: Running, context: ssl.SSLContext) -> str:
    """Return the reason that a client gets for a failed handshake, which TLS 1.3 reports at its first read."""

    def connect_and_read() -> None:
        secured.connect(gateway, context).tls.recv(1)

    with pytest.raises(ssl.SSLError) as error:
        connect_and_read()
    return str(error.value).upper().replace(" ", "_")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_of_another_authority_gets_unknown_ca(
    rig: Rig, secured: Secured, version: ssl.TLSVersion
) -> None:
    gateway = secured.forward(rig.upstream(answering(ok())), tls={"client_ca": str(secured.clients.file)})
    context = secured.authority.client_context(secured.authority.issue("stranger", "stranger"))
    context.maximum_version = version
    assert "UNKNOWN_CA" in refusal(secured, gateway, context)


def test_a_missing_client_certificate_gets_certificate_required(rig: Rig, secured: Secured) -> None:
    gateway = secured.forward(rig.upstream(answering(ok())), tls={"client_ca": str(secured.clients.file)})
    assert "CERTIFICATE_REQUIRED" in refusal(secured, gateway, secured.authority.client_context())


def test_no_common_cipher_gets_handshake_failure(rig: Rig, secured: Secured) -> None:
    context = secured.authority.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")
    gateway = secured.forward(rig.upstream(answering(ok())))
    assert "HANDSHAKE_FAILURE" in refusal(secured, gateway, context)


def test_a_version_that_is_too_old_gets_protocol_version(rig: Rig, secured: Secured) -> None:
    context = secured.authority.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    gateway = secured.forward(rig.upstream(answering(ok())), tls={"minimum": "1.3"})
    assert "PROTOCOL_VERSION" in refusal(secured, gateway, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_alpn_without_a_common_protocol_gets_no_application_protocol(
    rig: Rig, secured: Secured, warnings: list[str], version: ssl.TLSVersion
) -> None:
    context = secured.authority.client_context()
    context.maximum_version = version
    context.set_alpn_protocols(["h2", "acme-tls/1"])
    gateway = secured.forward(rig.upstream(answering(ok())))
    assert "NO_APPLICATION_PROTOCOL" in refusal(secured, gateway, context)
    wait_until(lambda: any("no application protocol" in line for line in warnings))
    assert not rig.upstreams[0].connections
    settle(gateway)


def test_http_1_0_may_be_negotiated(rig: Rig, secured: Secured) -> None:
    context = secured.authority.client_context()
    context.set_alpn_protocols(["http/1.0"])
    client = secured.connect(secured.forward(rig.upstream(answering(ok()))), context)
    assert client.tls.selected_alpn_protocol() == "http/1.0"
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert client.read_response().status == 200


def test_a_hello_that_arrives_byte_by_byte_is_understood(rig: Rig, secured: Secured) -> None:
    gateway = secured.forward(rig.upstream(answering(ok())))
    context = secured.authority.client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", gateway.port), LONG) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    sock.send(bytes([byte]))
                incoming.write(sock.recv(65_536))
        assert session.selected_alpn_protocol() == "http/1.1"
