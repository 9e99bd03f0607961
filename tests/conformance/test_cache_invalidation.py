"""An unsafe method invalidates everything it has changed, at the right time, and nothing else (RFC 9111 §4.4)."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from passerelle.security.credentials.api_keys import KeyStore
from tests.support.client import Client, head
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Response, wait_until

PATIENCE = 20.0
FRESH = b"Cache-Control: max-age=3600"
UNSAFE = ["POST", "PUT", "PATCH", "DELETE", "M-SEARCH", "PROPFIND", "UNHEARD"]
NEIGHBOURS = ["/r?x=1", "/r?", "/R", "/r/", "/s", "/r/below", "/"]


class Origin:
    """Respond to GET with numbered responses, by language, and to all else with ``status`` and ``fields``."""

    def __init__(self, rig: Rig, *fields: bytes, status: int = 201, cache: dict[str, Any] | None = None) -> None:
        self.rig = rig
        self.fields = fields
        self.status = status
        self.counts = 0
        self.upstream: Upstream = rig.upstream(self.serve)
        self.gateway: Running = rig.forward(self.upstream, route={"cache": cache or {}, "attempts": 1})
        self.client: Client = rig.connect(self.gateway)

    def serve(self, conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if request.method in (b"GET", b"HEAD"):
                self.counts += 1
                conn.send(ok(b"%d" % self.counts, FRESH, b"Vary: Accept-Language"))
            else:
                lines = [b"HTTP/1.1 %d X" % self.status, *self.fields]
                lines += [] if self.status == 204 else [b"Content-Length: 0"]
                conn.send(b"\r\n".join(lines) + b"\r\n\r\n")

    def get(self, path: str = "/r", language: str = "fr", host: str = "gw") -> bytes:
        self.client.send(
            head("GET", path, ("Accept-Language", language)).replace(b"Host: gw", b"Host: " + host.encode())
        )
        return self.client.read_response("GET", PATIENCE).body

    def change(self, method: str, path: str = "/r", *fields: tuple[str, str]) -> int:
        return self.client.request(method, path, *fields, body=b"new").status


@pytest.mark.parametrize("status", [200, 201, 202, 204, 301, 302, 303])
@pytest.mark.parametrize("method", UNSAFE)
def test_a_success_invalidates_all_variants_of_its_uri_and_nothing_else(rig: Rig, method: str, status: int) -> None:
    origin = Origin(rig, status=status)
    before = {language: origin.get(language=language) for language in ("fr", "de", "en")}
    others = {path: origin.get(path) for path in NEIGHBOURS}
    other_host = origin.get(host="other.test")
    assert origin.change(method) == status
    for language, body in before.items():
        new = origin.get(language=language)
        assert new != body
        assert origin.get(language=language) == new, "what is new is stored"
    assert {path: origin.get(path) for path in NEIGHBOURS} == others
    assert origin.get(host="other.test") == other_host


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("method", UNSAFE)
def test_an_error_invalidates_nothing(rig: Rig, method: str, status: int) -> None:
    origin = Origin(rig, b"Location: /s", status=status)
    before = [origin.get("/r"), origin.get("/s")]
    assert origin.change(method) == status
    assert [origin.get("/r"), origin.get("/s")] == before


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_safe_methods_invalidate_nothing(rig: Rig, method: str) -> None:
    origin = Origin(rig, status=200)
    before = origin.get()
    origin.client.request(method, "/r", ("Accept-Language", "xx"))
    assert origin.get() == before


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_refused_methods_invalidate_nothing(rig: Rig, method: str) -> None:
    origin = Origin(rig)
    before = origin.get()
    other = rig.connect(origin.gateway)
    other.send(head(method, "/r"))
    assert other.read_response(method).status >= 400
    assert origin.get() == before


LOCATIONS = {
    "a path": (b"/t", True),
    "a relative one": (b"t", True),
    "a relative one with dots": (b"./x/../t", True),
    "the whole URI": (b"http://gw/t", True),
    "in capitals": (b"HTTP://GW/t", True),
    "with the port that is the scheme's": (b"http://gw:80/t", True),
    "another host": (b"http://other.test/t", False),
    "another port": (b"http://gw:81/t", False),
    "another host, by scheme's default": (b"//other.test/t", False),
    "a host that begins so": (b"http://gw.other.test/t", False),
    "user information": (b"http://gw@other.test/t", False),
    "another scheme": (b"ftp://gw/t", False),
    "no path": (b"javascript:t", False),
    "garbage": (b"http://[/t", False),
    "empty": (b"", None),
}


@pytest.mark.parametrize("field", [b"Location", b"Content-Location"])
@pytest.mark.parametrize("name", LOCATIONS)
def test_a_uri_named_in_the_response_is_invalidated_if_it_has_the_same_origin(
    rig: Rig, name: str, field: bytes
) -> None:
    value, gone = LOCATIONS[name]
    origin = Origin(rig, field + b": " + value)
    before = {path: origin.get(path) for path in ("/t", "/s", "/")}
    elsewhere = origin.get("/t", host="other.test")
    assert origin.change("POST") == 201
    assert (origin.get("/t") != before["/t"]) is bool(gone)
    assert [origin.get(path) for path in ("/s", "/")] == [before["/s"], before["/"]]
    assert origin.get("/t", host="other.test") == elsewhere, "another origin's"


def test_a_request_that_the_gateway_refuses_invalidates_nothing(rig: Rig, tmp_path: Path) -> None:
    """A 401, 403, 404, 405, 413 or 429 of the gateway itself is not a response of the service."""
    upstream = rig.upstream(Origin(rig).serve)
    keys = KeyStore(tmp_path / "keys.db")
    key = "X-API-Key", keys.create("ada", ["write"], int(time.time()), None)[1]
    poor = "X-API-Key", keys.create("bob", [], int(time.time()), None)[1]
    keys.close()
    guard = {"auth": ["key"], "require": {"scopes": ["write"]}, "body": "10B"}
    limit = {"rate_limit": {"rate": "1/h", "burst": 1}}
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/r", "methods": ["GET"], "service": "u", "cache": {}},
            {"path": "/r", "methods": ["PUT"], "service": "u", **guard},
            {"path": "/r", "methods": ["POST"], "service": "u", **limit},
        ],
        keys={"store": str(tmp_path / "keys.db")},
    )

    def ask(method: str, *fields: tuple[str, str], body: bytes | None = None) -> Response:
        with rig.connect(gateway) as client:  # a connection with an unread body is closed
            return client.request(method, "/r", *fields, body=body)

    assert ask("POST", body=b"x").status == 201
    before = ask("GET").body
    assert ask("GET").body == before
    assert ask("POST", body=b"x").status == 429
    assert ask("PUT", body=b"x").status == 401
    assert ask("PUT", poor, body=b"x").status == 403
    assert ask("DELETE").status == 405
    assert ask("PUT", key, body=b"x" * 11).status == 413
    assert ask("GET").body == before
    assert ask("PUT", key, body=b"x").status == 201
    assert ask("GET").body != before


@pytest.mark.parametrize("how", ["refuse", "close", "timeout"])
def test_a_change_that_was_not_executed_invalidates_nothing(rig: Rig, how: str) -> None:
    """502 and 504 come from the gateway: the stored response may be all that is left of the service."""

    class Gone(Origin):
        def serve(self, conn: Connection) -> None:
            if how == "timeout":
                request = conn.read_request()
                if request.method == b"GET":
                    self.counts += 1
                    conn.send(ok(b"%d" % self.counts, FRESH, b"Connection: close"))
                    conn.close()
                return
            while True:
                if conn.read_request().method != b"GET":
                    conn.close()
                    return
                self.counts += 1
                conn.send(ok(b"%d" % self.counts, FRESH))

    origin = Gone(rig)
    if how == "timeout":
        origin.gateway = rig.forward(origin.upstream, route={"cache": {}, "attempts": 1, "timeout": "200ms"})
        origin.client = rig.connect(origin.gateway)
    before = origin.get()
    if how == "refuse":
        origin.upstream.refuse()
        for conn in origin.upstream.connections:
            conn.close()
    assert origin.change("PUT") in (502, 504)
    assert origin.get() == before


@pytest.mark.parametrize("method", ["PUT", "DELETE", "UNHEARD"])
def test_a_response_in_flight_is_neither_stored_nor_joined(rig: Rig, method: str) -> None:
    go = threading.Event()

    class Slow(Origin):
        def serve(self, conn: Connection) -> None:
            if conn.index:
                super().serve(conn)
            conn.read_request()
            assert go.wait(PATIENCE)
            conn.send(ok(b"before", FRESH))

    origin = Slow(rig)
    early, waiting = rig.connect(origin.gateway), rig.connect(origin.gateway)
    early.send(head("GET", "/r"))
    origin.upstream.wait_heads(1, PATIENCE)
    waiting.send(head("GET", "/r"))
    assert origin.change(method) == 201
    after = origin.client.request("GET", "/r").body
    assert after != b"before"
    go.set()
    assert early.read_response("GET", PATIENCE).body == b"before", "it asked before the change"
    waiting.read_response("GET", PATIENCE)
    assert origin.client.request("GET", "/r").body == after


@pytest.mark.parametrize("changed", ["", "/r", "/s", "tag", "all"])
def test_a_response_to_post_is_stored_unless_its_uri_changed_meanwhile(rig: Rig, changed: str) -> None:
    go = threading.Event()

    class Slow(Origin):
        def serve(self, conn: Connection) -> None:
            if not conn.index:
                conn.read_request()
                assert go.wait(PATIENCE)
                conn.send(ok(b"of the POST", FRESH, b"Content-Location: /r"))
            super().serve(conn)

    origin = Slow(rig)
    slow = rig.connect(origin.gateway)
    slow.send(head("POST", "/r"))
    origin.upstream.wait_heads(1, PATIENCE)
    if changed.startswith("/"):
        assert origin.change("PUT", changed) == 201
    elif changed:
        rig.loop.call(lambda: origin.gateway.gateway.purge(changed, "x"))
    go.set()
    assert slow.read_response("POST", PATIENCE).body == b"of the POST"
    assert (origin.get() == b"of the POST") is (changed in ("", "/s"))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("fields", [[("Connection", "upgrade"), ("Upgrade", "x")], [("Passerelle-Debug", "1")]])
def test_a_change_with_an_upgrade_or_a_debug_header_evicts_too(
    rig: Rig, fields: list[tuple[str, str]], apart: bool
) -> None:
    """On the cached route, or on one without a cache; a service may ignore an upgrade (RFC 9110 §7.8)."""
    origin = Origin(rig)
    routes: list[dict[str, Any]] = [{"path": "/r", "service": "u", "cache": {}}]
    if apart:
        routes[0]["methods"] = ["GET"]
        routes.append({"path": "/r", "methods": ["DELETE"], "service": "u"})
    gateway = rig.gateway({"u": {"targets": [origin.upstream.url]}}, routes)
    client = rig.connect(gateway)
    before = client.request("GET", "/r").body
    assert client.request("GET", "/r").body == before
    assert client.request("DELETE", "/r", *fields).status == 201
    assert client.request("GET", "/r").body != before


def test_a_change_is_visible_to_its_client_at_once(rig: Rig) -> None:
    """Responses are invalidated before the response to the change is sent."""
    origin = Origin(rig)
    for _ in range(50):
        before = origin.get()
        assert origin.change("PUT") == 201
        assert origin.get() != before


def test_the_tags_of_a_route_go_as_well(rig: Rig) -> None:
    upstream = rig.upstream(Origin(rig).serve)
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/user/{id}", "service": "u", "cache": {"tags": ["user:{id}"]}},
            {"path": "/user/{id}/orders", "service": "u", "cache": {"tags": ["user:{id}", "orders"]}},
            {"path": "/orders", "service": "u", "cache": {"tags": ["orders"]}},
        ],
    )
    client = rig.connect(gateway)
    paths = ["/user/1", "/user/1/orders", "/user/2", "/user/2/orders", "/orders"]
    before = {path: client.request("GET", path).body for path in paths}
    client.request("PUT", "/user/1", body=b"x")
    changed = {path for path in paths if client.request("GET", path).body != before[path]}
    assert changed == {"/user/1", "/user/1/orders"}


@pytest.mark.parametrize("length", [1, 251, 252, 2000])
@pytest.mark.parametrize("how", ["PUT", "purge", "named"])
def test_tags_of_any_length_are_purged_by(rig: Rig, length: int, how: str) -> None:
    """``how``: by a change on another path, by the tag itself, or by a tag named in a response."""
    user, other = "a" * length, "a" * length + "b"
    named = [b"Cache-Tag: name:%b" % user.encode()] if how == "named" else []
    gets = 0

    def serve(conn: Connection) -> None:
        nonlocal gets
        while True:
            request = conn.read_request()
            gets += request.method == b"GET"
            mine = request.target == b"/user/" + user.encode()
            conn.send(ok(b"%d" % gets, FRESH, *(named if mine else [])))

    gateway = rig.gateway(
        {"u": {"targets": [rig.upstream(serve).url]}},
        [
            {"path": "/user/{id}", "service": "u", "cache": {"tags": ["user:{id}"]}},
            {"path": "/name/{id}", "service": "u", "cache": {"tags": ["user:{id}"]}},
        ],
    )
    client = rig.connect(gateway)
    before = {name: client.request("GET", f"/user/{name}").body for name in (user, other)}
    if how == "PUT":
        assert client.request("PUT", f"/name/{user}", body=b"x").status == 200
    else:
        tag = f"{'user' if how == 'purge' else 'name'}:{user}"
        assert rig.loop.call(lambda: gateway.gateway.purge("tag", tag)) == 1
    assert client.request("GET", f"/user/{user}").body != before[user]
    assert client.request("GET", f"/user/{other}").body == before[other]


def test_invalidation_reaches_another_workers_memory(rig: Rig) -> None:
    """The supervisor carries messages between workers; this test covers their content."""
    origin = Origin(rig, cache={"tags": ["t"]})
    other = Origin(rig, cache={"tags": ["t"]})
    published: list[tuple[list[bytes], list[bytes]]] = []
    cache = origin.gateway.gateway.context.cache
    assert cache is not None
    cache.on_invalidated = lambda keys, tags: published.append((list(keys), list(tags)))
    before = other.get()
    origin.change("PUT")
    wait_until(lambda: published, "the invalidation is published", PATIENCE)
    theirs = other.gateway.gateway.context.cache
    assert theirs is not None
    rig.loop.call(lambda: theirs.invalidate_local(*published[0]))
    assert other.get() != before
