"""A reload that changes the storage rules of a route evicts what was stored under the old ones."""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import Any

import pytest

from tests.proxy_cache.test_mixing import LONG, get, is_hit
from tests.support.gateways import Rig, in_flight
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import wait_until


def saying(rig: Rig) -> Upstream:
    """A service that responds with the client, the origin and the number of its requests."""

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            who, region = (request.get(name) or b"-" for name in ("authorization", "x-region"))
            body = b'"%b %b %d"' % (who, region, len(conn.upstream.requests))
            conn.send(ok(body, b"Content-Type: application/json", b"Cache-Control: max-age=600"))

    return rig.upstream(script)


ALL = {"path": "/{rest*}", "service": "u"}
Routes = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ({"identity": "shared"}, {}, False),
        ({"identity": "shared"}, {"identity": "consumer"}, False),
        ({"identity": "shared"}, {"identity": "shared", "vary_on": ["X-Region"]}, False),
        ({"identity": "shared", "query": []}, {"identity": "shared"}, False),
        ({"identity": "shared", "per_host": False}, {"identity": "shared"}, False),
        ({"identity": "shared", "store_set_cookie": True}, {"identity": "shared"}, False),
        ({"identity": "shared"}, {"identity": "shared", "ttl": "1h", "tags": ["t"], "heuristic": False}, True),
    ],
)
def test_responses_stored_under_other_rules_are_not_served_under_new_ones(
    rig: Rig, before: dict[str, Any], after: dict[str, Any], kept: bool
) -> None:
    upstream = saying(rig)
    services = {"u": {"targets": [upstream.url]}}
    gateway = rig.gateway(services, [{**ALL, "cache": before}])
    client = rig.connect(gateway)
    first = get(client, "/x", "Authorization: a")
    assert get(client, "/x", "Authorization: b").body == first.body
    gateway.reload(services, [{**ALL, "cache": after}])
    assert (get(client, "/x", "Authorization: b", "X-Region: eu").body == first.body) is kept
    gateway.reload(services, [{**ALL, "cache": before}])
    assert (get(client, "/x", "Authorization: a").body == first.body) is kept, "nor does it come back"


SHARED = {"cache": {"identity": "shared"}}
PRIVATE = {"cache": {}}


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([[{**ALL, **SHARED}], [{**ALL, **SHARED}, {**ALL, "path": "/{x}", **PRIVATE}]], id="another"),
        pytest.param([[{**ALL, "path": "/{x}", **SHARED}, {**ALL, **PRIVATE}], [{**ALL, **PRIVATE}]], id="the other"),
        pytest.param(
            [
                [{**ALL, "path": "/x", **SHARED}, {**ALL, "path": "/y", **SHARED}],
                [{**ALL, "path": "/y", **SHARED}],
                [{**ALL, "path": "/y", **PRIVATE}],
                [{**ALL, "path": "/x", **PRIVATE}],
            ],
            id="step by step",
        ),
    ],
)
def test_a_route_with_other_rules_does_not_inherit_what_is_stored(rig: Rig, steps: list[Routes]) -> None:
    upstream = saying(rig)
    services = {"u": {"targets": [upstream.url]}}
    gateway = rig.gateway(services, steps[0])
    client = rig.connect(gateway)
    assert get(client, "/x", "Authorization: a").body == b'"a - 1"'
    for routes in steps[1:]:
        gateway.reload(services, routes)
    assert get(client, "/x", "Authorization: b").body == b'"b - 2"'


def test_a_reload_evicts_parts_and_compositions_too(rig: Rig) -> None:
    upstream = saying(rig)
    services = {"u": {"targets": [upstream.url]}}

    def routes(identity: str) -> Routes:
        parts = {"one": {"service": "u", "path": "/one/{id}", "cache": {"identity": identity}}}
        return [
            {"path": "/part/{id}", "compose": parts},
            {"path": "/whole/{id}", "compose": parts, "cache": {}},
            {"path": "/plain", "service": "u", "cache": {}},
        ]

    gateway = rig.gateway(services, routes("shared"))
    client = rig.connect(gateway)
    paths = ("/part/1", "/whole/1", "/plain")
    for path in paths:
        get(client, path, *(["Authorization: a"] if path != "/plain" else []))
    for path in paths[:2]:
        assert json.loads(get(client, path, "Authorization: b").body)["one"].startswith("a")
    gateway.reload(services, routes("rule"))
    for path in paths[:2]:
        assert json.loads(get(client, path, "Authorization: b").body)["one"].startswith("b")
    assert is_hit(get(client, "/plain")), "what other routes have stored stays"


def test_more_changes_than_are_worth_a_search_empty_the_memory(rig: Rig) -> None:
    upstream = saying(rig)
    services = {"u": {"targets": [upstream.url]}}

    def routes(identity: str) -> Routes:
        cache = {"cache": {"identity": identity}}
        return [{"path": f"/{number}", "service": "u", **cache} for number in range(9)] + [{**ALL, **PRIVATE}]

    gateway = rig.gateway(services, routes("shared"))
    client = rig.connect(gateway)
    get(client, "/0", "Authorization: a")
    get(client, "/other")
    gateway.reload(services, routes("shared"))
    assert gateway.snapshot()["cache"]["entries"] == 2
    gateway.reload(services, routes("rule"))
    assert gateway.snapshot()["cache"]["entries"] == 0


def test_a_request_under_old_rules_is_neither_stored_nor_joined(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            conn.wait(go)
            conn.send(ok(request.get("authorization") or b"", b"Cache-Control: max-age=600"))

    upstream = rig.upstream(script)
    services = {"u": {"targets": [upstream.url]}}
    gateway = rig.gateway(services, [{**ALL, **SHARED}])
    clients = {who: rig.connect(gateway) for who in "abc"}
    for number, (who, client) in enumerate(clients.items(), 1):
        if who == "b":
            gateway.reload(services, [{**ALL, **PRIVATE}])
        client.send(f"GET /x HTTP/1.1\r\nHost: gw\r\nAuthorization: {who}\r\n\r\n".encode())
        wait_until(partial(lambda n: in_flight(gateway) == n, number), "it waits", LONG)
    go.set()
    assert [client.read_response(within=LONG).body.decode() for client in clients.values()] == list("abc")
    assert gateway.snapshot()["cache"]["entries"] == 0
