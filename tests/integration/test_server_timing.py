"""``Server-Timing`` for the clients of ``debug.from``: its values, and that no other client receives any."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from passerelle.config import load_text
from passerelle.gateway.gateway import InstanceSpec
from passerelle.observability.tracing import exporter as exporter_module
from passerelle.supervisor.packed_config import pack, unpack
from tests.support.client import Client, head
from tests.support.collector import Collector
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, Upstream, answering, ok
from tests.support.wire import DEADLINE, Response, wait_until

LOCAL = {"debug": {"from": ["127.0.0.0/8"]}}
OTHERS = {"debug": {"from": ["192.0.2.0/24"]}}
OWN = b"Server-Timing: db;dur=3.5"
FRESH = b"Cache-Control: max-age=60"
JSON = b"Content-Type: application/json"


def fields(response: Response) -> list[str]:
    return [value.decode() for name, value in response.fields if name.lower() == b"server-timing"]


def metrics(response: Response) -> dict[str, tuple[float | None, str]]:
    """Return the metrics of the gateway, which are in the last field: milliseconds and description by name."""
    found = {}
    for metric in fields(response)[-1].split(", "):
        match = re.fullmatch(r'([\w-]+)(?:;desc="([^"]*)")?(?:;dur=([0-9]+\.[0-9]{2}))?', metric)
        assert match is not None, metric
        found[match[1]] = (float(match[3]) if match[3] else None, match[2] or "")
    return found


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setattr(exporter_module, "BATCH_SECONDS", 0.02)
    collector = Collector()
    yield collector
    collector.close()


def slow(seconds: float, *parts: bytes) -> Any:
    def script(connection: Connection) -> None:
        while True:
            connection.read_request()
            time.sleep(seconds)  # how long the service takes
            connection.send(b"".join(parts))

    return script


def site(rig: Rig, script: Any, **keys: Any) -> tuple[Upstream, Running, Client]:
    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, **keys)
    return upstream, gateway, rig.connect(gateway)


def test_where_the_time_of_a_request_went(rig):
    upstream, _, client = site(rig, slow(0.05, ok(b"1", OWN)), **LOCAL)
    first = client.request("GET", "/")
    assert fields(first)[0] == "db;dur=3.5"
    found = metrics(first)
    assert found.keys() == {"total", "queue", "connect", "first-byte"}
    assert found["first-byte"][1] == "u/u-1"
    assert 50 <= found["first-byte"][0] <= found["total"][0]
    assert found["connect"][0] > 0
    assert sum(found[name][0] for name in ("queue", "connect", "first-byte")) <= found["total"][0] + 0.02
    second = metrics(client.request("GET", "/"))
    assert second["connect"][0] == 0  # the connection was open
    assert not any(name.lower() == b"traceparent" for name, _ in upstream.wait_requests(2)[0].fields)


def test_a_body_that_lasts_does_not_delay_the_field(rig):
    go = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        go.wait(DEADLINE)
        connection.send(b"cd")

    client = rig.connect(rig.forward(rig.upstream(script), **LOCAL))
    client.send(head())
    assert b'first-byte;desc="u/u-1";dur=' in client.until(b"\r\n\r\n")
    go.set()
    assert client.exactly(4) == b"abcd"


def test_the_time_in_the_queue_for_a_place(rig):
    service = {"max_connections": 1}
    upstream = rig.upstream(slow(0.1, ok(b"1")))
    gateway = rig.forward(upstream, service=service, **LOCAL)
    clients = [rig.connect(gateway) for _ in range(2)]
    for client in clients:
        client.send(head())
    queues = sorted(metrics(client.read_response())["queue"][0] for client in clients)
    assert queues[0] < 50 <= queues[1]


def test_the_time_in_the_queue_for_the_concurrency_limit(rig):
    upstream = rig.upstream(slow(0.1, ok(b"1")))
    gateway = rig.forward(upstream, service={"concurrency": {"min": 1, "max": 2, "initial": 1}}, **LOCAL)
    clients = [rig.connect(gateway) for _ in range(2)]
    for client in clients:
        client.send(head())
    queues = sorted(metrics(client.read_response())["queue"][0] for client in clients)
    assert queues[0] < 50 <= queues[1]


def test_a_retry_counts_its_attempts(rig):
    bad, good = rig.upstream(lambda connection: connection.close()), rig.upstream(answering(ok(b"1")))
    gateway = rig.forward(bad, good, service={"balance": "round_robin", "eject": {"failures": 100}}, **LOCAL)
    client = rig.connect(gateway)
    found = [metrics(client.request("GET", "/")) for _ in range(2)]
    retried = next(each for each in found if "attempts" in each)
    assert retried["attempts"] == (None, "2") and retried["first-byte"][1] == "u/u-2"


def test_a_request_that_fails_shows_how_long_it_waited(rig):
    upstream = rig.upstream(lambda connection: connection.wait(connection.gone))
    client = rig.connect(rig.forward(upstream, route={"timeout": "200ms", "attempts": 1}, **LOCAL))
    response = client.request("GET", "/")
    assert response.status == 504
    found = metrics(response)
    assert found["no-response"][1] == "u/u-1" and found["no-response"][0] >= 150


def test_cached_responses_have_the_outcome_and_no_time_of_another_request(rig):
    _, gateway, client = site(rig, answering(ok(b"1", OWN, FRESH)), route={"cache": {}}, **LOCAL)
    miss, hit = client.request("GET", "/"), client.request("GET", "/")
    assert metrics(miss)["cache"] == (None, "miss") and fields(miss)[0] == "db;dur=3.5"
    assert metrics(hit).keys() == {"total", "cache"} and metrics(hit)["cache"] == (None, "hit")
    assert len(fields(hit)) == 1
    route = gateway.snapshot()["routes"]["/{rest*}"]
    assert (route["cache"]["miss"], route["cache"]["hit"]) == (1, 1)
    assert route["exemplars"] == {}  # there is no trace that they could name


def test_each_part_of_a_composition(rig):
    user, product = rig.upstream(answering(ok(b"1", JSON, FRESH))), rig.upstream(slow(0.05, ok(b"2", JSON)))
    gateway = rig.gateway(
        {"user": {"targets": [user.url]}, "product": {"targets": [product.url]}},
        [{"path": "/both", "compose": {
            "u": {"service": "user", "path": "/u", "cache": {}}, "p": {"service": "product", "path": "/p"},
        }}],
        **LOCAL,
    )  # fmt: skip
    client = rig.connect(gateway)
    first, second = (metrics(client.request("GET", "/both")) for _ in range(2))
    assert first.keys() == {"total", "part-u", "part-p"}
    assert (first["part-u"][1], first["part-p"][1]) == ("user miss", "product")
    assert first["part-p"][0] >= 50
    assert second["part-u"][1] == "user hit"


def test_guards_and_refusals(rig):
    upstream = rig.upstream(answering(ok(b"1")))
    gateway = rig.forward(upstream, route={"clients": {"deny": ["127.0.0.1"]}}, **LOCAL)
    refused = rig.connect(gateway).request("GET", "/")
    assert refused.status == 403 and metrics(refused).keys() == {"total", "guards"}
    unknown = rig.connect(rig.gateway({"u": {"targets": [upstream.url]}}, [{"path": "/a", "service": "u"}], **LOCAL))
    assert metrics(unknown.request("GET", "/b")).keys() == {"total"}


def test_other_clients_receive_neither_the_times_nor_those_of_services(rig):
    for route in ({}, {"cache": {}}, {"compress": True}):
        upstream, _, client = site(rig, answering(ok(b"1", OWN, b"server-TIMING: x", FRESH)), route=route, **OTHERS)
        for _ in range(3):
            assert fields(client.request("GET", "/", ("Accept-Encoding", "gzip"))) == []
        assert upstream.requests


def test_without_the_key_the_field_of_services_is_forwarded_as_it_is(rig):
    _, _, client = site(rig, answering(ok(b"1", OWN)))
    assert fields(client.request("GET", "/")) == ["db;dur=3.5"]


def test_rules_of_the_file_also_apply_to_clients_that_see_timing(rig):
    route = {"response_headers": {"remove": ["Server-Timing"]}}
    _, _, client = site(rig, answering(ok(b"1", OWN)), route=route, **LOCAL)
    (only,) = fields(client.request("GET", "/"))
    assert only.startswith("total;")


@pytest.mark.parametrize(
    ("trusted", "forwarded", "sees"),
    [
        (["127.0.0.0/8"], "192.0.2.7", True),
        (["127.0.0.0/8"], "192.0.2.7, 198.51.100.1", False),
        (["127.0.0.0/8"], "198.51.100.1", False),
        (["127.0.0.0/8"], "nonsense", False),
        (["10.0.0.0/8"], "192.0.2.7", False),
    ],
)
def test_behind_a_proxy_the_address_of_the_client_decides(rig, trusted, forwarded, sees):
    keys = {"trusted_proxies": trusted, "debug": {"from": ["192.0.2.0/24"]}}
    _, _, client = site(rig, answering(ok(b"1", OWN)), **keys)
    assert bool(fields(client.request("GET", "/", ("X-Forwarded-For", forwarded)))) is sees


def test_a_proxy_that_is_not_trusted_does_not_lend_its_address(rig):
    _, _, client = site(rig, answering(ok(b"1", OWN)), **LOCAL)
    assert fields(client.request("GET", "/", ("X-Forwarded-For", "198.51.100.1"))) == []


def test_with_tracing_the_requests_of_these_clients_are_recorded(rig, collector):
    tracing = {"tracing": {"endpoint": collector.endpoint, "sample": "0%"}}
    upstream, _, client = site(rig, answering(ok(b"1")), **LOCAL, **tracing)
    assert "first-byte" in metrics(client.request("GET", "/"))
    assert {span.kind for span in collector.wait(2)} == {"server", "client"}
    (value,) = [value for name, value in upstream.wait_requests(1)[0].fields if name.lower() == b"traceparent"]
    assert value.endswith(b"-01")


def test_a_reload_begins_and_ends_it(rig):
    upstream, gateway, client = site(rig, answering(ok(b"1", OWN)))
    services = {"u": {"targets": [upstream.url]}}
    routes = [{"path": "/{rest*}", "service": "u"}]
    for keys, expected in ((LOCAL, 2), (OTHERS, 0), ({}, 1)):
        gateway.reload(services, routes, **keys)
        assert len(fields(client.request("GET", "/"))) == expected


def test_names_of_instances_cannot_end_the_field(rig):
    upstream, gateway, client = site(rig, answering(ok(b"1")), **LOCAL)
    specs = [InstanceSpec('a"\\\r\nX: é', "127.0.0.1", upstream.port)]
    rig.loop.call(lambda: gateway.gateway.set_instances("u", specs))
    assert metrics(client.request("GET", "/"))["first-byte"][1] == "u/a????X: ??"


def test_the_log_has_no_trace_id_without_tracing(rig, tmp_path):
    log = tmp_path / "access.log"
    _, _, client = site(rig, answering(ok(b"1")), access_log=str(log), **LOCAL)
    client.request("GET", "/")
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"), "a line of the log")
    assert "trace_id" not in log.read_text()


def test_a_supervisor_can_send_the_key_to_its_workers():
    text = 'debug: {from: ["::1"]}\nservices: {u: {targets: ["http://127.0.0.1:1"]}}\nroutes: [{path: /, service: u}]\n'
    config = load_text(text)
    assert config.debug is not None
    assert unpack(pack(config)).debug == config.debug
