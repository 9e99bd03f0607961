"""Responses of the gateway itself: problem details (RFC 9457), the request ID, and the instance (for loopback only)."""

from __future__ import annotations

import logging

import pytest

from tests.support.client import head
from tests.support.expect import problem
from tests.support.gateways import Rig
from tests.support.upstream import answering, ok, once


def test_each_kind_of_error_is_a_problem_document(rig: Rig) -> None:
    up, down = rig.upstream(answering(ok())), rig.upstream(answering(ok()))
    down.refuse()
    silent = rig.upstream(lambda conn: conn.read_request() and None)
    broken = rig.upstream(once(b"nonsense\r\n\r\n"))
    services = {
        n: {"targets": [u.url]} for n, u in (("up", up), ("down", down), ("silent", silent), ("broken", broken))
    }
    gateway = rig.gateway(
        services,
        [
            {"path": "/up", "service": "up", "methods": ["GET"], "body": "10B"},
            {"path": "/down", "service": "down"},
            {"path": "/silent", "service": "silent", "timeout": "200ms"},
            {"path": "/broken", "service": "broken"},
        ],
    )
    ids = set()
    for method, target, status in (
        ("GET", "/none", 404),
        ("DELETE", "/up", 405),
        ("GET", "/down", 502),
        ("GET", "/silent", 504),
        ("POST", "/broken", 502),
        ("GET", "/up/..;/x", 400),
    ):
        response = rig.connect(gateway).request(method, target, body=b"" if method == "POST" else None)
        document = problem(response, status)
        ids.add(response.get("x-request-id"))
        assert (document["title"] and "detail" not in document) or "127.0" not in str(document.get("detail"))
        if status == 405:
            assert {m.strip() for m in (response.get("allow") or b"").split(b",")} >= {b"GET"}
    assert len(ids) == 6, "a request id was used twice"


def test_the_request_id_is_the_same_for_client_and_upstream(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    response = client.request("GET", "/", ("X-Request-Id", "chosen-by-the-client"))
    sent = upstream.requests[0].get("x-request-id")
    assert sent and sent != b"chosen-by-the-client"
    got = response.all("x-request-id")
    assert got in ([], [sent])


@pytest.mark.parametrize(
    "target", ["/<script>alert(1)</script>", "/%3Cscript%3E", "/'\"", "/{x}", "/a%0d%0aSet-Cookie:x=1"]
)
def test_nothing_of_the_request_is_reflected_unescaped(rig: Rig, target: str) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, [{"path": "/only", "service": "u"}])
    client = rig.connect(gateway)
    client.send(head("GET", target))
    response = client.read_response()
    problem(response, 400, 404)
    assert b"<script>" not in response.body
    assert not response.all("set-cookie")


def test_debug_names_the_instance_to_a_client_on_this_machine(rig: Rig) -> None:
    one, two = rig.upstream(answering(ok())), rig.upstream(answering(ok()))
    gateway = rig.forward(one, two, service={"balance": "round_robin"})
    client = rig.connect(gateway)
    names = {client.request("GET", "/", ("Passerelle-Debug", "1")).get("passerelle-instance") for _ in range(4)}
    assert len(names) == 2 and None not in names
    assert not client.request("GET", "/").all("passerelle-instance")
    assert not client.request("GET", "/", ("Passerelle-Debug", "0")).all("passerelle-instance")
    for request in (*one.requests, *two.requests):
        assert not request.all("passerelle-debug")


def test_names_of_the_gateway_mean_nothing_from_outside(rig: Rig) -> None:
    """A client cannot set the fields that the gateway sends upstream, nor a service those that it sends to clients."""
    upstream = rig.upstream(answering(ok(b"ok", b"Passerelle-Instance: forged", b"Passerelle-Partial: forged")))
    client = rig.connect(rig.forward(upstream))
    response = client.request("GET", "/", ("Passerelle-Consumer", "admin"), ("passerelle-instance", "x"))
    assert not response.all("passerelle-instance") and not response.all("passerelle-partial")
    assert not [n for n in upstream.requests[0].names() if n.startswith("passerelle-")]


def test_debug_shows_a_trusted_proxys_client_nothing(rig: Rig) -> None:
    """Behind a trusted proxy the peer is local, but the client is not."""
    gateway = rig.forward(rig.upstream(answering(ok())), trusted_proxies=["127.0.0.0/8"])
    client = rig.connect(gateway)
    response = client.request("GET", "/", ("Passerelle-Debug", "1"), ("X-Forwarded-For", "198.51.100.7"))
    assert not response.all("passerelle-instance")


def test_bad_input_of_every_kind_leaves_the_gateway_serving(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    for raw in (
        b"\0" * 1000,
        b"\xff" * 1000,
        b"\r\n" * 100,
        b"A" * 70_000,
        b"GET " + b"/" * 40_000,
        bytes(range(256)) * 10,
    ):
        client = rig.connect(gateway)
        try:
            client.send(raw)
            client.finish()
            client.rest()
        except OSError:
            pass  # closed before everything was sent
        assert b"Traceback" not in client.received
    assert rig.connect(gateway).request().status == 200
    assert not [r for r in rig.log.records if r.levelno >= logging.ERROR]
