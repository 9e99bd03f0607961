"""Pages for errors of the gateway: which clients get them, and what is in them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from passerelle.gateway.error_pages import prefers_html
from tests.export.serving import deployment_of
from tests.export.serving import serving as serving_nginx
from tests.requirements import needs
from tests.support.gateways import Rig
from tests.support.upstream import Connection, answering, ok

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
CLOSED = {"targets": ["http://127.0.0.1:1"]}


def pages(folder: Path) -> dict[str, str]:
    """Write pages, and return the key ``errors``."""
    (folder / "404.html").write_text("<h1>{status} {title}</h1> {request_id} {other} {{}}")
    (folder / "5xx.html").write_text("<h1>later</h1>")
    (folder / "4xx.html").write_text("<h1>your fault</h1>")
    return {status: str(folder / f"{status}.html") for status in ("404", "5xx", "4xx")}


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML;q=0.5", True),
        ("application/xhtml+xml", True),
        ("text/html, application/json", True),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0", False),
        ("application/json", False),
        ("*/*", False),
        ("text/*", False),
        ("", False),
        (None, False),
        ("text/html;q=x", True),
        ("text/html," * 200, False),
    ],
)
def test_html_is_for_clients_that_name_it(accept: str | None, expected: bool) -> None:
    assert prefers_html(accept.encode() if accept is not None else None) is expected


def test_browsers_get_pages_and_programs_problem_details(rig: Rig, tmp_path: Path) -> None:
    routes = [
        {"path": "/up", "service": "u", "methods": ["GET"]},
        {"path": "/files/{rest*}", "static": str(tmp_path)},
        {"path": "/closed", "respond": 200, "clients": {"deny": ["127.0.0.0/8"]}},
        {"path": "/own", "respond": {"status": 500, "body": "mine"}},
        {"path": "/service", "service": "v"},
    ]
    failing = rig.upstream(answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 6\r\n\r\ntheirs"))
    services = {"u": CLOSED, "v": {"targets": [failing.url]}}
    gateway = rig.gateway(services, routes, errors=pages(tmp_path), security_headers=True)
    client = rig.connect(gateway)
    for target, status, body in (
        ("/nothing", 404, b"<h1>404 No route matches</h1> "),
        ("/files/nothing", 404, b"<h1>404 No such file</h1> "),
        ("/closed", 403, b"<h1>your fault</h1>"),
        ("/up", 502, b"<h1>later</h1>"),
    ):
        page = client.request("GET", target, ("Accept", BROWSER))
        assert (page.status, page.get("content-type")) == (status, b"text/html; charset=utf-8"), target
        assert page.body.startswith(body)
        assert (page.get("cache-control"), page.get("x-frame-options")) == (b"no-store", b"DENY")
        assert page.get("x-request-id")
        without = client.request("HEAD", target, ("Accept", BROWSER))
        assert (without.status, without.body) == (status, b"")
        for accept in ("*/*", "application/json"):
            problem = client.request("GET", target, ("Accept", accept))
            assert (problem.status, problem.get("content-type")) == (status, b"application/problem+json")
            assert orjson.loads(problem.body)["status"] == status
    page = client.request("GET", "/nothing", ("Accept", BROWSER))
    assert page.body.endswith(b" %b {other} {{}}" % (page.get("x-request-id") or b"?"))
    refused = client.request("POST", "/up", ("Accept", BROWSER))
    assert (refused.status, refused.body, refused.get("allow")) == (405, b"<h1>your fault</h1>", b"GET, HEAD")
    # Responses of services, and those that the file fixes, are forwarded as they are.
    assert client.request("GET", "/service", ("Accept", BROWSER)).body == b"theirs"
    assert client.request("GET", "/own", ("Accept", BROWSER)).body == b"mine"


def test_placeholders_cannot_add_markup(rig: Rig, tmp_path: Path) -> None:
    gateway = rig.gateway({}, [{"path": "/a", "respond": 200}], errors=pages(tmp_path), trusted_proxies=["127.0.0.0/8"])
    client = rig.connect(gateway)
    for given in ("<script>", "a&b", "{status}"):
        page = client.request("GET", "/nothing", ("Accept", "text/html"), ("X-Request-Id", given))
        assert b"<script>" not in page.body and given.encode() not in page.body


def test_a_reload_reads_the_pages_again(rig: Rig, tmp_path: Path) -> None:
    routes: list[dict[str, Any]] = [{"path": "/a", "respond": 200}]
    errors = pages(tmp_path)
    gateway = rig.gateway({"u": CLOSED}, routes, errors=errors)
    client = rig.connect(gateway)
    (tmp_path / "404.html").write_text("new")
    assert client.request("GET", "/x", ("Accept", "text/html")).body.startswith(b"<h1>404")
    gateway.reload({"u": CLOSED}, routes, errors=errors)
    assert client.request("GET", "/x", ("Accept", "text/html")).body == b"new"


def test_a_page_that_is_removed_during_a_reload_does_not_leave_half_of_it(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = rig.gateway({"u": CLOSED}, [{"path": "/a", "respond": 200}])
    errors, read = pages(tmp_path), Path.read_bytes

    def read_and_remove(path: Path) -> bytes:
        content = read(path)
        path.unlink()
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_remove)
    gateway.reload({"u": CLOSED}, [{"path": "/b", "respond": 204}], errors=errors)
    client = rig.connect(gateway)
    assert client.request("GET", "/b").status == 204
    assert client.request("GET", "/a", ("Accept", BROWSER)).body.startswith(b"<h1>404")


# ---- maintenance


def switch(gateway: Any, rig: Rig, routes: frozenset[str] | None) -> None:
    rig.loop.call(lambda: gateway.gateway.set_maintenance(routes))


def test_routes_in_maintenance_refuse_requests_until_they_are_back(rig: Rig, tmp_path: Path) -> None:
    upstream = rig.upstream(answering(ok(b"fresh", b"Cache-Control: max-age=600")))
    services = {"u": {"targets": [upstream.url]}}
    routes = [
        {"path": "/shop/{rest*}", "service": "u", "cache": {}},
        {"path": "/other", "respond": 204},
        {"path": "/closed", "respond": 204, "clients": {"deny": ["127.0.0.0/8"]}},
    ]
    gateway = rig.gateway(services, routes, errors=pages(tmp_path))
    client = rig.connect(gateway)
    for _ in range(2):
        assert client.request("GET", "/shop/a").body == b"fresh"
    switch(gateway, rig, frozenset({"/shop/{rest*}"}))
    for _ in range(2):
        refused = client.request("GET", "/shop/a")  # also what is stored
        assert (refused.status, refused.get("retry-after")) == (503, b"60")
        assert orjson.loads(refused.body)["kind"] == "maintenance"
    assert client.request("POST", "/shop/a", body=b"x" * 100).status == 503
    client = rig.connect(gateway)
    assert client.request("GET", "/shop/a", ("Accept", BROWSER)).body == b"<h1>later</h1>"
    assert client.request("GET", "/other").status == 204
    gateway.reload(services, routes, errors=pages(tmp_path))
    assert client.request("GET", "/shop/a").status == 503
    switch(gateway, rig, None)
    assert [client.request("GET", path).status for path in ("/other", "/closed", "/nothing")] == [503, 503, 404]
    switch(gateway, rig, frozenset())
    assert client.request("GET", "/shop/a").body == b"fresh"
    assert [client.request("GET", path).status for path in ("/other", "/closed")] == [204, 403]
    assert len(upstream.requests) <= 2
    assert gateway.snapshot()["routes"]["/shop/{rest*}"]["failures"] == {"maintenance": 5}


def test_requests_in_flight_continue(rig: Rig) -> None:
    may_respond = threading.Event()

    def slow(connection: Connection) -> None:
        connection.read_request()
        connection.wait(may_respond)
        connection.send(ok(b"late"))

    upstream = rig.upstream(slow)
    gateway = rig.forward(upstream)
    waiting = rig.connect(gateway)
    waiting.send(b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n")
    upstream.wait_requests(1)
    switch(gateway, rig, None)
    assert rig.connect(gateway).request("GET", "/b").status == 503
    may_respond.set()
    assert waiting.read_response("GET").body == b"late"


@needs("nginx")
def test_an_exported_nginx_has_the_pages(readable: Path) -> None:
    (readable / "404.html").write_text("not here")
    (readable / "5xx.html").write_text("later")
    errors = {"404": str(readable / "404.html"), "5xx": str(readable / "5xx.html")}
    routes = [
        {"path": "/up", "service": "u", "methods": ["GET"]},
        {"path": "/up", "service": "v", "methods": ["POST"]},
    ]
    deployment = deployment_of({"u": CLOSED, "v": CLOSED}, routes, errors=errors)
    with serving_nginx(deployment) as nginx, nginx.connect() as client:
        for method, target, status, body in (
            ("GET", "/nothing", 404, b"not here"),
            ("GET", "/up", 502, b"later"),
            ("POST", "/up", 502, b"later"),
        ):
            found = client.request(method, target, ("Accept", BROWSER))
            assert (found.status, found.body) == (status, body), (method, target)
            assert client.request(method, target, ("Accept", "*/*")).status == status
