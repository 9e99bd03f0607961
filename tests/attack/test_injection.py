"""What a client puts into a path, a query, a field or a Host comes out at an upstream as a value: never as a line, as
a field or as another segment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.client import Client
from tests.support.gateways import Loop, Rig, Running
from tests.support.upstream import Upstream, answering, ok

LONG = 30.0
"""Seconds that an answer may take: a loaded machine is slow, and only then is it needed."""
ROUTES = [
    {"path": "/rewrite/{id}", "service": "u", "rewrite": "/inner/{id}/end"},
    {"path": "/tail/{rest*}", "service": "u", "rewrite": "/inner/{rest}"},
    {"path": "/two/{a}/{b}", "service": "u", "rewrite": "/inner/{b}/{a}"},
    {"path": "/compose/{id}", "compose": {"a": {"service": "u", "path": "/inner/{id}/end"}}},
    {"path": "/cached/{id}", "service": "u", "rewrite": "/inner/{id}/end", "cache": {"ttl": "1s", "tags": ["x:{id}"]}},
]
LINES = [
    "%0d%0aX-Injected:%201",
    "%0aX-Injected:%201",
    "%0dX-Injected:%201",
    "x%0d%0a%0d%0aGET%20/smuggled%20HTTP/1.1",
    "%250d%250aX-Injected:%201",
    "%E5%98%8D%E5%98%8AX-Injected:%201",  # U+560D, U+560A: CR and LF where characters are cut to bytes
    "%c4%8d%c4%8aX-Injected:%201",
    "%u000d%u000aX-Injected",
    "%00%0d%0aX-Injected",
    "%20HTTP/1.1%0d%0aX-Injected:%201",
    "%C2%85X-Injected",
    "%E2%80%A8X-Injected",
]


def gateway_of(rig: Rig) -> tuple[Running, Upstream]:
    upstream = rig.upstream(answering(ok(b"{}", b"Content-Type: application/json")))
    return rig.gateway({"u": {"targets": [upstream.url]}}, ROUTES), upstream


def nothing_injected(upstream: Upstream) -> None:
    """No field of that name, no request for another path, at the upstream; it reads strictly too."""
    upstream.check()
    for request in upstream.heads:
        assert "x-injected" not in request.names(), request.raw
        assert request.target.startswith(b"/inner/"), request.raw
        assert request.raw.count(b"HTTP/1.1") == 1 + request.target.count(b"HTTP/1.1")


@pytest.mark.parametrize("text", LINES)
@pytest.mark.parametrize(
    "target",
    [
        "/rewrite/{}",
        "/tail/a/{}/b",
        "/two/{}/x",
        "/two/x/{}",
        "/compose/{}",
        "/cached/{}",
        "/rewrite/x?a={}",
        "/cached/x?{}=1",
    ],
)
def test_a_line_in_a_path_or_a_query_stays_a_value(rig: Rig, target: str, text: str) -> None:
    gateway, upstream = gateway_of(rig)
    response = rig.connect(gateway).request("GET", target.format(text), within=LONG)
    assert response.status in (200, 400, 404), response.raw
    assert "x-injected" not in response.names()
    nothing_injected(upstream)


@pytest.mark.parametrize(
    "name", ["X-A", "Cookie", "User-Agent", "Referer", "X-Request-Id", "X-Forwarded-For", "Forwarded"]
)
@pytest.mark.parametrize("byte", [b"\r", b"\n", b"\0", b"\r\n ", b"\n\t", b"\x0b", b"\x1b"])
def test_control_bytes_in_a_field_are_refused(rig: Rig, name: str, byte: bytes) -> None:
    gateway, upstream = gateway_of(rig)
    client = rig.connect(gateway)
    client.send(b"GET /rewrite/x HTTP/1.1\r\nHost: gw\r\n%b: a%bX-Injected: 1\r\n\r\n" % (name.encode(), byte))
    assert client.read_response(within=LONG).status == 400
    assert upstream.heads == []


@pytest.mark.parametrize(
    "host", ["gw%0d%0aX:1", "gw\\x", "gw, other", "gw other", "gw:80:80", "gw:99999999", "[::1", "a@b", "gw/"]
)
def test_a_host_that_is_none_is_refused(rig: Rig, host: str) -> None:
    gateway, upstream = gateway_of(rig)
    client = rig.connect(gateway)
    client.send(f"GET /rewrite/x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    response = client.read_response(within=LONG)
    # Percent-encoding is part of a name (RFC 3986 §3.2.2), and stays as it is.
    assert response.status == (200 if "%" in host else 400)
    assert all(
        request.all("host") == [b"gw%0d%0aX:1"] or b"\r\n" not in request.all("host")[0] for request in upstream.heads
    )


@pytest.mark.parametrize(
    "value", ["X-Consumer: admin", "x_consumer: admin", "X-Consumer-Scopes: all", "X-Forwarded-Host: evil"]
)
def test_what_the_gateway_vouches_for_comes_from_no_client(rig: Rig, value: str) -> None:
    gateway, upstream = gateway_of(rig)
    name, _, text = value.partition(": ")
    assert rig.connect(gateway).request("GET", "/rewrite/x", (name, text), within=LONG).status == 200
    assert text.encode() not in upstream.heads[0].all(name)


SEGMENTS = st.text(st.characters(min_codepoint=0, max_codepoint=255), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def shared(loop: Loop):
    """One gateway for all that hypothesis makes up."""
    made = Rig(loop)
    yield gateway_of(made)
    made.close()


@given(text=SEGMENTS, route=st.sampled_from(["/rewrite/%s", "/two/%s/x", "/compose/%s", "/cached/%s"]))
def test_any_octets_in_a_parameter_are_one_segment_upstream(
    shared: tuple[Running, Upstream], text: str, route: str
) -> None:
    """Every octet escaped: what the template puts it into has as many segments as before, and no query."""
    gateway, upstream = shared
    before = len(upstream.heads)
    escaped = "".join(f"%{ord(c):02X}" for c in text)
    with Client(gateway.port) as client:
        response = client.request("GET", route % escaped, within=LONG)
    assert response.status in (200, 400, 404)
    for request in upstream.heads[before:]:
        assert request.target.startswith(b"/inner/")
        assert request.target.count(b"/") == 3
        assert b"?" not in request.target and b"#" not in request.target
        assert b".." not in request.target.lower().replace(b"%2e", b".").split(b"/")


CONFUSED = [
    "/rewrite/..%2f..%2fadmin",
    "/rewrite/%2e%2e",
    "/rewrite/.",
    "/rewrite/..;",
    "/rewrite/..%3B",
    "/rewrite/%2e%2e%2fadmin",
    "/tail/../../admin",
    "/tail/x/%2e%2e/%2e%2e/%2e%2e/admin",
    "/tail/..%2f..%2fadmin",
    "/tail/..%5c..%5cadmin",
    "/tail/..%00/admin",
    "/tail/.%2e/.%2e/admin",
    "/tail/..;/..;/admin",
    "/tail/..%c0%af..%c0%afadmin",
    "/compose/..%2f..%2fadmin",
    "/compose/%2e%2e",
    "/two/%2e%2e/%2e%2e",
    "/two/../..",
    "/cached/..%2f..%2fadmin%3fx",
]


@pytest.mark.parametrize("target", CONFUSED)
def test_no_parameter_leads_out_of_its_template(rig: Rig, target: str) -> None:
    """B14, B15: also not for an upstream that resolves dots, drops parameters of segments and decodes slashes."""
    gateway, upstream = gateway_of(rig)
    response = rig.connect(gateway).request("GET", target, within=LONG)
    assert response.status in (200, 400, 404), response.raw
    for request in upstream.heads:
        path = request.target.split(b"?")[0].lower()
        assert path.startswith(b"/inner/")
        decoded = path.replace(b"%2e", b".").replace(b"%2f", b"/").replace(b"%5c", b"/").replace(b"\\", b"/")
        names = [segment.replace(b"%3b", b";").split(b";")[0].split(b"%00")[0] for segment in decoded.split(b"/")]
        assert b".." not in names and b"." not in names, request.target
