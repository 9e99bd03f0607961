"""Repeated fields keep their number, order and values, in both directions (RFC 9110 §5.3, RFC 6265 §3)."""

from __future__ import annotations

from tests.support.gateways import Rig
from tests.support.upstream import answering, ok

EXPIRES = b"a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT; Path=/"
RESPONSE = ok(
    b"ok",
    b"Set-Cookie: " + EXPIRES,
    b"X-One: 1",
    b"set-cookie: b=2",
    b'WWW-Authenticate: Basic realm="a, b"',
    b"WWW-Authenticate: Bearer",
    b"Link: </a>; rel=preload",
    b"Link: </b>; rel=preload, </c>; rel=next",
    b"Vary: Accept",
    b"Vary: Origin",
    b"X-Empty:",
    b"X-Latin: caf\xe9",
    b"X-Utf8: caf\xc3\xa9",
    b"X-Inner: a \t b",
)


def test_a_responses_fields_keep_count_order_and_values(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(answering(RESPONSE))))
    for _ in range(2):
        response = client.request()
        assert response.all("set-cookie") == [EXPIRES, b"b=2"]
        assert response.all("www-authenticate") == [b'Basic realm="a, b"', b"Bearer"]
        assert response.all("link") == [b"</a>; rel=preload", b"</b>; rel=preload, </c>; rel=next"]
        assert response.all("vary") == [b"Accept", b"Origin"]
        assert response.get("x-empty") == b""
        assert response.get("x-latin") == b"caf\xe9"
        assert response.get("x-utf8") == b"caf\xc3\xa9"
        assert response.get("x-inner") == b"a \t b"
        names = [n for n in response.names() if n not in ("date", "x-request-id", "content-length", "connection")]
        assert names == [
            "set-cookie",
            "x-one",
            "set-cookie",
            "www-authenticate",
            "www-authenticate",
            "link",
            "link",
            "vary",
            "vary",
            "x-empty",
            "x-latin",
            "x-utf8",
            "x-inner",
        ]


def test_a_requests_fields_keep_count_order_and_values(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    sent = [
        ("X-A", "1"),
        ("Cookie", "a=1; b=2"),
        ("x-a", "2, 3"),
        ("Cookie", "c=3"),
        ("Accept", "text/html, */*;q=0.1"),
        ("X-Empty", ""),
        ("X-Latin", "caf\xe9"),
        ("Authorization", "Basic QTpC"),
    ]
    for _ in range(2):
        client.request("GET", "/", *sent)
    for request in upstream.requests:
        got = [(k.decode().lower(), v.decode("latin-1")) for k, v in request.fields]
        assert [f for f in got if f[0] in {n.lower() for n, _ in sent}] == [(n.lower(), v) for n, v in sent]


def test_field_names_keep_their_case_on_the_way(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"ok", b"X-MiXeD: 1")))
    response = rig.connect(rig.forward(upstream)).request("GET", "/", ("X-OtHer", "2"))
    assert (b"X-MiXeD", b"1") in response.fields
    assert (b"X-OtHer", b"2") in upstream.requests[0].fields


def test_a_date_is_added_only_when_there_is_none(rig: Rig) -> None:
    """RFC 9110 §6.6.1: a recipient that forwards a message without Date adds one."""
    without, given = answering(ok()), answering(ok(b"ok", b"Date: Thu, 01 Jan 2026 00:00:00 GMT"))
    assert rig.connect(rig.forward(rig.upstream(without))).request().get("date")
    assert rig.connect(rig.forward(rig.upstream(given))).request().get("date") == b"Thu, 01 Jan 2026 00:00:00 GMT"


def test_the_cookies_of_all_parts_of_a_composition_arrive(rig: Rig) -> None:
    expires = b"a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT"
    json = b"Content-Type: application/json"
    a = rig.upstream(answering(ok(b"1", json, b"Set-Cookie: " + expires, b"Set-Cookie: a2=2")))
    b = rig.upstream(answering(ok(b"2", json, b"Set-Cookie: b=2")))
    gateway = rig.gateway(
        {"a": {"targets": [a.url]}, "b": {"targets": [b.url]}},
        [{"path": "/c", "compose": {"a": {"service": "a", "path": "/"}, "b": {"service": "b", "path": "/"}}}],
    )
    response = rig.connect(gateway).request("GET", "/c")
    assert response.body == b'{"a":1,"b":2}'
    assert response.all("set-cookie") == [expires, b"a2=2", b"b=2"]
