"""CORS through a running gateway: the fields of responses from services, the cache and the gateway itself."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.upstream import Upstream, answering, ok
from tests.support.wire import Response

SHOP, OTHER, EVIL = "https://shop.example", "https://a.other.example", "https://evil.example"
CORS = {"origins": [SHOP, "https://*.other.example"], "headers": ["Authorization"], "expose": ["ETag"]}
JSON = b"Content-Type: application/json"
# CORS fields of the service, which must not reach a client.
ITS_OWN = (b"Access-Control-Allow-Origin: *", b"access-control-allow-credentials: true", b'ETag: "1"')


def get(
    client: Client, path: str, origin: str | None = SHOP, *fields: tuple[str, str], method: str = "GET"
) -> Response:
    return client.request(method, path, *([("Origin", origin)] if origin else []), *fields)


def preflight(client: Client, path: str, method: str, origin: str = SHOP, headers: str = "") -> Response:
    asked = [("Access-Control-Request-Headers", headers)] if headers else []
    return client.request("OPTIONS", path, ("Origin", origin), ("Access-Control-Request-Method", method), *asked)


def allowed(answer: Response) -> bytes | None:
    return answer.get("access-control-allow-origin")


def varies(answer: Response) -> bool:
    names = [name.strip().lower() for value in answer.all("vary") for name in value.split(b",")]
    assert names.count(b"origin") <= 1
    return b"origin" in names


def shared(rig: Rig, *fields: bytes, body: bytes = b"{}", **route: Any) -> tuple[Upstream, Client]:
    """A gateway whose one route has CORS."""
    upstream = rig.upstream(answering(ok(body, JSON, *ITS_OWN, *fields)))
    gateway = rig.forward(upstream, route={"cors": CORS, **route})
    return upstream, rig.connect(gateway)


def test_the_origin_is_echoed_and_answers_vary_by_it(rig: Rig) -> None:
    _, client = shared(rig)
    for origin, told in ((SHOP, SHOP), (OTHER, OTHER), (EVIL, None), ("null", None), (None, None)):
        answer = get(client, "/a", origin)
        assert answer.status == 200
        assert allowed(answer) == (told.encode() if told else None)
        assert answer.get("access-control-allow-credentials") is None
        assert answer.get("access-control-expose-headers") == (b"ETag" if told else None)
        assert varies(answer)


def test_a_service_that_varies_already_is_not_repeated(rig: Rig) -> None:
    for vary in (b"Vary: Accept, origin", b"Vary: *"):
        _, client = shared(rig, vary)
        assert get(client, "/a").all("vary") == [vary[6:]]
    _, client = shared(rig, b"Vary: X-Origin")
    assert get(client, "/a").all("vary") == [b"X-Origin", b"Origin"]


def test_a_star_gives_all_origins_the_same_headers(rig: Rig) -> None:
    _, client = shared(rig, cors={"origins": "*"})
    for origin in (SHOP, "null", None):
        answer = get(client, "/a", origin)
        assert allowed(answer) == b"*"
        assert not answer.all("vary")


def test_credentials(rig: Rig) -> None:
    _, client = shared(rig, cors={"origins": [SHOP], "credentials": True})
    answer = get(client, "/a")
    assert (allowed(answer), answer.get("access-control-allow-credentials")) == (SHOP.encode(), b"true")
    assert get(client, "/a", EVIL).get("access-control-allow-credentials") is None


def test_a_preflight_is_answered_before_authentication(rig: Rig, tmp_path: Path) -> None:
    settings = {"methods": ["GET", "PUT"], "auth": ["key"], "cors": {**CORS, "max_age": "5m"}}
    limits = [{"rate": "1/h", "by": by} for by in ("consumer", "key", "header:Origin")]
    upstream = rig.upstream(answering(ok(b"{}", JSON)))
    gateway = rig.forward(upstream, route={**settings, "rate_limit": limits}, keys={"store": str(tmp_path / "keys.db")})
    client = rig.connect(gateway)
    for _ in range(3):
        answer = preflight(client, "/a", "PUT", headers="authorization, content-type")
        assert answer.status == 204
        assert allowed(answer) == SHOP.encode()
        assert answer.get("access-control-allow-methods") == b"GET, HEAD, PUT"
        assert b"authorization" in (answer.get("access-control-allow-headers") or b"").lower()
        assert answer.get("access-control-max-age") == b"300"
        assert answer.get("content-length") is None
    # The limit by a field had not counted one of them, and slows guessing down.
    for status in (401, 429):
        refused = get(client, "/a")
        assert (refused.status, allowed(refused), varies(refused)) == (status, SHOP.encode(), True)
    assert not upstream.requests


def test_limits_by_address_count_preflights_with_the_requests(rig: Rig) -> None:
    limit = {"rate": "3/h"}
    upstream, client = shared(rig, methods=["GET", "PUT"], rate_limit=limit)
    answer = preflight(client, "/a", "PUT")
    assert (answer.status, answer.get("ratelimit")) == (204, b'"3/h by address";r=2;t=1200')
    assert get(client, "/a").status == 200
    assert preflight(client, "/a", "PUT").status == 204
    for answer in (preflight(client, "/a", "PUT"), get(client, "/a")):
        assert answer.status == 429
        assert int(answer.get("retry-after") or b"") > 0
        assert answer.get("access-control-allow-methods") is None
    assert len(upstream.requests) == 1


def test_a_dry_limit_counts_preflights_and_refuses_none(rig: Rig) -> None:
    _, client = shared(rig, rate_limit={"rate": "1/h", "dry_run": True})
    assert [preflight(client, "/a", "PUT").status for _ in range(3)] == [204] * 3


@pytest.mark.parametrize("clients", [{"deny": ["127.0.0.0/8"]}, {"allow": ["192.0.2.0/24"]}])
def test_an_address_that_is_not_admitted_has_no_preflight(rig: Rig, clients: dict[str, list[str]]) -> None:
    upstream, client = shared(rig, clients=clients)
    for answer in (preflight(client, "/a", "PUT"), get(client, "/a")):
        assert answer.status == 403
        assert answer.get("access-control-allow-methods") is None
    assert not upstream.requests


def test_preflights_of_logins_and_compositions(rig: Rig, tmp_path: Path) -> None:
    upstream = rig.upstream(answering(ok()))
    admitted = {"cors": CORS, "clients": {"allow": ["127.0.0.1"]}}
    denied = {"cors": CORS, "clients": {"deny": ["127.0.0.1"]}}
    compose = {"compose": {"a": {"service": "u", "path": "/a"}}}
    login = {"login": {"service": "u", "path": "/check"}}
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/in", **login, **admitted},
            {"path": "/not-in", **login, **denied},
            {"path": "/parts", **compose, **admitted},
            {"path": "/no-parts", **compose, **denied},
        ],
        sessions={"store": str(tmp_path / "sessions.db")},
    )
    client = rig.connect(gateway)
    for path, method, status in (
        ("/in", "POST", 204),
        ("/not-in", "POST", 403),
        ("/parts", "GET", 204),
        ("/no-parts", "GET", 403),
    ):
        assert preflight(client, path, method).status == status
    assert not upstream.requests


def test_headers_of_a_preflight_are_sent_once(rig: Rig) -> None:
    _, client = shared(rig, methods=["GET", "OPTIONS"], response_headers={"set": {"Server": "shop"}})
    answer = preflight(client, "/a", "GET")
    assert answer.status == 204
    assert answer.all("access-control-allow-origin") == [SHOP.encode()]
    assert answer.all("server") == [b"shop"]
    assert len(answer.all("vary")) == 1


def test_the_body_of_a_preflight_is_not_read(rig: Rig) -> None:
    upstream, client = shared(rig)
    fields = ("Origin", SHOP), ("Access-Control-Request-Method", "PUT")
    answer = client.request("OPTIONS", "/a", *fields, body=b"some bytes")
    assert (answer.status, answer.body) == (204, b"")
    assert not upstream.requests


@pytest.mark.parametrize(
    ("method", "origin", "headers"), [("PUT", EVIL, ""), ("DELETE", SHOP, ""), ("PUT", SHOP, "authorization, x-other")]
)
def test_a_preflight_that_is_refused(rig: Rig, tmp_path: Path, method: str, origin: str, headers: str) -> None:
    upstream = rig.upstream(answering(ok()))
    log = tmp_path / "access.log"
    gateway = rig.forward(upstream, route={"cors": {**CORS, "methods": ["GET", "PUT"]}}, access_log=str(log))
    answer = preflight(rig.connect(gateway), "/a", method, origin, headers)
    assert answer.status == 403
    assert varies(answer)
    assert answer.get("access-control-allow-methods") is None
    assert "CORS" not in answer.body.decode()
    gateway.stop()
    assert json.loads(log.read_text())["why"].startswith("CORS: ")
    assert not upstream.requests


def test_the_preflight_is_answered_by_the_route_of_the_request_that_is_to_come(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/a", "methods": ["GET"], "service": "u", "cors": {"origins": [SHOP]}},
            {"path": "/a", "methods": ["PUT", "OPTIONS"], "service": "u", "cors": {"origins": [OTHER]}},
            {"path": "/b", "methods": ["GET"], "service": "u", "cors": {"origins": [SHOP]}},
            {"path": "/c", "service": "u"},
        ],
    )
    client = rig.connect(gateway)
    assert preflight(client, "/a", "GET", SHOP).status == 204
    assert preflight(client, "/a", "PUT", SHOP).status == 403
    assert preflight(client, "/a", "PUT", OTHER).status == 204
    assert preflight(client, "/b", "DELETE", SHOP).status == 405
    assert preflight(client, "/none", "GET", SHOP).status == 404
    assert preflight(client, "/%2", "GET", SHOP).status == 400
    assert not upstream.requests
    # A service may answer for itself, and an OPTIONS that is none of a browser is one like any other.
    assert preflight(client, "/c", "GET", SHOP).status == 200
    assert client.request("OPTIONS", "/a", ("Origin", SHOP)).status == 200
    assert [request.method for request in upstream.requests] == [b"OPTIONS", b"OPTIONS"]


def test_errors_of_the_gateway_can_be_read_by_the_page(rig: Rig, tmp_path: Path) -> None:
    upstream = rig.upstream(answering(ok()))
    upstream.refuse()
    cors = {"cors": CORS}
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/open", "service": "u", **cors},
            {"path": "/key", "service": "u", "auth": ["key"], **cors},
            {"path": "/small", "service": "u", "body": "1B", **cors},
            {"path": "/parts", "compose": {"a": {"service": "u", "path": "/a"}}, **cors},
            {"path": "/kept", "service": "u", "cache": {}, **cors},
        ],
        keys={"store": str(tmp_path / "keys.db")},
    )
    client = rig.connect(gateway)
    kept = ("Cache-Control", "only-if-cached")
    answers = [
        (get(client, "/open"), 502),
        (get(client, "/key"), 401),
        (get(client, "/parts"), 502),
        (get(client, "/kept"), 502),
        (get(client, "/kept", SHOP, kept), 504),
        (rig.connect(gateway).request("POST", "/small", ("Origin", SHOP), body=b"long"), 413),
    ]
    for answer, status in answers:
        assert (answer.status, allowed(answer), varies(answer)) == (status, SHOP.encode(), True)
        assert answer.get("content-type") == b"application/problem+json"
    assert get(client, "/key").get("www-authenticate") is not None
    refused = get(client, "/open", EVIL)
    assert (refused.status, allowed(refused), varies(refused)) == (502, None, True)


def test_a_stored_response_has_no_origin_of_a_client(rig: Rig) -> None:
    upstream, client = shared(rig, b"Cache-Control: max-age=60", body=b'{"a": 1}', cache={})
    first = get(client, "/a", SHOP)
    assert (first.status, allowed(first)) == (200, SHOP.encode())
    for origin, told in ((OTHER, OTHER), (EVIL, None), (None, None), (SHOP, SHOP)):
        for fields, status in (
            ((), 200),
            ((("If-None-Match", '"1"'),), 304),
            ((("Range", "bytes=0-1"),), 206),
        ):
            answer = get(client, "/a", origin, *fields)
            assert answer.status == status
            assert allowed(answer) == (told.encode() if told else None)
            assert answer.get("access-control-allow-credentials") is None
            assert varies(answer)
            assert b"hit" in (answer.get("cache-status") or b"")
    head = get(client, "/a", OTHER, method="HEAD")
    assert (head.status, allowed(head)) == (200, OTHER.encode())
    assert len(upstream.requests) == 1


def test_an_answer_that_is_validated_with_the_service(rig: Rig) -> None:
    def script(conn):
        while True:
            request = conn.read_request()
            if request.all("if-none-match"):
                conn.send(b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nAccess-Control-Allow-Origin: *\r\n\r\n')
            else:
                conn.send(ok(b"{}", JSON, *ITS_OWN, b"Cache-Control: no-cache"))

    upstream = rig.upstream(script)
    client = rig.connect(rig.forward(upstream, route={"cors": CORS, "cache": {}}))
    for origin in (SHOP, OTHER):
        answer = get(client, "/a", origin)
        assert (answer.status, allowed(answer)) == (200, origin.encode())
    answer = get(client, "/a", EVIL, ("If-None-Match", '"1"'))
    assert (answer.status, allowed(answer), varies(answer)) == (304, None, True)


@pytest.mark.parametrize("cache", [None, {"ttl": "1m"}])
def test_compositions_and_compressed_answers(rig: Rig, cache: dict[str, str] | None) -> None:
    body = json.dumps(["item"] * 200).encode()
    upstream = rig.upstream(answering(ok(body, JSON, *ITS_OWN, b"Cache-Control: max-age=60")))
    common: dict[str, Any] = {"cors": CORS, "compress": ["gzip"], **({"cache": cache} if cache else {})}
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/whole", "compose": {"a": {"service": "u", "path": "/a"}}, **common},
            {"path": "/one", "service": "u", **common},
        ],
    )
    client = rig.connect(gateway)
    for path in ("/whole", "/one"):
        for origin, told in ((SHOP, SHOP), (OTHER, OTHER), (EVIL, None), (None, None)):
            for coding in ("gzip", "identity"):
                answer = get(client, path, origin, ("Accept-Encoding", coding))
                assert answer.status == 200
                assert allowed(answer) == (told.encode() if told else None)
                assert varies(answer)
                assert answer.get("content-encoding") == (b"gzip" if coding == "gzip" else None)
                plain = gzip.decompress(answer.body) if coding == "gzip" else answer.body
                assert json.loads(plain) == ({"a": ["item"] * 200} if path == "/whole" else ["item"] * 200)


def test_a_streamed_answer(rig: Rig) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nAccess-Control-Allow-Origin: *\r\n\r\n"
    upstream = rig.upstream(answering(head, b"2\r\nab\r\n", b"0\r\n\r\n"))
    answer = get(rig.connect(rig.forward(upstream, route={"cors": CORS})), "/a")
    assert (answer.body, allowed(answer)) == (b"ab", SHOP.encode())


def test_other_routes_stay_as_they_are(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"{}", *ITS_OWN)))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [{"path": "/a", "service": "u", "cors": CORS}, {"path": "/b", "service": "u"}],
    )
    client = rig.connect(gateway)
    assert allowed(get(client, "/b", EVIL)) == b"*"
    gateway.reload({"u": {"targets": [upstream.url]}}, [{"path": "/b", "service": "u", "cors": CORS}])
    assert allowed(get(client, "/b", EVIL)) is None
    assert allowed(get(client, "/b", SHOP)) == SHOP.encode()
