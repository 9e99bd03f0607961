"""The cache gives nobody what was made for another, or for another route, whatever clients and services make of it."""

from __future__ import annotations

import json

from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Response

LONG = 20.0
FRESH = b"Cache-Control: max-age=60"


def get(client: Client, target: str = "/x", *lines: str, host: str = "gw") -> Response:
    client.send("\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("latin-1"))
    return client.read_response(within=LONG)


def is_hit(response: Response) -> bool:
    return (response.get("cache-status") or b"").startswith(b"passerelle; hit")


# ---- parts of compositions, on one connection that repeats its head


def telling(rig: Rig) -> Upstream:
    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            said = {name: (request.get(name) or b"").decode() for name in ("authorization", "x-tenant")}
            conn.send(ok(json.dumps(said).encode(), b"Content-Type: application/json", FRESH, b"Vary: X-Tenant"))

    return rig.upstream(script)


def test_a_part_is_told_apart_by_the_lines_that_its_own_route_makes(rig: Rig) -> None:
    upstream = telling(rig)
    part = {"me": {"service": "u", "path": "/me", "cache": {}}}
    routes = [
        {"path": "/anonymous", "compose": part, "request_headers": {"remove": ["Authorization"]}},
        {"path": "/mine", "compose": part},
    ]
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, routes)
    client = rig.connect(gateway)
    assert json.loads(get(client, "/anonymous", "Authorization: a").body)["me"]["authorization"] == ""
    assert json.loads(get(client, "/mine", "Authorization: a").body)["me"]["authorization"] == "a"
    assert json.loads(get(rig.connect(gateway), "/mine").body)["me"]["authorization"] == ""


def test_a_part_is_chosen_by_what_its_route_has_set(rig: Rig) -> None:
    upstream = telling(rig)
    route = {
        "path": "/t/{tenant}",
        "compose": {"me": {"service": "u", "path": "/me", "cache": {}}},
        "request_headers": {"set": {"X-Tenant": "{tenant}"}},
    }
    client = rig.connect(rig.gateway({"u": {"targets": [upstream.url]}}, [route]))
    asked = ["a", "b", "a", "b"]
    assert [json.loads(get(client, f"/t/{tenant}").body)["me"]["x-tenant"] for tenant in asked] == asked
    assert len(upstream.requests) == 2
