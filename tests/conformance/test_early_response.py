"""A final response that arrives during the upload reaches the client (RFC 9112 §9.5, §9.6)."""

from __future__ import annotations

import threading

import pytest

from tests.support.client import Client, chunks, head
from tests.support.expect import closing, problem
from tests.support.gateways import Rig, in_flight
from tests.support.upstream import Connection, answering, ok
from tests.support.wire import wait_until

SIZE = 20 * 1024 * 1024
REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 17\r\n\r\nno more than 1 MB"
LIMITS = {"body": "64MiB"}


def upload(client: Client, size: int = SIZE) -> threading.Thread:
    """Write a body in a thread, as an ordinary client does, until done or until the peer stops reading."""

    def run() -> None:
        piece = b"x" * 65536
        try:
            client.sock.settimeout(20)
            for _ in range(size // len(piece)):
                client.sock.sendall(piece)
        except OSError:
            pass  # the gateway may stop reading

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def refuse_and(how: str) -> type[answering]:
    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(REFUSAL)
        if how == "reset":
            conn.rest_of_upload = conn.exactly(65536)  # type: ignore[attr-defined]
            conn.reset()
        elif how == "close":
            conn.close()
        else:
            conn.finish()

    return script  # type: ignore[return-value]


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_early_413_reaches_the_client_whole(rig: Rig, how: str, chunked: bool) -> None:
    upstream = rig.upstream([refuse_and(how), answering(ok(b"next"))])
    gateway = rig.forward(upstream, limits=LIMITS)
    client = rig.connect(gateway)
    if chunked:
        client.send(b"POST /up HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"%x\r\n" % SIZE)
    else:
        client.send(b"POST /up HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % SIZE)
    sender = upload(client)
    response = client.read_response("POST")
    assert (response.status, response.body) == (413, b"no more than 1 MB")
    client.close()
    sender.join(10)
    assert not sender.is_alive()
    upstream.wait_all_closed()
    assert len(upstream.heads) == 1, "an upload that got an answer was sent again"
    with gateway.connect() as other:
        assert other.request("GET", "/").body == b"next"


def test_after_an_early_refusal_the_connection_is_not_left_out_of_step(rig: Rig) -> None:
    """The client continues to write the body: no part of it may be read as a request."""
    upstream = rig.upstream([refuse_and("close"), answering(ok())])
    gateway = rig.forward(upstream, limits=LIMITS)
    client = rig.connect(gateway)
    inner = b"GET /smuggled HTTP/1.1\r\nHost: gw\r\n\r\n"
    client.send(b"POST /up HTTP/1.1\r\nHost: gw\r\nContent-Length: 1000\r\n\r\n" + b"x" * 100)
    assert client.read_response("POST").status == 413
    try:
        client.send(inner)
        client.rest()
    except OSError:
        pass  # closed by the gateway, which is also correct
    with gateway.connect() as other:
        assert other.request("GET", "/ok").status == 200
    assert [r.target for r in upstream.heads] == [b"/up", b"/ok"]


def test_an_early_200_with_keep_alive_leaves_the_client_in_step(rig: Rig) -> None:
    answered = threading.Event()

    def script(conn: Connection) -> None:
        head = conn.read_head()
        conn.send(ok(b"early"))
        answered.set()
        size = int(head.get("content-length") or 0)
        assert len(conn.exactly(size)) == size
        while True:
            conn.read_request()
            conn.send(ok(b"second"))

    upstream = rig.upstream([script, answering(ok(b"second"))])
    client = rig.connect(rig.forward(upstream, limits=LIMITS))
    client.send(b"POST /up HTTP/1.1\r\nHost: gw\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100000)
    early = client.read_response("POST")
    assert early.body == b"early"
    assert answered.wait(5)
    if b"close" in early.all("connection"):
        client.wait_closed()
        return
    client.send(b"y" * 100000 + b"GET /next HTTP/1.1\r\nHost: gw\r\n\r\n")
    assert client.read_response().body == b"second"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_held_back_for_an_early_answer_never_ends_up_in_another_request(rig: Rig, chunked: bool) -> None:
    """The response is in the kernel when the end of the body arrives, while another client waits for the connection."""
    half, answer, answered = b"x" * 1000, threading.Event(), threading.Event()

    def script(conn: Connection) -> None:
        request = conn.read_head()
        conn.until(half)
        conn.wait(answer)
        conn.send(ok(b"early"))
        answered.set()
        conn.until(half + b"\r\n0\r\n\r\n" if request.all("transfer-encoding") else half)
        while True:
            conn.read_request()
            conn.send(ok(b"second"))

    gateway = rig.forward(rig.upstream([script, answering(ok(b"second"))]), service={"max_connections": 1})
    client, waiting = rig.connect(gateway), rig.connect(gateway)
    if chunked:
        client.send(head("POST", "/", ("Transfer-Encoding", "chunked")) + chunks(half, last=b""))
        rest = chunks(half)
    else:
        client.send(head("POST", "/", length=2 * len(half)) + half)
        rest = half
    upstream = rig.upstreams[0]
    wait_until(lambda: upstream.connections and half in upstream.connections[0].received, "half of the body")
    waiting.send(head("GET", "/second"))
    wait_until(lambda: in_flight(gateway) == 2, "a second request waits")
    holding, go = threading.Event(), threading.Event()

    def hold() -> None:  # both events are pending when the loop polls again, the client's first
        holding.set()
        go.wait(5)

    thread = threading.Thread(target=rig.loop.call, args=(hold,), daemon=True)
    thread.start()
    assert holding.wait(5)
    client.send(rest)
    answer.set()
    assert answered.wait(5)
    go.set()
    thread.join(5)
    assert client.read_response("POST").body == b"early"
    assert waiting.read_response().body == b"second"
    upstream.check()


@pytest.mark.parametrize("chunked", [False, True])
def test_an_early_answer_of_the_gateway_itself_reaches_a_client_that_only_writes(rig: Rig, chunked: bool) -> None:
    """The client reads nothing until its whole upload is sent: a close with unread bytes would destroy the response."""
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream, route={"body": "1MiB"})
    client = rig.connect(gateway)
    size = 4 * 1024 * 1024
    if chunked:
        client.send(b"POST / HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n")
        payload = chunks(*[b"x" * 65536] * (size // 65536))
    else:
        client.send(b"POST / HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % size)
        payload = b"x" * size
    client.send(payload)
    response = client.read_response("POST")
    problem(response, 413)
    closing(response)
    assert client.wait_closed() == "eof"


def test_a_404_of_the_gateway_during_an_upload_reaches_the_client(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, [{"path": "/only", "service": "u"}])
    client = rig.connect(gateway)
    client.send(b"POST /other HTTP/1.1\r\nHost: gw\r\nContent-Length: 4000000\r\n\r\n", b"x" * 4000000)
    response = client.read_response("POST")
    problem(response, 404)
    if b"close" not in response.all("connection"):
        assert client.request("GET", "/only").status == 200


def test_the_upload_stops_after_an_early_response(rig: Rig) -> None:
    """The gateway neither continues to feed the upstream nor reads from the client forever."""

    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(REFUSAL)

    upstream = rig.upstream(script)
    client = rig.connect(rig.forward(upstream, limits={"body": "unlimited"}))
    client.send(b"POST / HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % (1 << 40))
    sender = upload(client, 1 << 40)
    assert client.read_response("POST").status == 413
    upstream.wait_all_closed()
    wait_until(lambda: not sender.is_alive(), "the upload was stopped", 10)


def early(conn: Connection) -> None:
    """Respond as soon as the head is complete, and continue to read the body."""
    conn.read_head()
    conn.send(ok(b"early"))


@pytest.mark.parametrize("how", ["stalls", "breaks its framing", "leaves"])
def test_an_upload_that_ends_badly_after_an_early_answer_is_forgotten_on_both_sides(rig: Rig, how: str) -> None:
    upstream = rig.upstream(early)
    gateway = rig.forward(upstream, limits={"body_timeout": "500ms"})
    client = rig.connect(gateway)
    client.send(head("POST", "/", ("Transfer-Encoding", "chunked")) + b"1\r\nx\r\n")
    assert client.read_response("POST").body == b"early"
    if how == "leaves":
        client.close()
    else:
        if how == "breaks its framing":
            client.send(b"x\r\n")
        client.assert_closed(30)
        client.close()
    upstream.wait_all_closed(30)
    wait_until(lambda: gateway.snapshot()["connections"]["open"] == 0, "the client is forgotten", 30)
    assert in_flight(gateway) == 0
