"""Traces through a whole gateway: what services, the collector, the log and clients see."""

from __future__ import annotations

import gc
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from passerelle.gateway.traced_exchange import requests_between_samples
from passerelle.observability.tracing import exporter as exporter_module
from passerelle.upstream.traced_request import TracedPolicy
from tests.support.client import Client
from tests.support.collector import Collector, Span
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, Upstream, answering, ok, once
from tests.support.wire import Request, wait_until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
JSON = b"Content-Type: application/json"
FRESH = b"Cache-Control: max-age=60"
TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setattr(exporter_module, "BATCH_SECONDS", 0.02)
    monkeypatch.setattr(exporter_module, "FIRST_DELAY", 0.02)
    collector = Collector()
    yield collector
    collector.close()


def tracing(collector: Collector, sample: str = "100%", **keys: Any) -> dict[str, Any]:
    return {"tracing": {"endpoint": collector.endpoint, "sample": sample, **keys}}


def field(request: Request, name: str) -> list[str]:
    return [value.decode() for key, value in request.fields if key.lower() == name.encode()]


def context(request: Request) -> tuple[str, str, str]:
    """Return trace id, parent id and flags of the only traceparent of a request to a service."""
    (value,) = field(request, "traceparent")
    version, trace_id, parent_id, flags = value.split("-")
    assert version == "00"
    return trace_id, parent_id, flags


def of_kind(spans: list[Span], kind: str) -> list[Span]:
    return [span for span in spans if span.kind == kind]


def only(spans: list[Span], kind: str) -> Span:
    (span,) = of_kind(spans, kind)
    return span


def site(rig: Rig, collector: Collector, script: Any = None, **top: Any) -> tuple[Upstream, Running, Client]:
    upstream = rig.upstream(script or answering(ok(b"{}", JSON)))
    gateway = rig.forward(upstream, **{**tracing(collector), **top})
    return upstream, gateway, rig.connect(gateway)


