"""Many clients and a faulty upstream on shared connections: no client ever gets another one's response or body."""

from __future__ import annotations

import contextlib
import random
import threading

import pytest

from tests.support.client import Client, chunks, head
from tests.support.gateways import Rig, Running, settle
from tests.support.upstream import Connection, ok
from tests.support.wire import Closed, WireError

CLIENTS = 12
OPERATIONS = 40


def faulty(seed: int) -> type[ok]:
    """Respond with the content of the request; at random, close early, add bytes or omit some."""

    def script(conn: Connection) -> None:
        rng = random.Random(seed * 1000 + conn.index)
        while True:
            fault = rng.randrange(12)
            if fault == 0:  # an early response; the body is still read
                request = conn.read_head()
                conn.send(ok(b"early " + request.target))
                if request.all("content-length"):
                    conn.exactly(int(request.get("content-length") or 0))
                elif request.all("transfer-encoding"):
                    conn.until(b"0\r\n\r\n")
                continue
            request = conn.read_request()
            answer = ok(request.target + b"|" + request.body)
            if fault == 1:
                conn.send(answer + b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nforeign")
            elif fault == 2:
                conn.send(answer)
                conn.close()
                return
            elif fault == 3:
                conn.reset()
                return
            elif fault == 4:
                conn.send(answer[:-1])
                conn.close()
                return
            elif fault == 5:
                body = request.target + b"|" + request.body
                conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks(body[:3], body[3:]))
            elif fault == 6:
                conn.send(b"HTTP/1.1 103 Early Hints\r\n\r\n", answer)
            elif fault == 7:
                conn.send(answer[:20], answer[20:])
            else:
                conn.send(answer)

    return script  # type: ignore[return-value]


def right(target: str, body: bytes, got: bytes) -> bool:
    """Whether ``got`` is the response to this request."""
    return got in (target.encode() + b"|" + body, b"early " + target.encode())


def one_client(gateway: Running, number: int, seed: int, wrong: list[str]) -> None:
    """Send random requests and abort some of them; ``wrong`` collects violations."""
    rng = random.Random(f"{seed}/{number}")
    client: Client | None = None
    for operation in range(OPERATIONS):
        client = client or gateway.connect()
        target, body = f"/{number}/{operation}", b"%d-%d;" % (number, operation) * rng.choice([1, 1, 500])
        kind = rng.randrange(8)
        try:
            if kind == 0:
                client.send(head("GET", target))
                body = b""
            elif kind == 1:
                client.send(head("PUT", target, ("Transfer-Encoding", "chunked")), chunks(body[:4], body[4:]))
            elif kind == 2:
                client.send(head("POST", target, length=len(body)), body[: len(body) // 2], body[len(body) // 2 :])
            elif kind == 3:  # disconnected within the body
                client.send(head("POST", target, length=len(body)), body[: len(body) // 2])
                client.reset()
                client = None
                continue
            elif kind == 4:  # disconnected before the response
                client.send(head("POST", target, length=len(body)) + body)
                client.reset()
                client = None
                continue
            elif kind == 5:
                client.send(head("GET", target + "a") + head("GET", target))
                first = client.read_response()
                if first.status == 200 and not right(target + "a", b"", first.body):
                    wrong.append(f"{target}a got {first.body!r}")
                body = b""
            else:
                client.send(head("POST", target, length=len(body)) + body)
            response = client.read_response("POST", 10)
            if response.status == 200 and not right(target, body, response.body):
                wrong.append(f"{target} got {response.body[:100]!r}")
            elif response.status not in (200, 502, 503):
                wrong.append(f"{target} got {response.status}")
            if b"close" in response.all("connection"):
                client.close()
                client = None
        except WireError as error:
            wrong.append(f"{target}: {error}")
            return
        except (Closed, OSError):  # truncated, as the upstream's response
            client.close()
            client = None
    if client is not None:
        client.close()


@pytest.mark.parametrize("seed", range(6))
def test_every_answer_is_the_one_to_its_request(rig: Rig, seed: int) -> None:
    upstream = rig.upstream(faulty(seed))
    gateway = rig.forward(upstream, service={"max_connections": 4, "max_waiting": 100})
    wrong: list[str] = []
    threads = [
        threading.Thread(target=one_client, args=(gateway, number, seed, wrong), daemon=True)
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong, wrong[:5]
    settle(gateway)
    with contextlib.suppress(StopIteration):
        error = next(e for e in upstream.errors if isinstance(e, WireError))
        raise AssertionError(f"the upstream was sent something malformed: {error}")
