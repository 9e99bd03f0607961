"""No request becomes two in a chain of two parsers (RFC 9112 §11.2).

The table is sent through the gateway to a recording server: directly, behind nginx and HAProxy, and to applications
behind the application server of the services.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.attack.chains import Last, chain
from tests.attack.payloads import PAYLOADS, SMUGGLED, Payload, post
from tests.requirements import needs
from tests.support.client import Client
from tests.support.gateways import Loop, Running
from tests.support.wire import Request, Response

ESCAPED = b"/first?x=%20HTTP/1.1%0d%0a%0d%0aGET%20/smuggled"
LONG = 30.0
"""Seconds that a response may take: needed only on a busy machine."""


class Chain(NamedTuple):
    """Gateway, optional second parser, and the last server."""

    gateway: Running
    last: Last


@pytest.fixture(
    scope="module",
    params=[
        "straight",
        pytest.param("nginx", marks=needs("nginx")),
        pytest.param("haproxy", marks=needs("haproxy")),
        "wsgi",
        "asgi",
    ],
)
def rig_of(request: pytest.FixtureRequest, loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with chain(request.param, tmp_path_factory.mktemp(request.param)) as (port, last):
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
            # Nor did it arrive after the test that sent it.
            assert {request.target for request in last.heads} <= {b"/first", b"/after", b"/other", ESCAPED}
        finally:
            gateway.stop()


def own_refusal(response: Response, allowed: tuple[int, ...]) -> None:
    """Assert that the gateway itself refused, and announced the close."""
    assert response.status in allowed, (response.raw, response.body)
    assert response.get("connection") == b"close"


@pytest.mark.parametrize("name", PAYLOADS)
def test_one_request_stays_one(rig_of: Chain, name: str) -> None:
    payload: Payload = PAYLOADS[name]
    gateway, last = rig_of
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
            # On the same connection the next response answers the next request, so no parser saw a request in between.
            assert client.request("GET", "/after", within=LONG).body == b"GET /after"
            expected = [(line[0], b"/first"), (b"GET", b"/after")]
    # On another connection, which the gateway may forward on the same upstream connection.
    with gateway.connect() as other:
        assert other.request("GET", "/other", within=LONG).body == b"GET /other"
    expected.append((b"GET", b"/other"))
    last.check()
    arrived = last.requests[whole:]
    assert seen(arrived) == expected
    # What looks like a second request is the end of the first one's body.
    assert payload.statuses or arrived[0].body.endswith(SMUGGLED)
    # If the framing of a body breaks midway, only its head may have been forwarded, and never a complete request. The
    # head may arrive late, also that of the previous payload.
    assert set(seen(last.heads[heads:])) <= {(b"POST", b"/first"), *expected}
    assert all(len(r.all("content-length")) + len(r.all("transfer-encoding")) <= 1 for r in last.heads[heads:])


def seen(requests: list[Request]) -> list[tuple[bytes, bytes]]:
    """Return methods and paths."""
    return [(r.method, r.target.split(b"?")[0]) for r in requests]


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_an_application_that_gets_two_requests_reports_it(kind: str, tmp_path: Path) -> None:
    with chain(kind, tmp_path) as (port, last):
        client = Client(port)
        client.send(post(b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED))
        assert [client.read_response(method, LONG).status for method in ("POST", "GET")] == [200, 200]
        assert seen(last.requests) == [(b"POST", b"/first"), (b"GET", b"/smuggled")]
        assert last.requests[0].body == b"0\r\n\r\n"
        client.close()


def test_the_table_is_large_and_every_payload_its_own() -> None:
    assert len(PAYLOADS) >= 120
    assert len({payload.raw for payload in PAYLOADS.values()}) >= len(PAYLOADS) - 2
    assert sum(not payload.statuses for payload in PAYLOADS.values()) >= 20