def kept_policies() -> list[TracedPolicy]:
    """Return the policies of sampled requests that anything still refers to."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, TracedPolicy)]


# ---- the sample


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, 0), (0.0, sys.maxsize)])
def test_all_or_none_are_sampled(ratio: float, expected: int) -> None:
    assert {requests_between_samples(ratio) for _ in range(100)} == {expected}


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.25, 0.9])
def test_each_request_is_sampled_with_the_probability_of_the_ratio(ratio: float) -> None:
    random.seed(7)
    gaps = [requests_between_samples(ratio) for _ in range(20_000)]
    assert len(gaps) / (sum(gaps) + len(gaps)) == pytest.approx(ratio, rel=0.05)
    for gap in range(3):
        assert gaps.count(gap) / len(gaps) == pytest.approx((1 - ratio) ** gap * ratio, abs=0.01)


def test_requests_that_are_not_sampled_have_traces_of_their_own(rig, collector):
    upstream, _, client = site(rig, collector, **tracing(collector, "0%"))
    for number in range(600):
        client.request("GET", f"/{number}")
    found = [context(request) for request in upstream.wait_requests(600)]
    assert len({trace_id for trace_id, _, _ in found}) == 600
    for trace_id, parent_id, flags in found:
        assert (len(trace_id), len(parent_id), flags) == (32, 16, "00")
        assert int(trace_id, 16) and int(parent_id, 16)


# ---- contexts


def test_a_request_is_a_server_span_and_its_attempt_the_parent_of_the_service(rig, collector):
    upstream, _, client = site(rig, collector)
    client.request("GET", "/shop/1?token=secret&page=2", ("User-Agent", "tests"))
    spans = collector.trace()
    server, attempt = only(spans, "server"), only(spans, "client")
    trace_id, parent_id, flags = context(upstream.wait_requests(1)[0])
    assert trace_id == server.trace_id == attempt.trace_id and flags == "01"
    assert parent_id == attempt.span_id
    assert attempt.parent_id == server.span_id and server.parent_id == ""
    assert server.start <= attempt.start <= attempt.end <= server.end
    assert server.name == "GET /{rest*}"
    assert (
        server.attributes
        | {
            "http.request.method": "GET",
            "http.route": "/{rest*}",
            "http.response.status_code": 200,
            "url.path": "/shop/1",
            "url.query": "token=[redacted]&page=2",
            "url.scheme": "http",
            "server.address": "gw",
            "client.address": "127.0.0.1",
            "user_agent.original": "tests",
        }
        == server.attributes
    )
    assert (
        attempt.attributes
        | {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "server.address": "127.0.0.1",
            "server.port": upstream.port,
            "url.full": f"{upstream.url}/shop/1?token=[redacted]&page=2",
            "passerelle.service": "u",
            "passerelle.instance": "u-1",
        }
        == attempt.attributes
    )
    assert not server.failed and not attempt.failed
    assert server.resource["service.name"] == "passerelle" and server.resource["service.instance.id"]


def test_the_trace_of_a_client_is_continued(rig, collector):
    upstream, _, client = site(rig, collector)
    client.request("GET", "/", ("traceparent", SAMPLED), ("tracestate", "a=1"), ("Tracestate", "b=2"))
    server = only(collector.trace(), "server")
    assert (server.trace_id, server.parent_id, server.state) == (TRACE, PARENT, "a=1,b=2")
    request = upstream.wait_requests(1)[0]
    assert context(request)[0] == TRACE
    assert context(request)[1] != PARENT
    assert field(request, "tracestate") == ["a=1,b=2"]


@pytest.mark.parametrize(
    "given",
    [
        [("traceparent", SAMPLED.upper())],
        [("traceparent", SAMPLED[:-1])],
        [("traceparent", f"00-{'0' * 32}-{PARENT}-01")],
        [("traceparent", SAMPLED), ("TraceParent", SAMPLED)],
        [],
    ],
    ids=["upper case", "short", "zeros", "two", "none"],
)
def test_a_malformed_context_is_replaced_and_its_state_dropped(rig, collector, given):
    upstream, _, client = site(rig, collector)
    client.request("GET", "/", *given, ("TraceState", "a=1"))
    request = upstream.wait_requests(1)[0]
    server = only(collector.trace(), "server")
    assert context(request)[0] == server.trace_id != TRACE
    assert server.parent_id == "" and field(request, "tracestate") == []


def test_a_state_of_10_kilobytes_is_dropped(rig, collector):
    upstream, _, client = site(rig, collector)
    client.request("GET", "/", ("traceparent", SAMPLED), ("tracestate", "a=" + "x" * 10_240))
    assert only(collector.trace(), "server").trace_id == TRACE
    assert field(upstream.wait_requests(1)[0], "tracestate") == []


# ---- sampling


def test_an_unsampled_request_continues_the_trace_and_is_not_recorded(rig, collector):
    upstream, gateway, client = site(rig, collector, **tracing(collector, "0%"))
    client.request()
    client.request("GET", "/", ("traceparent", SAMPLED), ("tracestate", "a=1"))
    first, second = upstream.wait_requests(2)
    assert context(first)[2] == "00" and context(first)[0] != TRACE
    trace_id, parent_id, flags = context(second)
    assert (trace_id, flags) == (TRACE, "00") and parent_id != PARENT
    assert field(second, "tracestate") == ["a=1"]
    gateway.stop()
    assert collector.spans == []


@pytest.mark.parametrize("who", [TRUSTED, {}], ids=["proxy", "client"])
def test_the_flag_of_trusted_proxies_decides_and_that_of_clients_where_configured(rig, collector, who):
    follows = {} if who else {"follow_clients": True}
    upstream, _, client = site(rig, collector, **tracing(collector, "0%", **follows), **who)
    client.request("GET", "/", ("traceparent", SAMPLED))
    assert only(collector.trace(), "server").trace_id == TRACE
    gateway = rig.forward(upstream, **tracing(collector, "100%", **follows), **who)
    rig.connect(gateway).request("GET", "/", ("traceparent", UNSAMPLED))
    assert context(upstream.wait_requests(2)[1])[2] == "00"
    gateway.stop()
    assert len(of_kind(collector.spans, "server")) == 1


def test_the_share_of_sampled_requests_is_that_of_the_configuration(rig, collector):
    upstream, _, client = site(rig, collector, **tracing(collector, "20%"))
    for _ in range(300):
        client.request()
    sampled = sum(context(request)[2] == "01" for request in upstream.wait_requests(300))
    assert 25 <= sampled <= 100  # 60 expected: five deviations of 7
    collector.trace(sampled)


def test_a_failure_is_always_recorded(rig, collector):
    upstream, _, client = site(rig, collector, **tracing(collector, "0%"))
    upstream.refuse()
    response = client.request("GET", "/x", ("traceparent", SAMPLED))
    assert response.status == 502 and json.loads(response.body)["trace_id"] == TRACE
    server = only(collector.trace(), "server")
    assert server.failed and server.trace_id == TRACE and server.parent_id == PARENT
    assert server.attributes["error.type"] == "connect_failed"
    assert server.attributes["http.response.status_code"] == 502


def test_a_500_of_the_service_is_recorded_and_a_404_is_not(rig, collector):
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    broken = b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n"

    def script(conn: Connection) -> None:
        for answer in (missing, broken):
            conn.read_request()
            conn.send(answer)

    _, gateway, client = site(rig, collector, script, **tracing(collector, "0%"))
    assert [client.request().status for _ in range(2)] == [404, 500]
    server = only(collector.trace(), "server")
    assert server.failed and server.attributes["error.type"] == "500"
    gateway.stop()
    assert len(collector.spans) == 1


# ---- attempts


def test_each_attempt_of_a_retried_request_is_a_span(rig, collector):
    upstream = rig.upstream([once(b"", "reset"), answering(ok())])
    other = rig.upstream([once(b"", "reset"), answering(ok())])
    gateway = rig.forward(upstream, other, route={"attempts": 3}, **tracing(collector))
    assert rig.connect(gateway).request().status == 200
    spans = collector.trace()
    attempts = sorted(of_kind(spans, "client"), key=lambda span: span.start)
    assert len(attempts) >= 2
    assert [span.failed for span in attempts] == [True] * (len(attempts) - 1) + [False]
    assert attempts[0].attributes["error.type"] in ("upstream_reset", "upstream_closed")
    assert [span.attributes.get("http.request.resend_count", 0) for span in attempts] == list(range(len(attempts)))
    received = {context(request)[1] for each in (upstream, other) for request in each.requests}
    assert received == {span.span_id for span in attempts}
    assert {span.parent_id for span in attempts} == {only(spans, "server").span_id}


def test_a_hedge_is_a_span(rig, collector):
    release = threading.Event()

    def slow(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(ok(b"slow"))

    first = rig.upstream(slow)
    second = rig.upstream(answering(ok(b"fast")))
    gateway = rig.forward(
        first,
        second,
        service={"balance": "round_robin"},
        route={"hedge": {"after": "20ms"}, "tell_deadline": True},
        **tracing(collector),
    )
    client = rig.connect(gateway)
    responses = [client.request().body for _ in range(4)]
    release.set()
    assert responses == [b"fast"] * 4
    spans = collector.trace(4)
    received = {context(request)[1] for each in (first, second) for request in each.requests}
    attempts = of_kind(spans, "client")
    cancelled = [span for span in attempts if span.attributes.get("error.type") == "cancelled"]
    # An attempt may be cancelled before the instance has read its request.
    unread = {span.span_id for span in attempts} - received
    assert received <= {span.span_id for span in attempts}
    assert unread <= {span.span_id for span in cancelled}
    assert len(cancelled) == len(first.requests) + len(unread) >= 1
    assert {span.attributes["passerelle.instance"] for span in cancelled} == {"u-1"}


# ---- the cache, compositions, guards


def test_lookups_in_the_cache_are_spans_and_hits_have_no_attempt(rig, collector):
    upstream = rig.upstream(answering(ok(b"{}", JSON, FRESH)))
    gateway = rig.forward(upstream, route={"cache": {}}, **tracing(collector))
    client = rig.connect(gateway)
    for _ in range(3):
        client.request()
    spans = collector.trace(3)
    assert len(upstream.requests) == 1
    lookups = of_kind(spans, "internal")
    assert [span.attributes["passerelle.cache.outcome"] for span in lookups] == ["miss", "hit", "hit"]
    assert len(of_kind(spans, "client")) == 1
    assert [span.parent_id for span in lookups] == [span.span_id for span in of_kind(spans, "server")]


def test_unsampled_hits_are_served_and_stored_responses_keep_no_trace(rig, collector):
    upstream = rig.upstream(answering(ok(b"{}", JSON, FRESH)))
    gateway = rig.forward(upstream, route={"cache": {}}, **tracing(collector, "0%"), **TRUSTED)
    client = rig.connect(gateway)
    bodies = {client.request("GET", "/", ("traceparent", flag)).body for flag in (SAMPLED, UNSAMPLED, SAMPLED)}
    assert bodies == {b"{}"} and len(upstream.requests) == 1
    spans = collector.trace(2)
    assert len(of_kind(spans, "server")) == 2
    wait_until(lambda: not kept_policies(), "no policy of a request is kept")


def test_each_part_of_a_composition_is_a_span_with_its_attempts(rig, collector):
    upstream = rig.upstream(answering(ok(b"{}", JSON, FRESH)))
    parts = {
        "user": {"service": "u", "path": "/user"},
        "product": {"service": "u", "path": "/product", "cache": {}},
    }
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}}, [{"path": "/api", "compose": parts}], **tracing(collector)
    )
    client = rig.connect(gateway)
    assert client.request("GET", "/api", ("traceparent", SAMPLED), ("tracestate", "a=1")).status == 200
    assert client.request("GET", "/api").status == 200
    spans = collector.trace(2)
    first = [span for span in spans if span.trace_id == TRACE]
    server, by_name = only(first, "server"), {span.name: span for span in of_kind(first, "internal")}
    assert set(by_name) == {"part user", "part product"}
    assert {span.parent_id for span in by_name.values()} == {server.span_id}
    attempts = {span.attributes["url.full"].rpartition("/")[2]: span for span in of_kind(first, "client")}
    assert {name: span.parent_id for name, span in attempts.items()} == {
        "user": by_name["part user"].span_id,
        "product": by_name["part product"].span_id,
    }
    requests = {request.target: request for request in upstream.requests[:2]}
    assert context(requests[b"/user"])[1] == attempts["user"].span_id
    assert field(requests[b"/user"], "tracestate") == ["a=1"]
    second = [span for span in spans if span.trace_id != TRACE]
    outcomes = {span.name: span.attributes.get("passerelle.cache.outcome") for span in of_kind(second, "internal")}
    assert outcomes == {"part user": None, "part product": "hit"}
    assert len(of_kind(second, "client")) == 1


def test_unsampled_parts_continue_the_trace(rig, collector):
    upstream = rig.upstream(answering(ok(b"{}", JSON)))
    parts = {name: {"service": "u", "path": f"/{name}"} for name in ("a", "b")}
    services = {"u": {"targets": [upstream.url]}}
    gateway = rig.gateway(services, [{"path": "/api", "compose": parts}], **tracing(collector, "0%"))
    rig.connect(gateway).request("GET", "/api", ("traceparent", SAMPLED))
    assert {context(request)[0] for request in upstream.wait_requests(2)} == {TRACE}
    assert {context(request)[2] for request in upstream.requests} == {"00"}


def test_guards_are_spans_and_their_requests_are_children(rig, collector):
    auth = rig.upstream(answering(ok(b"")))
    upstream = rig.upstream(answering(ok()))
    services = {"auth": {"targets": [auth.url]}, "u": {"targets": [upstream.url]}}
    guarded = {"service": "auth", "path": "/check", "send_headers": ["traceparent", "Cookie"]}
    route = {"path": "/{rest*}", "service": "u", "forward_auth": guarded, "clients": {"allow": ["127.0.0.0/8"]}}
    gateway = rig.gateway(services, [route], **tracing(collector))
    assert rig.connect(gateway).request("GET", "/", ("traceparent", SAMPLED)).status == 200
    spans = collector.trace()
    guards = {span.attributes["passerelle.guard"]: span for span in of_kind(spans, "internal")}
    assert set(guards) == {"clients", "forward_auth"}
    assert {span.parent_id for span in guards.values()} == {only(spans, "server").span_id}
    assert context(auth.wait_requests(1)[0]) == (TRACE, guards["forward_auth"].span_id, "01")
    assert context(upstream.wait_requests(1)[0])[1] == only(spans, "client").span_id


def test_a_refusal_is_recorded_with_its_reason(rig, collector):
    _, _, client = site(rig, collector, route={"clients": {"deny": ["127.0.0.0/8"]}})
    assert client.request().status == 403
    spans = collector.trace()
    assert only(spans, "internal").attributes["passerelle.refused"] == "forbidden"
    server = only(spans, "server")
    assert server.attributes["passerelle.failure"] == "forbidden" and not server.failed


def test_a_preflight_is_recorded(rig, collector):
    route = {"cors": {"origins": ["https://a.example"]}, "clients": {"allow": ["127.0.0.0/8"]}}
    _, _, client = site(rig, collector, route=route)
    fields = ("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")
    assert client.request("OPTIONS", "/", *fields).status == 204
    assert only(collector.trace(), "server").attributes["http.request.method"] == "OPTIONS"


def test_an_invented_method_gives_no_name_to_spans(rig, collector):
    _, _, client = site(rig, collector)
    client.request("BREW", "/pot")
    server = only(collector.trace(), "server")
    assert server.name == "HTTP /{rest*}"
    assert server.attributes["http.request.method"] == "_OTHER"
    assert server.attributes["http.request.method_original"] == "BREW"


def test_a_request_without_a_route_is_recorded(rig, collector):
    upstream = rig.upstream(answering(ok()))
    services = {"u": {"targets": [upstream.url]}}
    gateway = rig.gateway(services, [{"path": "/a", "service": "u"}], **tracing(collector))
    assert rig.connect(gateway).request("GET", "/b").status == 404
    server = only(collector.trace(), "server")
    assert server.name == "GET" and "http.route" not in server.attributes


def test_a_client_that_disconnects_ends_its_spans(rig, collector):
    _, _, client = site(rig, collector, lambda conn: conn.read_request())
    client.send(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")
    rig.upstreams[0].wait_requests(1)
    client.reset()
    spans = collector.trace()
    assert only(spans, "client").attributes["error.type"] == "cancelled"
    assert only(spans, "server").attributes["passerelle.failure"] == "client_gone"


# ---- logs, metrics


def test_log_and_problem_details_have_the_trace_id(rig, collector, tmp_path: Path):
    log = tmp_path / "access.log"
    upstream, _, client = site(rig, collector, **tracing(collector, "0%"), access_log=str(log))
    client.request("GET", "/", ("traceparent", SAMPLED))
    client.request()
    other = rig.forward(upstream, **tracing(collector), access_log=str(log))
    rig.connect(other).request("GET", "/", ("traceparent", SAMPLED))
    wait_until(lambda: log.read_bytes().count(b"\n") >= 3, "lines in the log")
    ids = [json.loads(line)["trace_id"] for line in log.read_text().splitlines()]
    assert ids[0] == ids[2] == TRACE
    assert ids[1] == context(upstream.requests[1])[0]


def test_histograms_have_the_trace_as_exemplar(rig, collector):
    from passerelle.observability.metrics import merge
    from passerelle.observability.prometheus import render

    _, gateway, client = site(rig, collector)
    client.request("GET", "/", ("traceparent", SAMPLED))
    collector.trace()
    snapshot = gateway.snapshot()
    text = render(merge([snapshot, snapshot]), "application/openmetrics-text; version=1.0.0")[0].decode()
    for name in ("passerelle_request_duration_seconds_bucket", "passerelle_upstream_duration_seconds_bucket"):
        assert any(f'trace_id="{TRACE}"' in line for line in text.splitlines() if line.startswith(name)), text
    assert TRACE not in render(snapshot)[0].decode()


# ---- the collector


def counts(gateway: Running) -> dict[str, int]:
    return gateway.snapshot()["traces"]


def test_headers_and_attributes_of_the_configuration_are_sent(rig, collector):
    keys = {"headers": {"Authorization": "Bearer x"}, "service": "edge", "attributes": {"deployment.region": "eu"}}
    _, _, client = site(rig, collector, **tracing(collector, **keys))
    client.request()
    server = only(collector.trace(), "server")
    assert server.resource["service.name"] == "edge" and server.resource["deployment.region"] == "eu"
    assert collector.requests[0]["authorization"] == "Bearer x"


@pytest.mark.parametrize("status", [429, 503])
def test_a_batch_is_sent_again_after_the_time_that_the_collector_states(rig, collector, status):
    collector.answer = lambda number: (status, {"Retry-After": "1"}, b"") if number == 0 else (200, {}, b"{}")
    _, gateway, client = site(rig, collector)
    started = time.monotonic()
    client.request()
    collector.trace()
    assert time.monotonic() - started >= 0.9
    wait_until(lambda: counts(gateway)["exported"] == 2, "both spans counted")
    assert counts(gateway)["dropped"] == 0 and len(collector.requests) == 2


def test_a_batch_that_the_collector_refuses_is_dropped_and_counted(rig, collector):
    collector.answer = lambda number: (500, {}, b"no") if number == 0 else (200, {}, b"{}")
    _, gateway, client = site(rig, collector)
    client.request()
    wait_until(lambda: counts(gateway)["dropped"] == 2, "both spans counted as dropped")
    client.request()
    collector.trace()
    wait_until(lambda: counts(gateway)["exported"] == 2, "the next ones are exported")


def test_spans_that_the_collector_rejects_are_counted(rig, collector):
    collector.answer = lambda number: (200, {}, b'{"partialSuccess": {"rejectedSpans": "1"}}')
    _, gateway, client = site(rig, collector)
    client.request()
    wait_until(lambda: counts(gateway) == {"exported": 1, "dropped": 1}, "one of each")


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b'{"partialSuccess": 1}', b"[" * 100_000])
def test_a_malformed_response_of_the_collector_does_no_harm(rig, collector, content):
    collector.answer = lambda number: (200, {}, content)
    _, gateway, client = site(rig, collector)
    for count in (1, 2):
        client.request()
        collector.trace(count)
    wait_until(lambda: counts(gateway) == {"exported": 4, "dropped": 0}, "all exported")


def test_requests_do_not_wait_for_a_collector_that_hangs_and_its_queue_is_bounded(rig, collector, monkeypatch):
    from passerelle.gateway import traced_exchange

    monkeypatch.setattr(exporter_module, "CAPACITY", 40)
    monkeypatch.setattr(traced_exchange, "CAPACITY", 40)
    collector.hold = threading.Event()
    _, gateway, client = site(rig, collector)
    client.request()
    wait_until(lambda: collector.requests, "the first batch")
    for _ in range(100):
        assert client.request().status == 200
    handler = gateway.gateway._listener.handler
    assert handler.exporter.waiting <= 40
    assert counts(gateway)["dropped"] >= 100
    collector.hold.set()
    wait_until(lambda: counts(gateway)["exported"] + counts(gateway)["dropped"] == 202, "all counted")


def test_requests_do_not_notice_that_the_collector_is_down(rig, collector):
    collector.close()
    _, gateway, client = site(rig, collector)
    for _ in range(20):
        assert client.request().status == 200
    wait_until(lambda: any("no spans could be exported" in r.getMessage() for r in rig.log.records), "a warning")
    gateway.stop()
    wait_until(lambda: gateway.gateway._tracing.counts()[1] == 40, "all spans counted as dropped")
    assert sum("no spans could be exported" in record.getMessage() for record in rig.log.records) == 1


# ---- reload


def test_tracing_is_switched_by_a_reload(rig, collector):
    upstream = rig.upstream(answering(ok()))
    services = {"u": {"targets": [upstream.url]}}
    routes = [{"path": "/{rest*}", "service": "u"}]
    gateway = rig.gateway(services, routes)
    client = rig.connect(gateway)
    client.request("GET", "/", ("traceparent", SAMPLED))
    gateway.reload(services, routes, **tracing(collector))
    client.request()
    collector.trace()
    gateway.reload(services, routes)
    client.request()
    off, on, off_again = upstream.wait_requests(3)
    assert field(off, "traceparent") == [SAMPLED]  # passed on as any other field
    assert context(on)[2] == "01"
    assert field(off_again, "traceparent") == []
    assert gateway.gateway._listener.handler is gateway.gateway
    wait_until(lambda: counts(gateway)["exported"] == 2, "the counters are kept")
    gateway.reload(services, routes, **tracing(collector, service="renamed"))
    client.request()
    assert collector.trace(2)[-1].resource["service.name"] == "renamed"
    wait_until(lambda: counts(gateway)["exported"] == 4, "the counters are kept")


def test_the_last_spans_are_sent_at_a_stop(rig, collector, monkeypatch):
    monkeypatch.setattr(exporter_module, "BATCH_SECONDS", 30.0)
    _, gateway, client = site(rig, collector)
    client.request()
    gateway.stop()
    assert len(collector.trace()) == 2
