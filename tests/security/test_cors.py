"""Allowed origins, methods and fields, and the response fields for browsers (Fetch standard, "CORS protocol")."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.errors import Kind
from passerelle.security.cors import AllowedOrigins, CorsPolicy
from passerelle.security.guard import RequestRefused

SHOP = b"https://shop.example"


def cors(
    *origins: bytes,
    methods: tuple[bytes, ...] | None = (b"GET", b"PUT"),
    headers: tuple[bytes, ...] | None = (),
    expose: tuple[bytes, ...] = (),
    credentials: bool = False,
) -> CorsPolicy:
    return CorsPolicy(origins or [SHOP], methods, headers, expose, credentials=credentials, max_age=600)


@pytest.mark.parametrize(
    ("allowed", "origin", "verdict"),
    [
        ("https://shop.example", "https://shop.example", True),
        ("https://shop.example", "http://shop.example", False),
        ("https://shop.example", "https://shop.example:8443", False),
        ("https://shop.example", "https://shop.example.evil.example", False),
        ("https://shop.example", "https://evilshop.example", False),
        ("https://shop.example", "null", False),
        ("https://*.shop.example", "https://a.shop.example", True),
        ("https://*.shop.example", "https://a.b.shop.example", True),
        ("https://*.shop.example", "https://shop.example", False),
        ("https://*.shop.example", "https://.shop.example", False),
        ("https://*.shop.example", "https://evilshop.example", False),
        ("https://*.shop.example", "http://a.shop.example", False),
        ("https://*.shop.example", "https://a.shop.example:8443", False),
        ("https://*.shop.example", "https://evil.example/.shop.example", False),
        ("https://*.shop.example", "https://evil.example:1.shop.example", False),
        ("https://*.shop.example", "https://user@a.shop.example", False),
        ("https://*.shop.example", "https://evil.example#.shop.example", False),
        ("https://*.shop.example:8443", "https://a.shop.example:8443", True),
        ("https://*.shop.example:8443", "https://a.shop.example", False),
        ("*", "null", True),
        ("*", "https://any.example", True),
    ],
)
def test_origins(allowed: str, origin: str, verdict: bool) -> None:
    assert (
        AllowedOrigins([b"https://other.example", allowed.encode()] if allowed != "*" else [b"*"]).allow(
            origin.encode()
        )
        is verdict
    )


@given(st.binary(max_size=60))
def test_only_labels_stand_for_the_star(text: bytes) -> None:
    allowed = AllowedOrigins([b"https://*.shop.example"]).allow(b"https://%b.shop.example" % text)
    labels = text.split(b".")
    assert allowed is all(label and set(label) <= set(b"abcdefghijklmnopqrstuvwxyz0123456789-_") for label in labels)


def test_a_preflight_response_lists_what_is_allowed() -> None:
    answer = cors(headers=(b"Authorization", b"X-Trace")).preflight(SHOP, b"PUT", [b"authorization,content-type"])
    assert answer.status == 204
    assert dict(answer.fields) == {
        b"Access-Control-Allow-Origin": SHOP,
        b"Access-Control-Allow-Methods": b"GET, HEAD, PUT",
        b"Access-Control-Allow-Headers": b"Authorization, X-Trace, content-type",
        b"Access-Control-Max-Age": b"600",
        b"Vary": b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    }


def test_a_preflight_of_a_route_that_takes_everything() -> None:
    rules = cors(b"*", methods=None, headers=None)
    fields = dict(rules.preflight(b"https://any.example", b"DELETE", [b"x-one, x-two", b"X-Three"]).fields)
    assert fields[b"Access-Control-Allow-Origin"] == b"*"
    assert fields[b"Access-Control-Allow-Methods"] == b"DELETE"
    assert fields[b"Access-Control-Allow-Headers"] == b"x-one, x-two, X-Three"
    assert b"Access-Control-Allow-Credentials" not in fields


def test_allow_credentials_is_sent_with_one_origin_only() -> None:
    rules = cors(credentials=True, expose=(b"ETag",))
    assert dict(rules.preflight(SHOP, b"PUT", []).fields)[b"Access-Control-Allow-Credentials"] == b"true"
    assert rules.lines(SHOP, b"GET") == (
        b"Access-Control-Allow-Origin: https://shop.example\r\n"
        b"Access-Control-Allow-Credentials: true\r\n"
        b"Access-Control-Expose-Headers: ETag\r\n"
    )
    assert rules.lines(b"https://evil.example", b"GET") == b""
    assert rules.lines(None, b"GET") == b""


@pytest.mark.parametrize(
    ("origin", "method", "headers", "detail"),
    [
        (b"https://evil.example", b"PUT", [], "CORS: origin https://evil.example"),
        (SHOP, b"DELETE", [], "CORS: method DELETE of https://shop.example"),
        (SHOP, b"put", [], "CORS: method put of https://shop.example"),
        (SHOP, b"PUT", [b"content-type, x-evil"], "CORS: field x-evil of https://shop.example"),
    ],
)
def test_a_preflight_is_refused(origin: bytes, method: bytes, headers: list[bytes], detail: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        cors().preflight(origin, method, headers)
    assert (caught.value.kind, caught.value.detail) == (Kind.FORBIDDEN, detail)


def test_any_field_is_a_field_all_the_same() -> None:
    with pytest.raises(RequestRefused):
        cors(headers=None).preflight(SHOP, b"PUT", [b"x-good, bad name"])


def test_a_page_may_not_read_what_it_may_not_request() -> None:
    assert cors(b"*").lines(SHOP, b"GET") == b"Access-Control-Allow-Origin: *\r\n"
    assert cors(b"*").lines(None, b"HEAD") == b"Access-Control-Allow-Origin: *\r\n"
    assert cors(b"*").lines(SHOP, b"POST") == b""
    assert cors().lines(SHOP, b"POST") == b""
