"""Plugins as guards and request filters in a running gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from passerelle.observability.prometheus import render
from tests.plugin_host import samples
from tests.support.gateways import Rig, Running
from tests.support.upstream import Upstream, answering, ok
from tests.support.wire import wait_until

HERE = "tests.plugin_host.samples"


def gateway(rig: Rig, upstream: Upstream, *plugins: dict[str, Any], route: dict[str, Any] | None = None) -> Running:
    """Start a gateway whose route has these plugins, named p0, p1 …"""
    named = {f"p{number}": settings for number, settings in enumerate(plugins)}
    return rig.forward(upstream, route={"plugins": list(named), **(route or {})}, plugins=named)


def guard(name: str, **keys: Any) -> dict[str, Any]:
    return {"guard": f"{HERE}:{name}", **keys}


def request_filter(name: str, **keys: Any) -> dict[str, Any]:
    return {"request": f"{HERE}:{name}", **keys}


def outcomes(running: Running, name: str = "p0") -> dict[str, int]:
    found: dict[str, int] = running.snapshot()["plugins"][name]["outcomes"]
    return found


@pytest.mark.parametrize("name", ["by_header", "by_header_at_once", "by_header_later"])
def test_a_guard_admits_and_refuses(rig: Rig, name: str) -> None:
    upstream = rig.upstream(answering(ok(b"in")))
    running = gateway(rig, upstream, guard(name))
    client = rig.connect(running)
    assert client.request("GET", "/", ("X-Key", "1")).body == b"in"
    refused = client.request("POST", "/", body=b"x" * 1000)
    assert refused.status == 403
    assert json.loads(refused.body)["kind"] == "forbidden"
    large = rig.connect(running).request("POST", "/", ("X-Key", "1"), body=b"x" * 100_000)
    assert large.body == b"in"
    assert [len(request.body) for request in upstream.requests] == [0, 100_000]
    assert outcomes(running) == {"allowed": 2, "refused": 1}
    text = render(running.snapshot())[0].decode()
    assert 'passerelle_plugin_calls_total{outcome="allowed",plugin="p0"} 2.0' in text
    assert 'passerelle_plugin_duration_seconds_count{plugin="p0"} 3.0' in text


def test_a_guard_sees_the_request(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(gateway(rig, upstream, guard("record")))
    fields = [("X-Tag", "a"), ("x-tag", "b"), ("X-Latin", "caf\u00e9"), ("X-Forwarded-For", "6.6.6.6")]
    assert client.request("GET", "/a/../b%41?q=1&r=%2F", *fields).status == 200
    (seen,) = samples.SEEN
    assert (seen.method, seen.path, seen.query) == ("GET", "/bA", "q=1&r=%2F")
    assert (seen.client, seen.scheme, seen.route, seen.consumer) == ("127.0.0.1", "http", "/{rest*}", None)
    assert seen.headers["X-TAG"] == "a, b"
    assert seen.headers.get_all("x-tag") == ["a", "b"]
    assert seen.headers.get("x-none") is None
    assert "x-latin" in seen.headers
    assert seen.request_id == upstream.requests[0].get("x-request-id").decode()
    assert "caf" not in repr(seen.headers)


def test_a_guard_names_the_consumer_and_fields_of_the_service(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    running = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/a", "service": "u", "plugins": ["who"], "rate_limit": {"rate": "1/h", "by": "consumer"}},
            {"path": "/b", "service": "u"},
        ],
        plugins={"who": guard("identify", sets=["X-Tenant"])},
    )
    client = rig.connect(running)
    forged = [("X-User", "ann"), ("X-Tenant", "root"), ("x_tenant", "root"), ("X-Consumer", "root")]
    assert client.request("GET", "/a", *forged).status == 200
    assert client.request("GET", "/a", *forged).status == 429
    assert client.request("GET", "/a", ("X-User", "bob")).status == 200
    assert client.request("GET", "/b", *forged).status == 200
    ann, bob, without = upstream.requests
    assert (ann.all("x-consumer"), ann.all("x-consumer-scopes"), ann.all("x-tenant")) == (
        [b"ann"],
        [b"read"],
        [b"t-ann"],
    )
    assert ann.all("x-consumer-auth") == [b"plugin"]
    assert bob.all("x-tenant") == [b"t-bob"]
    assert not {"x-tenant", "x_tenant", "x-consumer"} & set(without.names())


def test_refusals_have_a_status_fields_and_a_body(rig: Rig) -> None:
    running = gateway(rig, rig.upstream(answering(ok())), guard("answer"))
    client = rig.connect(running)
    moved = client.request("GET", "/?302")
    assert (moved.status, moved.get("location"), moved.body) == (302, b"/login", b"")
    assert moved.get("cache-control") == b"no-store"
    own = client.request("GET", "/?418&body")
    assert (own.status, own.get("x-why"), own.body) == (418, b"because", b"no entry")
    limited = client.request("GET", "/?429")
    assert (limited.status, limited.get("retry-after")) == (429, b"9")
    assert json.loads(limited.body)["kind"] == "rate_limited"
    plain = client.request("GET", "/?451")
    assert json.loads(plain.body) == {
        "type": "about:blank",
        "title": "Unavailable For Legal Reasons",
        "status": 451,
    }


@pytest.mark.parametrize("name", ["fail", "wrong", "leave", "leave_later", "undeclared"])
def test_a_guard_that_fails_is_closed_and_shows_nothing(rig: Rig, name: str) -> None:
    upstream = rig.upstream(answering(ok()))
    running = gateway(rig, upstream, guard(name))
    client = rig.connect(running)
    for _ in range(3):
        response = client.request("GET", "/")
        assert response.status == 500
        assert json.loads(response.body)["kind"] == "plugin_failed"
        assert b"secret" not in response.body
    assert upstream.requests == []
    assert outcomes(running)["error"] == 3
    logged, rig.log.records = rig.log.records, []
    assert len(logged) == 1, "the same error is logged once a minute"
    assert "plugin p0" in logged[0].getMessage()


@pytest.mark.parametrize("name", ["hang", "hang_later"])
def test_a_guard_without_a_result_in_time_is_closed(rig: Rig, name: str, events: list[str]) -> None:
    upstream = rig.upstream(answering(ok()))
    running = gateway(rig, upstream, guard(name, timeout="30ms", threads=1))
    clients = [rig.connect(running) for _ in range(3)]
    responses = [client.request("GET", "/") for client in clients]
    assert [response.status for response in responses] == [503] * 3
    assert json.loads(responses[0].body)["kind"] == "plugin_timeout"
    assert outcomes(running) == {"timeout": 3}
    assert upstream.requests == []
    if name == "hang_later":
        wait_until(lambda: events == ["cancelled"] * 3, "the coroutines are cancelled")
    rig.log.records = []


def test_a_client_that_leaves_during_a_guard_is_released(rig: Rig) -> None:
    running = gateway(rig, rig.upstream(answering(ok())), guard("hang", timeout="20s"))
    client = rig.connect(running)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: sum(r["in_flight"] for r in running.snapshot()["routes"].values()) == 1, "the guard runs")
    client.reset()
    wait_until(lambda: sum(r["in_flight"] for r in running.snapshot()["routes"].values()) == 0, "it is released")
    samples.GATE.set()
    assert rig.connect(running).request("GET", "/").status == 200


# ---- filters of requests


def test_a_request_filter_changes_fields_and_query(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(gateway(rig, upstream, request_filter("add_fields", sets=["X-Tenant"])))
    assert client.request("GET", "/a?q=1", ("Cookie", "c=1"), ("X-Tenant", "forged")).status == 200
    (request,) = upstream.requests
    assert request.target == b"/a?q=2"
    assert request.all("x-tenant") == [b"a", b"b"]
    assert request.all("cookie") == []


def test_filters_run_in_the_order_of_the_route(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    plugins = (request_filter("add_fields", sets=["X-Tenant"]), guard("record"), request_filter("drop_query"))
    client = rig.connect(gateway(rig, upstream, *plugins))
    assert client.request("GET", "/a?q=1").status == 200
    assert upstream.requests[0].target == b"/a"
    assert samples.SEEN[0].query == "q=1", "guards run before all filters"


@pytest.mark.parametrize(("failure", "status"), [("open", 200), ("closed", 500)])
def test_a_request_filter_that_fails_is_open_or_closed(rig: Rig, failure: str, status: int) -> None:
    upstream = rig.upstream(answering(ok()))
    plugins = [request_filter(name, failure=failure, sets=["X-Tenant"]) for name in ("fail", "wrong")]
    running = gateway(rig, upstream, *plugins)
    assert rig.connect(running).request("GET", "/a?q=1", ("X-Tenant", "forged")).status == status
    if failure == "open":
        assert upstream.requests[0].target == b"/a?q=1"
        assert upstream.requests[0].all("x-tenant") == []
        assert outcomes(running, "p1") == {"error": 1}
    rig.log.records = []


# ---- the cache


CACHED = ok(b"body", b"Cache-Control: max-age=60")


def variants(rig: Rig, plugin: dict[str, Any], *requests: tuple[str, ...], cache: dict[str, Any] | None = None) -> int:
    """Send the requests, each with these values of X-Key, and return how many of them reached the service."""
    upstream = rig.upstream(answering(ok(b"body", b"Cache-Control: max-age=60")))
    running = gateway(rig, upstream, plugin, route={"cache": cache or {}})
    client = rig.connect(running)
    for target, *keys in requests:
        assert client.request("GET", target, *(("X-Key", key) for key in keys)).status == 200
    return len(upstream.requests)


def test_what_a_guard_reads_separates_stored_responses(rig: Rig) -> None:
    twice = ("/", "a"), ("/", "a"), ("/", "b"), ("/", "b")
    assert variants(rig, guard("by_header"), *twice) == 4, "as with Authorization, only public responses are stored"
    assert variants(rig, guard("by_header"), *twice, cache={"identity": "consumer"}) == 2
    assert variants(rig, guard("nothing_read"), *twice) == 1
    assert variants(rig, guard("by_header"), *twice, cache={"identity": "shared"}) == 1


def test_a_refused_client_never_has_a_stored_response(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"body", b"Cache-Control: public, max-age=60")))
    client = rig.connect(gateway(rig, upstream, guard("by_header"), route={"cache": {}}))
    assert client.request("GET", "/", ("X-Key", "1")).status == 200
    assert client.request("GET", "/", ("X-Key", "2")).status == 200
    assert client.request("GET", "/").status == 403
    assert len(upstream.requests) == 1


def test_a_query_that_a_filter_sets_is_in_the_key(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"body", b"Cache-Control: public, max-age=60")))
    client = rig.connect(gateway(rig, upstream, request_filter("query_by_user"), route={"cache": {}}))
    for user in ("ann", "bob", "ann"):
        assert client.request("GET", "/", ("X-User", user)).status == 200
    assert [request.target for request in upstream.requests] == [b"/?user=ann", b"/?user=bob"]


def test_a_response_that_varies_by_a_field_of_a_plugin_varies_by_its_value(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"body", b"Cache-Control: public, max-age=60", b"Vary: X-Tenant")))
    running = gateway(rig, upstream, guard("identify", sets=["X-Tenant"]), route={"cache": {}})
    client = rig.connect(running)
    for user in ("ann", "bob", "ann"):
        assert client.request("GET", "/", ("X-User", user), ("X-Tenant", "same")).status == 200
    assert [request.get("x-tenant") for request in upstream.requests] == [b"t-ann", b"t-bob"]
