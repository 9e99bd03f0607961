"""Hop-by-hop fields are not forwarded, and Connection cannot remove what the gateway adds (RFC 9110 §7.6.1)."""

from __future__ import annotations

import pytest

from tests.support.client import head
from tests.support.expect import nothing_arrived, refused
from tests.support.gateways import Rig
from tests.support.upstream import answering, echo, ok


def test_fields_named_by_connection_are_dropped_from_all_its_lines(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    response = client.request(
        "GET",
        "/",
        ("Connection", "keep-alive, X-Internal"),
        ("connection", "x-b"),
        ("X-Internal", "1"),
        ("X-B", "2"),
        ("TE", "trailers"),
        ("Keep-Alive", "5"),
        ("Proxy-Authorization", "x"),
        ("Proxy-Connection", "keep-alive"),
        ("Trailer", "X-T"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ("X-Kept", "3"),
    )
    assert response.status == 200
    (request,) = upstream.requests
    gone = {"x-internal", "x-b", "te", "keep-alive", "proxy-authorization", "proxy-connection", "trailer", "upgrade"}
    assert not gone & set(request.names())
    assert request.get("x-kept") == b"3"


@pytest.mark.parametrize(
    "option",
    [
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X-Forwarded-Host",
        "X-Request-Id",
        "Content-Length",
        "Host",
        "content-type",
    ],
)
def test_connection_cannot_remove_what_routes_frames_or_identifies_the_request(rig: Rig, option: str) -> None:
    upstream = rig.upstream(echo)
    client = rig.connect(rig.forward(upstream))
    response = client.request(
        "POST", "/", ("Connection", f"keep-alive, {option}"), ("Content-Type", "text/plain"), body=b"hello"
    )
    assert response.body == b"hello"
    (request,) = upstream.requests
    assert request.get("host") == b"gw"
    assert request.get("content-type") == b"text/plain"
    assert request.get("x-forwarded-for") == b"127.0.0.1"
    assert request.get("x-forwarded-proto") == b"http"
    assert request.get("x-forwarded-host") == b"gw"
    assert request.get("x-request-id")


def test_connection_with_thousands_of_options_is_refused(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    options = ",".join(f"x{number}" for number in range(4000))
    refused(rig.connect(gateway), head("GET", "/", ("Connection", options)), 400)
    nothing_arrived(gateway, upstream)


def test_connection_naming_transfer_encoding_changes_no_framing(rig: Rig) -> None:
    upstream = rig.upstream(echo)
    client = rig.connect(rig.forward(upstream))
    client.send(head("POST", "/", ("Connection", "transfer-encoding"), ("Transfer-Encoding", "chunked")))
    client.send(b"5\r\nhello\r\n0\r\n\r\n")
    assert client.read_response().body == b"hello"


def test_the_upstreams_connection_fields_stay_behind(rig: Rig) -> None:
    raw = ok(
        b"ok",
        b"Connection: keep-alive, X-Hop",
        b"connection: x-hop2",
        b"X-Hop: 1",
        b"X-Hop2: 2",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Proxy-Connection: keep-alive",
        b"Trailer: X-T",
        b"Upgrade: h2c",
        b"X-Kept: 3",
    )
    client = rig.connect(rig.forward(rig.upstream(answering(raw))))
    response = client.request()
    gone = {"x-hop", "x-hop2", "proxy-connection", "trailer", "upgrade"}
    assert not gone & set(response.names())
    assert b"timeout=5" not in response.all("keep-alive")
    assert response.get("x-kept") == b"3"
    assert response.body == b"ok"


@pytest.mark.parametrize("option", ["Content-Length", "Content-Type", "Date", "X-Request-Id"])
def test_an_upstreams_connection_cannot_remove_framing(rig: Rig, option: str) -> None:
    raw = ok(b"hello", b"Connection: " + option.encode(), b"Content-Type: text/plain")
    client = rig.connect(rig.forward(rig.upstream(answering(raw))))
    for _ in range(2):
        response = client.request()
        assert response.body == b"hello"
        assert response.get("content-type") in (b"text/plain", None)


def test_a_clients_connection_close_ends_its_own_connection_and_not_the_pooled_one(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    response = client.request("GET", "/", ("Connection", "close"))
    assert b"close" in response.all("connection")
    client.assert_closed()
    assert rig.connect(gateway).request().status == 200
    assert len(upstream.connections) == 1
    assert all(b"close" not in r.all("connection") for r in upstream.requests)


@pytest.mark.parametrize(
    "field",
    [
        ("X-Forwarded-For", "198.51.100.7"),
        ("x-forwarded-for", "198.51.100.7, 203.0.113.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Prefix", "/evil"),
        ("Forwarded", "for=198.51.100.7;host=evil.example"),
        ("X-Real-IP", "198.51.100.7"),
        ("X_Forwarded_For", "198.51.100.7"),
    ],
)
def test_an_untrusted_client_cannot_forge_its_address(rig: Rig, field: tuple[str, str]) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    assert client.request("GET", "/", field).status == 200
    (request,) = upstream.requests
    assert request.get("x-forwarded-for") == b"127.0.0.1"
    assert request.get("x-forwarded-proto") == b"http"
    assert request.get("x-forwarded-host") == b"gw"
    assert not any(b"198.51.100.7" in v or b"evil" in v for _, v in request.fields), request.raw
    assert b"198.51.100.7" not in request.raw


@pytest.mark.parametrize(
    "name",
    [
        "Content_Length",
        "Transfer_Encoding",
        "X_Request_Id",
        "Passerelle_Consumer",
        "Host_",
        "Proxy",
        "X-Forwarded_Proto",
    ],
)
def test_names_that_a_cgi_environment_takes_for_others_do_not_pass(rig: Rig, name: str) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    assert client.request("GET", "/", (name, "forged"), ("X_Own", "kept")).status == 200
    (request,) = upstream.requests
    assert request.get("x_own") == b"kept"
    assert (b"forged" in request.raw) == (name == "Host_")  # HTTP_HOST_ is the name of no other field


def test_a_trusted_proxys_chain_is_kept_and_extended(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream, trusted_proxies=["127.0.0.0/8"]))
    client.request(
        "GET",
        "/",
        ("X-Forwarded-For", "198.51.100.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.example"),
    )
    (request,) = upstream.requests
    assert request.get("x-forwarded-for") == b"198.51.100.7, 127.0.0.1"
    assert request.get("x-forwarded-proto") == b"https"
    assert request.get("x-forwarded-host") == b"shop.example"


def test_via_is_added_to_requests_beside_the_clients_own(rig: Rig) -> None:
    """RFC 9110 §7.6.3: a gateway must add Via to forwarded requests; for responses it is optional, and not done."""
    upstream = rig.upstream(answering(ok(b"ok", b"Via: 1.1 inner")))
    client = rig.connect(rig.forward(upstream))
    response = client.request("GET", "/", ("Via", "1.1 outer"))
    assert response.all("via") == [b"1.1 inner"]
    assert upstream.requests[0].all("via") == [b"1.1 outer", b"1.1 passerelle"]
