"""The plugins of ``examples/plugins`` in a gateway with its configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from passerelle.cli.plugin_check import plugin_findings
from passerelle.config import load
from passerelle.gateway.gateway import Gateway
from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.upstream import answering, ok
from tests.support.wire import Response

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "plugins"


def test_the_example_does_what_it_describes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    body = json.dumps({"users": [{"name": "Ann", "email": "ann@example.com"}]}).encode()
    upstream = rig.upstream(answering(ok(body, b"Content-Type: application/json")))
    config = load(FOLDER / "gateway.yaml")
    assert plugin_findings(config) == []
    shop = config.services["shop"]
    (target,) = shop.all_targets
    url = target.url.model_copy(update={"port": upstream.port})
    shop = shop.model_copy(update={"targets": (target.model_copy(update={"url": url}),)})
    address = config.address.model_copy(update={"port": 0})
    listen = (config.main_listener.model_copy(update={"address": address}),)
    config = config.model_copy(update={"services": {"shop": shop}, "listen": listen, "access_log": "off"})
    gateway = rig.loop.call(lambda: Gateway(config))
    _, port = rig.loop.run(gateway.start())
    try:
        with Client(port) as client:
            response = _get(client, "/users?utm_source=x&page=2", "a.example")
            assert json.loads(response.body) == {"users": [{"name": "Ann", "email": "***"}]}
            assert _get(client, "/users", "d.example").status == 404
            assert _get(client, "/users", "c.example").status == 402
    finally:
        rig.loop.run(gateway.stop(0.0))
    (request,) = upstream.requests
    assert request.target == b"/users?page=2"
    assert request.get("x-tenant") == request.get("x-consumer") == b"alpha"


def _get(client: Client, target: str, host: str) -> Response:
    client.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return client.read_response("GET")
