"""No request becomes two on its way through two parsers in a row: the table against a recording server, straight and
behind nginx and HAProxy (RFC 9112 §11.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.attack.chains import CHAINS, recording
from tests.attack.payloads import PAYLOADS, Payload
from tests.requirements import needs
from tests.support.gateways import Loop, Running
from tests.support.upstream import Upstream
from tests.support.wire import Request, Response

LONG = 30.0
"""Seconds that any answer may take: a loaded machine is slow, and only then is it needed."""


class Chain(NamedTuple):
    """A gateway, perhaps a second parser, and the last server."""

    gateway: Running
    last: Upstream


@pytest.fixture(
    scope="module",
    params=[
        "straight",
        pytest.param("nginx", marks=needs("nginx")),
        pytest.param("haproxy", marks=needs("haproxy")),
    ],
)
def chain(request: pytest.FixtureRequest, loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    last = Upstream(recording)
    try:
        with CHAINS[request.param](last, tmp_path_factory.mktemp(request.param)) as port:
            settings = {
                "listen": "127.0.0.1:0",
                "admin": "off",
                "access_log": "off",
                "services": {"u": {"targets": [f"http://127.0.0.1:{port}"]}},
                "routes": [{"path": "/{rest*}", "service": "u"}],
            }
            gateway = Running(loop, settings)
            try:
                yield Chain(gateway, last)
            finally:
                gateway.stop()
    finally:
        last.close()


def own_refusal(response: Response, allowed: tuple[int, ...]) -> None:
    """The gateway refused by itself, and says that it closes."""
    assert response.status in allowed, (response.raw, response.body)
    assert response.get("connection") == b"close"


@pytest.mark.parametrize("name", PAYLOADS)
def test_one_request_stays_one(chain: Chain, name: str) -> None:
    payload: Payload = PAYLOADS[name]
    gateway, last = chain
    heads, whole = len(last.heads), len(last.requests)
    line = payload.raw.lstrip(b"\r\n").split(b" ")
    method = line[0].decode("latin-1")
    with gateway.connect() as client:
        client.send(payload.raw)
        response = client.read_response(method, LONG)
        if payload.statuses:
            own_refusal(response, payload.statuses)
            client.assert_closed(LONG)
            expected = []
        else:
            assert response.status == 200, (response.raw, response.body)
            if method != "HEAD":
                assert response.body.startswith(b"%b /first" % line[0])
            # On the same connection: the next answer is the next request's, so nobody saw a request in between.
            assert client.request("GET", "/after", within=LONG).body == b"GET /after"
            expected = [(line[0], b"/first"), (b"GET", b"/after")]
    # On another one, which the gateway may well send up the same upstream connection.
    with gateway.connect() as other:
        assert other.request("GET", "/other", within=LONG).body == b"GET /other"
    expected.append((b"GET", b"/other"))
    last.check()
    assert seen(last.requests[whole:]) == expected
    # Of a body that breaks its framing midway, the head may have gone up: as the only thing, and never whole.
    begun = seen(last.heads[heads:])
    assert begun == expected or (payload.statuses and begun == [(b"POST", b"/first"), *expected])
    assert all(len(r.all("content-length")) + len(r.all("transfer-encoding")) <= 1 for r in last.heads[heads:])


def seen(requests: list[Request]) -> list[tuple[bytes, bytes]]:
    """Methods and paths."""
    return [(r.method, r.target.split(b"?")[0]) for r in requests]


def test_the_table_is_large_and_every_payload_its_own() -> None:
    assert len(PAYLOADS) >= 120
    assert len({payload.raw for payload in PAYLOADS.values()}) >= len(PAYLOADS) - 2
    assert sum(not payload.statuses for payload in PAYLOADS.values()) >= 20
