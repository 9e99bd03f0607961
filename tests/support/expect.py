"""Common assertions about refusals."""

from __future__ import annotations

import json
from typing import Any

from tests.support.client import Client
from tests.support.gateways import Running
from tests.support.upstream import Upstream
from tests.support.wire import Response


def problem(response: Response, *statuses: int) -> dict[str, Any]:
    """Assert a problem document of the gateway (RFC 9457) with one of ``statuses`` that discloses nothing."""
    assert response.status in statuses, f"{response.status} instead of {statuses}: {response.raw!r} {response.body!r}"
    assert response.get("content-type") == b"application/problem+json"
    document: dict[str, Any] = json.loads(response.body)
    assert document["status"] == response.status
    assert isinstance(document["title"], str) and document["title"]
    assert document["type"] == "/passerelle/problems/" + document["kind"].replace("_", "-")
    assert response.all("cache-control") == [b"no-store"]
    request_id = response.get("x-request-id")
    assert request_id, "no X-Request-Id"
    assert request_id.decode() in map(str, document.values()), f"the request id is not in {document}"
    for secret in ("Traceback", "127.0.0.1", 'File "', "Errno"):
        assert secret not in response.body.decode(), f"{secret!r} in {response.body!r}"
    return document


def closing(response: Response) -> None:
    """Assert that the response announces the end of the connection (RFC 9112 §9.6)."""
    options = b",".join(response.all("connection")).lower().split(b",")
    assert b"close" in [o.strip() for o in options], f"no Connection: close in {response.raw!r}"


def refused(client: Client, raw: bytes, *statuses: int) -> Response:
    """Assert that the gateway responds to ``raw`` with one problem document, announces the close, and closes."""
    client.send(raw)
    response = client.read_response(raw.split(b" ", 1)[0].decode("latin-1"))
    if response.body:
        problem(response, *statuses)
    assert response.status in statuses
    closing(response)
    client.assert_closed()
    return response


def nothing_arrived(gateway: Running, upstream: Upstream) -> None:
    """Assert that no request has reached the upstream, by sending one that does after all others."""
    with gateway.connect() as probe:
        assert probe.request("GET", "/probe").status == 200
    assert [r.target for r in upstream.heads] == [b"/probe"]
    assert b"".join(bytes(c.received) for c in upstream.connections).count(b" HTTP/1.1\r\n") == 1
