"""Randomly malformed messages: output is always well formed, and one request never becomes two."""

from __future__ import annotations

import contextlib
import random
import time

import pytest

from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.upstream import Connection, answering, ok
from tests.support.wire import DEADLINE, Closed, Request, WireError

ODD = [
    *[bytes([b]) for b in b'\0\t\n\v\f\r !"#%,-./0:;<=>?@\\_{}\x7f\x80\x85\xa0\xff'],
    *[
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b"\r\r\n",
        b": ",
        b"0x",
        b"+1",
        b"0\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
        b"%2e%2e",
        b"%00",
    ],
    *[b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n"],
    *[b"Connection: close\r\n", b"Connection: content-length\r\n", b"Expect: 100-continue\r\n", b" folded\r\n"],
]
REQUESTS = [
    b"GET /a?b=c HTTP/1.1\r\nHost: gw\r\nX-A: 1\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: gw\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /c HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: gw\r\nConnection: keep-alive\r\n\r\n",
    b"HEAD http://other/x HTTP/1.1\r\nHost: gw\r\nConnection: x-b, close\r\nX-B: 2\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 26\r\n\r\nGET / HTTP/1.1\r\nHost: i\r\n\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
]


def mutated(rng: random.Random, raw: bytes) -> bytes:
    """Insert, remove, replace, double or move one to three bytes or pieces of ``raw``."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(raw) + 1)
        end = min(len(raw), at + rng.choice([1, 1, 2, 5, 20]))
        kind = rng.randrange(5)
        if kind == 0:
            raw = raw[:at] + rng.choice(ODD) + raw[at:]
        elif kind == 1:
            raw = raw[:at] + raw[end:]
        elif kind == 2:
            raw = raw[:at] + rng.choice(ODD) + raw[end:]
        elif kind == 3:
            raw = raw[:end] + raw[at:end] + raw[end:]
        else:
            lines = raw.split(b"\r\n")
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines.insert(i, lines[j])
            raw = b"\r\n".join(lines)
    return raw


def answers(client: Client) -> list[int]:
    """Return the statuses of all responses to the client; the head of each is parsed strictly."""
    rest, statuses = client.rest(), []
    while rest:
        head, mark, rest = rest.partition(b"\r\n\r\n")
        assert mark and head.startswith(b"HTTP/1.1 "), f"not a response: {head[:200]!r}"
        assert b"\n" not in head.replace(b"\r\n", b"") and b"\r" not in head.replace(b"\r\n", b"")
        status = int(head[9:12])
        if status < 200:
            continue
        statuses.append(status)
        lengths = [line[16:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: ")]
        assert len(lengths) <= 1
        if rest.startswith(b"HTTP/1.1 "):
            continue  # a response to HEAD
        if lengths:
            rest = rest[int(lengths[0]) :]
    return statuses


def number(request: Request) -> int:
    """Return the number of a request; the request IDs of one gateway count up."""
    return int((request.get("x-request-id") or b"").rpartition(b"-")[2], 16)


@pytest.mark.parametrize("seed", range(20))
def test_a_mutated_request_never_becomes_two(rig: Rig, seed: int) -> None:
    """The upstream parses strictly: a malformed or ambiguous request that is forwarded fails the test."""
    rng = random.Random(seed)
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    sent: list[tuple[bytes, list[int], int]] = []
    for _ in range(25):
        raw = mutated(rng, rng.choice(REQUESTS))
        with gateway.connect() as client:
            with contextlib.suppress(OSError):
                client.send(raw)
                client.finish()
            statuses = answers(client)
        with gateway.connect() as probe:
            assert probe.request("GET", "/probe").status == 200
        last = max(number(r) for r in upstream.heads if r.target == b"/probe")
        sent.append((raw, statuses, last))
    gateway.stop()
    upstream.wait_all_closed()
    upstream.check()
    first = 0
    for raw, statuses, last in sent:
        heads = [r for r in upstream.heads if first < number(r) < last]
        whole = [r for r in upstream.requests if first < number(r) < last]
        first = last
        # A head may have been forwarded whose body then broke its framing: at most one such request, and it is
        # incomplete.
        assert statuses.count(200) <= len(whole) <= len(statuses), (raw, whole, statuses)
        assert len(heads) <= len(whole) + 1, (raw, heads, statuses)


@pytest.mark.parametrize("seed", range(20))
def test_a_mutated_response_is_never_passed_on_as_it_is_nor_to_another(rig: Rig, seed: int) -> None:
    """Clients parse strictly. The next client, on a separate connection, gets its own response and nothing else."""
    rng = random.Random(seed)
    state = {"raw": b"", "left": 0}

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if request.target == b"/next":
                conn.send(ok(b"right"))
                continue
            conn.send(state["raw"])  # type: ignore[arg-type]
            if state["left"]:
                conn.close()
                return

    gateway = rig.gateway(
        {"u": {"targets": [rig.upstream(script).url]}},
        [{"path": "/first", "service": "u", "timeout": "100ms"}, {"path": "/next", "service": "u"}],
    )
    for _ in range(15):
        method = rng.choice(["GET", "GET", "POST", "HEAD"])
        state["raw"], state["left"] = mutated(rng, rng.choice(RESPONSES)), rng.random() < 0.7
        with gateway.connect() as client:
            client.send(f"{method} /first HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\n\r\n".encode())
            try:
                client.fill(time.monotonic() + DEADLINE)
                client.read_response(method, 0.2)
            except Closed:
                pass  # truncated, as upstream
            except WireError as error:
                raise AssertionError(f"{state['raw']!r} was passed on as {bytes(client.received)!r}") from error
            except AssertionError:
                assert client.received, f"no answer to {state['raw']!r}"  # an endless body: its head was received
        with gateway.connect() as other:
            answer = other.request("GET", "/next")
            assert answer.status == 200 and answer.body == b"right", (state["raw"], answer)
