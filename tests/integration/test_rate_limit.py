"""B24 through a running gateway: whose bucket it is, what the upstream reads, what the answers say."""

from __future__ import annotations

import http_sf
import pytest

from tests.support.gateways import Rig, Running
from tests.support.upstream import Upstream, answering, ok

THREE = {"rate": "3/m"}


def limited(rig: Rig, limit: object = THREE, **top: object) -> tuple[Running, Upstream]:
    upstream = rig.upstream(answering(ok()))
    return rig.forward(upstream, route={"rate_limit": limit}, **top), upstream


def test_a_client_cannot_get_a_fresh_bucket_by_forging_its_address(rig: Rig) -> None:
    gateway, upstream = limited(rig)
    client = rig.connect(gateway)
    statuses = [client.request("GET", "/", ("X-Forwarded-For", f"198.51.100.{n}")).status for n in range(10)]
    assert statuses == [200] * 3 + [429] * 7
    assert {request.get("x-forwarded-for") for request in upstream.requests} == {b"127.0.0.1"}


def test_a_refusal_is_a_problem_with_retry_after(rig: Rig) -> None:
    gateway, upstream = limited(rig)
    client = rig.connect(gateway)
    admitted = client.request()
    assert http_sf.parse(admitted.get("ratelimit"), tltype="list") == [("3/m by address", {"r": 2, "t": 20})]
    client.request()
    client.request()
    refused = client.request()
    assert refused.status == 429
    assert refused.get("content-type") == b"application/problem+json"
    assert 1 <= int(refused.get("retry-after") or b"0") <= 20
    assert http_sf.parse(refused.get("ratelimit-policy"), tltype="list") == [("3/m by address", {"q": 3, "w": 60})]
    assert http_sf.parse(refused.get("ratelimit"), tltype="list")[0][1]["r"] == 0
    assert len(upstream.requests) == 3


@pytest.mark.parametrize(
    ("lines", "chain"),
    [
        ([b"198.51.100.9, 203.0.113.5"], b"203.0.113.5, 127.0.0.1"),
        ([b"198.51.100.9", b"203.0.113.5"], b"203.0.113.5, 127.0.0.1"),
        ([b"203.0.113.5:4711"], b"203.0.113.5, 127.0.0.1"),
        ([b'"[2001:db8::1]:80"'], b"2001:db8::1, 127.0.0.1"),
        ([b"::ffff:203.0.113.5"], b"203.0.113.5, 127.0.0.1"),
        ([b"198.51.100.9, unknown"], b"127.0.0.1"),
        ([b""], b"127.0.0.1"),
        ([b"\xf0\xfd"], b"127.0.0.1"),
        ([b", ".join([b"198.51.100.9"] * 500 + [b"203.0.113.5"])], b"203.0.113.5, 127.0.0.1"),
    ],
)
def test_behind_a_trusted_proxy_the_first_untrusted_address_from_the_right_counts(
    rig: Rig, lines: list[bytes], chain: bytes
) -> None:
    gateway, upstream = limited(rig, {"rate": "1/h"}, trusted_proxies=["127.0.0.0/8"])
    client = rig.connect(gateway)
    said = b"".join(b"X-Forwarded-For: %b\r\n" % line for line in lines)
    noise = b"X-Real-IP: 192.0.2.1\r\nForwarded: for=192.0.2.2\r\n"
    client.send(b"GET / HTTP/1.1\r\nHost: gw\r\n%b%b\r\n" % (said, noise))
    assert client.read_response().status == 200
    (request,) = upstream.requests
    assert request.all("x-forwarded-for") == [chain]
    assert b"192.0.2." not in request.raw
    # The same client by another way, with a forged beginning: the same bucket. Another client: another one.
    who = chain.partition(b",")[0] if b"," in chain else b"unknown"
    client.send(b"GET / HTTP/1.1\r\nHost: gw\r\nX-Forwarded-For: 9.9.9.9, %b\r\n\r\n" % who)
    assert client.read_response().status == 429
    client.send(b"GET / HTTP/1.1\r\nHost: gw\r\nX-Forwarded-For: 203.0.113.77\r\n\r\n")
    assert client.read_response().status == 200


def test_ipv6_clients_of_one_64_share_a_bucket(rig: Rig) -> None:
    gateway, _ = limited(rig, {"rate": "1/h"}, trusted_proxies=["127.0.0.1"])
    client = rig.connect(gateway)
    said = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"]
    assert [client.request("GET", "/", ("X-Forwarded-For", a)).status for a in said] == [200, 429, 200]


def test_limits_by_field_in_a_dry_run_and_in_a_list(rig: Rig) -> None:
    gateway, _ = limited(rig, [{"rate": "1/h", "by": "header:X-Tenant"}, {"rate": "1/d", "dry_run": True}])
    client = rig.connect(gateway)
    assert [client.request("GET", "/", ("X-Tenant", t)).status for t in "aabb"] == [200, 429, 200, 429]
    route = gateway.snapshot()["routes"]["/{rest*}"]
    assert route["would_refuse"] == 3
    assert route["failures"] == {"rate_limited": 2}


def test_a_composition_is_limited_as_a_whole(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"1", b"Content-Type: application/json")))
    parts = {name: {"service": "u", "path": "/"} for name in "ab"}
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}}, [{"path": "/c", "compose": parts, "rate_limit": {"rate": "1/h"}}]
    )
    client = rig.connect(gateway)
    first = client.request("GET", "/c")
    assert (first.status, first.body) == (200, b'{"a":1,"b":1}')
    assert first.get("ratelimit") == b'"1/h by address";r=0;t=3600'
    assert client.request("GET", "/c").status == 429
    assert len(upstream.requests) == 2


def test_a_refused_upload_is_not_read_and_gets_no_100_continue(rig: Rig) -> None:
    gateway, upstream = limited(rig, {"rate": "1/h", "cost": 1})
    client = rig.connect(gateway)
    client.request()
    client.send(b"POST / HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    refused = client.read_response("POST")
    assert refused.status == 429
    assert refused.get("connection") == b"close"
    assert len(upstream.heads) == 1


def test_lists_of_addresses_hold_behind_a_trusted_proxy(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    route = {"clients": {"allow": ["127.0.0.0/8", "203.0.113.0/24"], "deny": ["203.0.113.9"]}}
    client = rig.connect(rig.forward(upstream, route=route, trusted_proxies=["127.0.0.1"]))
    said = ["203.0.113.5", "203.0.113.9", "198.51.100.1", "127.0.0.5, 198.51.100.1"]
    assert [client.request("GET", "/", ("X-Forwarded-For", a)).status for a in said] == [200, 403, 403, 403]
    assert client.request().status == 200  # the proxy itself
    outside = rig.connect(rig.forward(upstream, route={"clients": {"allow": ["203.0.113.0/24"]}}))
    assert outside.request("GET", "/", ("X-Forwarded-For", "203.0.113.5")).status == 403
