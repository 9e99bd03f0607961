"""Responses of rewritten requests: Location, Content-Location and cookies, as clients must receive them."""

from __future__ import annotations

from typing import Any

import pytest

from passerelle.gateway.reverse_rewriting import ReverseRewriting
from tests.support.gateways import Rig
from tests.support.upstream import answering, ok

HOSTS = (b"shop.example", b"")


def rewritten(rules: ReverseRewriting, line: str) -> str:
    """Return a field line as the client receives it."""
    head = f"HTTP/1.1 200 OK\r\nX-Before: Location: /a\r\n{line}\r\nX-After: /a\r\n".encode()
    lines = rules.apply(head, HOSTS).decode().split("\r\n")
    assert (lines[:2], lines[3:]) == (["HTTP/1.1 200 OK", "X-Before: Location: /a"], ["X-After: /a", ""])
    return lines[2]


STRIPPED = ReverseRewriting(b"/shop", b"", [b"10.0.0.7:8000", b"inner.example"])
MOVED = ReverseRewriting(b"", b"/v1", [b"10.0.0.7:8000"])
BOTH = ReverseRewriting(b"/shop", b"/v1", [b"10.0.0.7:8000"])


@pytest.mark.parametrize(
    ("rules", "sent", "received"),
    [
        (STRIPPED, "/cart?next=/a#b", "/shop/cart?next=/a#b"),
        (STRIPPED, "/", "/shop/"),
        (STRIPPED, "/shop/cart", "/shop/shop/cart"),  # a path of the service, whatever it looks like
        (STRIPPED, "cart", "cart"),  # relative to the path that the client requested
        (STRIPPED, "?page=2", "?page=2"),
        (STRIPPED, "", ""),
        (STRIPPED, "http://shop.example/cart", "http://shop.example/shop/cart"),
        (STRIPPED, "HTTPS://Shop.Example/cart", "HTTPS://Shop.Example/shop/cart"),
        (STRIPPED, "https://shop.example", "https://shop.example/shop/"),
        (STRIPPED, "https://shop.example?a", "https://shop.example/shop/?a"),
        (STRIPPED, "http://10.0.0.7:8000/cart", "/shop/cart"),
        (STRIPPED, "http://INNER.example/cart?a", "/shop/cart?a"),
        (STRIPPED, "https://login.example/cart", "https://login.example/cart"),
        (STRIPPED, "https://shop.example.evil.example/", "https://shop.example.evil.example/"),
        (STRIPPED, "https://shop.example@evil.example/", "https://shop.example@evil.example/"),
        (STRIPPED, "//shop.example/cart", "//shop.example/cart"),
        (STRIPPED, "mailto:a@b.example", "mailto:a@b.example"),
        (MOVED, "/v1/cart", "/cart"),
        (MOVED, "/v1", "/"),
        (MOVED, "/v10/cart", "/v10/cart"),
        (MOVED, "/other", "/other"),
        # Two slashes at the beginning would be another host.
        (MOVED, "/v1//evil.example", "/evil.example"),
        (MOVED, "http://10.0.0.7:8000/v1//evil.example", "/evil.example"),
        (BOTH, "/v1/cart", "/shop/cart"),
        (BOTH, "http://10.0.0.7:8000/v1", "/shop/"),
    ],
)
def test_references_of_the_service(rules: ReverseRewriting, sent: str, received: str) -> None:
    assert rewritten(rules, f"Location: {sent}") == f"Location: {received}"
    assert rewritten(rules, f"content-LOCATION:{sent}") == f"content-LOCATION: {received}"


