"""Redirects and fixed responses, of the gateway and of the nginx that its export configures."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.export.serving import deployment_of, in_place, serving
from tests.requirements import needs
from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.secure import Authority, SecureClient
from tests.support.wire import Response

Fields = list[tuple[str, str]]

ROUTES: list[dict[str, Any]] = [
    {"path": "/item/{id}", "redirect": "/product/{id}"},
    {"path": "/old/{rest*}", "redirect": {"path": "/new/{rest}", "status": 301}},
    {"path": "/two/{a}/x/{b}", "redirect": {"path": "/{b}/{a}", "status": 308}},
    {"path": "/away/{rest*}", "redirect": "https://shop.example/{rest}"},
    {"path": "/port/{rest*}", "redirect": {"host": "shop.example:8443", "status": 302}},
    {"path": "/secure/{rest*}", "redirect": {"scheme": "https", "status": 308}},
    {"path": "/www/{rest*}", "redirect": {"www": "add"}},
    {"path": "/bare/{rest*}", "redirect": {"www": "remove", "status": 303}},
    {"path": "/clean/{rest*}", "redirect": {"scheme": "https", "query": "drop"}},
    {"path": "/$money", "redirect": "/cash$/1"},
    {"path": "/none", "respond": 204},
    {"path": "/gone", "respond": 410},
    {"path": "/text", "respond": {"body": "a $b \"c\" {d} 'é'\n", "headers": {"X-Odd": "a$b"}}},
    {"path": "/json", "respond": {"status": 404, "body": {"found": [1, None, "é"]}}},
    {"path": "/page", "respond": {"status": 503, "body": "<p>", "headers": {"Content-Type": "text/html"}}},
    {"path": "/moved", "respond": {"status": 302, "headers": {"Location": "/elsewhere"}}},
    {"path": "/post", "methods": ["POST"], "respond": 200},
]

REDIRECTS: list[tuple[str, str, int, str]] = [
    # request, host, status, location
    ("/item/5", "gw", 307, "/product/5"),
    ("/item/5?a=1&b=%2F", "gw", 307, "/product/5?a=1&b=%2F"),
    ("/item/a%20b%C3%A9%25", "gw", 307, "/product/a%20b%C3%A9%25"),
    ("/item/a%3Fb%23", "gw", 307, "/product/a%3Fb%23"),
    ("/old/", "gw", 301, "/new/"),
    ("/old/a/b/?q=//x", "gw", 301, "/new/a/b/?q=//x"),
    ("/two/1/x/2", "gw", 308, "/2/1"),
    ("/away/", "gw", 307, "https://shop.example/"),
    ("/away/a/b?c", "gw", 307, "https://shop.example/a/b?c"),
    ("/port/a?b=c", "gw:81", 302, "http://shop.example:8443/port/a?b=c"),
    ("/secure/a?b", "GW:81", 308, "https://gw/secure/a?b"),
    ("/www/a", "gw:81", 307, "http://www.gw:81/www/a"),
    ("/bare/a?b", "www.gw", 303, "http://gw/bare/a?b"),
    ("/clean/a%20b?b=c", "gw", 307, "https://gw/clean/a%20b"),
    ("/$money?$a", "gw", 307, "/cash$/1?$a"),
    ("/moved", "gw", 302, "/elsewhere"),
]

RESPONSES: list[tuple[str, int, bytes | None, bytes]] = [
    # path, status, media type, body
    ("/none", 204, None, b""),
    ("/gone", 410, None, b""),
    ("/text", 200, b"text/plain; charset=utf-8", "a $b \"c\" {d} 'é'\n".encode()),
    ("/json", 404, b"application/json", '{"found":[1,null,"é"]}'.encode()),
    ("/page", 503, b"text/html", b"<p>"),
]

Ask = Callable[..., Response]


def check(ask: Ask) -> None:
    """Send all requests of the tables with ``ask(method, target, host)``, and compare the responses."""
    for method in ("GET", "HEAD", "DELETE"):
        for target, host, status, location in REDIRECTS:
            response = ask(method, target, host)
            found = response.get("location") or b""
            assert (response.status, found.decode().lower()) == (status, location.lower()), (method, target)
        for path, status, media_type, body in RESPONSES:
            response = ask(method, path, "gw")
            assert response.status == status, (method, path)
            expected = body if method != "HEAD" else b""
            if media_type == b"application/json" and expected:
                assert json.loads(response.body) == json.loads(expected)
            else:
                assert response.body == expected
            if body:
                assert response.get("content-type") == media_type
    assert ask("GET", "/text", "gw").all("x-odd") == [b"a$b"]
    refused = ask("GET", "/post", "gw")
    assert (refused.status, refused.get("allow")) == (405, b"POST")


def asking(client: Client) -> Ask:
    """Return a function that sends a request on ``client``, with a host."""

    def ask(method: str, target: str, host: str) -> Response:
        client.send(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return client.read_response(method)

    return ask


def test_the_gateway_redirects_and_responds(rig: Rig) -> None:
    check(asking(rig.connect(rig.gateway({}, ROUTES))))


@needs("nginx")
def test_an_exported_nginx_redirects_and_responds_alike() -> None:
    with serving(deployment_of({}, ROUTES)) as nginx, nginx.connect() as client:
        check(asking(client))


def test_an_export_closes_actions_whose_guards_nginx_would_skip() -> None:
    routes = [
        {"path": "/a", "respond": 204, "clients": {"allow": ["10.0.0.0/8"]}},
        {"path": "/b", "redirect": "/c", "rate_limit": {"rate": "1/s"}},
        {"path": "/d", "respond": {"status": 302}},
    ]
    text, lost = in_place(deployment_of({}, routes))
    assert lost == ["routes[0].clients", "routes[1].rate_limit", "routes[2].respond"]
    assert text.count("return 501;") == 3
    assert "limit_req " not in text


@pytest.mark.parametrize(
    ("redirect", "target", "host", "status"),
    [
        ({"scheme": "http"}, "/a", "gw", 500),
        ({"host": "gw"}, "/a?b", "gw", 500),
        ({"host": "gw"}, "/a", "gw:81", 307),
        ({"www": "add"}, "/a", "www.gw", 500),
        ({"query": "drop"}, "/a", "gw", 500),
        ({"query": "drop"}, "/a?b", "gw", 307),
        ({"scheme": "https"}, "/a", "", 400),
    ],
)
def test_a_redirect_to_the_same_url_is_a_failure(
    rig: Rig, redirect: dict[str, Any], target: str, host: str, status: int
) -> None:
    client = rig.connect(rig.gateway({}, [{"path": "/{rest*}", "redirect": redirect}]))
    response = asking(client)("GET", target, host)
    assert response.status == status
    assert (response.get("content-type") == b"application/problem+json") == (status >= 400)


def test_no_path_makes_a_link_to_another_host(rig: Rig) -> None:
    routes = [{"path": "/{rest*}", "redirect": "/{rest}"}, {"path": "/go/{rest*}", "redirect": "/{rest}"}]
    client = rig.connect(rig.gateway({}, routes))
    for path in ("//evil.example", "/go//evil.example", "/go/%2F/evil.example", "/go/%5C%5Cevil.example", "/go/\\evil"):
        response = asking(client)("GET", path, "gw")
        location = response.get("location")
        assert location is None or not location.startswith((b"//", b"/\\")), path
        assert response.status in (307, 400, 500)
        if response.get("connection") == b"close":
            client = rig.connect(rig.gateways[0])


def test_a_trusted_proxy_states_scheme_and_host(rig: Rig) -> None:
    routes = [{"path": "/{rest*}", "redirect": {"scheme": "https"}}]
    forwarded = [("X-Forwarded-Host", "Shop.example"), ("X-Forwarded-Proto", "http")]
    believing = rig.connect(rig.gateway({}, routes, trusted_proxies=["127.0.0.0/8"]))
    assert believing.request("GET", "/a", *forwarded).get("location") == b"https://shop.example/a"
    secure = [("X-Forwarded-Host", "gw"), ("X-Forwarded-Proto", "https")]
    assert believing.request("GET", "/a", *secure).status == 500
    wary = rig.connect(rig.gateway({}, routes))
    assert wary.request("GET", "/a", *forwarded).get("location") == b"https://gw/a"
    assert wary.request("GET", "/a", *secure).get("location") == b"https://gw/a"


def test_a_redirect_knows_the_scheme_of_the_listener(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    certificate, key = authority.issue("gateway", "localhost")
    tls = {"certificate": str(certificate), "key": str(key)}
    routes = [{"path": "/{rest*}", "redirect": {"www": "add"}}]
    gateway = rig.gateway({}, routes, tls=tls)
    with SecureClient(gateway.port, authority.client_context()) as client:
        assert client.request("GET", "/a").get("location") == b"https://www.gw/a"


def test_bodies_of_requests_are_neither_read_nor_limited(rig: Rig) -> None:
    gateway = rig.gateway(
        {}, [{"path": "/a", "respond": 200}, {"path": "/b", "redirect": "/c"}], limits={"body": "1KiB"}
    )
    for path, status in (("/a", 200), ("/b", 307)):
        client = rig.connect(gateway)
        client.send(f"POST {path} HTTP/1.1\r\nHost: gw\r\nContent-Length: 100000\r\n\r\n".encode() + b"x" * 50_000)
        response = client.read_response("POST")
        assert (response.status, response.get("connection")) == (status, b"close")
        waiting = rig.connect(gateway)
        waiting.send(f"POST {path} HTTP/1.1\r\nHost: gw\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n".encode())
        assert waiting.read_response("POST").status == status


def test_guards_cors_compression_and_header_rules_apply(rig: Rig) -> None:
    common = {"cors": {"origins": "https://a.example"}, "security_headers": True}
    routes = [
        {"path": "/closed", "respond": 200, "clients": {"deny": ["127.0.0.0/8"]}},
        {"path": "/slow", "redirect": "/x", "rate_limit": {"rate": "1/d"}},
        {"path": "/big", "respond": {"body": "x" * 5000}, "compress": ["gzip"], **common},
        {"path": "/named", "respond": 204, "response_headers": {"set": {"X-Mark": "1"}}},
    ]
    gateway = rig.gateway({}, routes)
    client = rig.connect(gateway)
    assert client.request("GET", "/closed").status == 403
    assert [client.request("GET", "/slow").status for _ in range(2)] == [307, 429]
    assert client.request("GET", "/named").get("x-mark") == b"1"
    plain = client.request("GET", "/big", ("Origin", "https://a.example"))
    assert plain.body == b"x" * 5000
    assert plain.get("access-control-allow-origin") == b"https://a.example"
    assert plain.get("x-content-type-options") == b"nosniff"
    coded = client.request("GET", "/big", ("Accept-Encoding", "gzip"))
    assert coded.get("content-encoding") == b"gzip"
    assert zlib.decompress(coded.body, 31) == b"x" * 5000
    preflight = client.request(
        "OPTIONS", "/big", ("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")
    )
    assert preflight.status == 204
    assert gateway.snapshot()["routes"]["/big"]["codes"] == {"GET": {"200": 2}, "OPTIONS": {"204": 1}}