@pytest.mark.parametrize(
    ("rules", "sent", "received"),
    [
        (STRIPPED, "a=b; Path=/", "a=b; Path=/shop"),
        (STRIPPED, "a=b; HttpOnly; path=/cart;Secure", "a=b; HttpOnly; Path=/shop/cart;Secure"),
        (STRIPPED, "a=b", "a=b"),
        (STRIPPED, "a=/x; Path=x", "a=/x; Path=x"),
        (STRIPPED, "__Host-a=b; Path=/; Secure", "__Host-a=b; Path=/; Secure"),
        (STRIPPED, "a=b; Domain=.inner.example; Path=/", "a=b; Path=/shop"),
        (STRIPPED, "a=b; domain=10.0.0.7", "a=b"),
        (STRIPPED, "a=b; Domain=example", "a=b; Domain=example"),
        (MOVED, "a=b; Path=/", "a=b; Path=/"),
        (MOVED, "a=b; Path=/v1/", "a=b; Path=/"),
        (MOVED, "a=b; Path=/v1/cart", "a=b; Path=/cart"),
        (MOVED, "a=b; Path=/other", "a=b; Path=/other"),
        (BOTH, "a=b; Path=/v1", "a=b; Path=/shop"),
    ],
)
def test_cookies_of_the_service(rules: ReverseRewriting, sent: str, received: str) -> None:
    assert rewritten(rules, f"Set-Cookie: {sent}") == f"Set-Cookie: {received}"


ROUTE: dict[str, Any] = {"path": "/shop/{rest*}", "service": "u", "rewrite": "/{rest}", "rewrite_response": True}
FIELDS = (b"Location: /cart", b"Set-Cookie: a=b; Path=/", b"Set-Cookie: c=d; Path=/x")


@pytest.mark.parametrize("cached", [False, True])
def test_a_client_receives_its_own_paths(rig: Rig, cached: bool) -> None:
    upstream = rig.upstream(answering(ok(b"", *FIELDS, b"Cache-Control: max-age=60")))
    cache = {"cache": {"store_set_cookie": True}} if cached else {}
    rules = {"response_headers": {"set": {"X-Rule": "1"}, "remove": ["Server"]}}
    client = rig.connect(rig.gateway({"u": {"targets": [upstream.url]}}, [{**ROUTE, **cache, **rules}]))
    for _ in range(3):
        response = client.request("GET", "/shop/a")
        assert response.get("location") == b"/shop/cart" and response.get("x-rule") == b"1"
        assert response.all("set-cookie") == [b"a=b; Path=/shop", b"c=d; Path=/shop/x"]
    assert len(upstream.requests) == (1 if cached else 3)


def test_the_host_of_the_service_and_that_which_a_trusted_proxy_reports(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"", b"Location: http://inner.example/v1/cart")))
    services = {"u": {"targets": [f"{upstream.url}/v1"], "host": "inner.example"}}
    gateway = rig.gateway(services, [ROUTE], trusted_proxies=["127.0.0.1"])
    assert rig.connect(gateway).request("GET", "/shop/a").get("location") == b"/shop/cart"
    other = rig.upstream(answering(ok(b"", b"Location: https://shop.example/cart")))
    gateway = rig.gateway({"u": {"targets": [other.url]}}, [ROUTE], trusted_proxies=["127.0.0.1"])
    client = rig.connect(gateway)
    reported = client.request("GET", "/shop/a", ("X-Forwarded-Host", "shop.example"))
    assert reported.get("location") == b"https://shop.example/shop/cart"
    assert client.request("GET", "/shop/a").get("location") == b"https://shop.example/cart"


def test_the_redirect_of_an_authorization_service_is_left_as_it_is(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    guard = rig.upstream(answering(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n"))
    services = {"u": {"targets": [upstream.url]}, "auth": {"targets": [guard.url]}}
    route = {**ROUTE, "forward_auth": {"service": "auth", "path": "/verify"}}
    response = rig.connect(rig.gateway(services, [route])).request("GET", "/shop/a")
    assert (response.status, response.get("location")) == (302, b"/login")


def test_without_the_key_responses_are_relayed_as_they_are(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"", *FIELDS)))
    route = {key: value for key, value in ROUTE.items() if key != "rewrite_response"}
    response = rig.connect(rig.gateway({"u": {"targets": [upstream.url]}}, [route])).request("GET", "/shop/a")
    assert response.get("location") == b"/cart"
