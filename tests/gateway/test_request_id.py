"""The id of a request: one for client, service, log and problem details; sent to clients where that is configured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, head
from tests.support.gateways import Rig, Running
from tests.support.upstream import Upstream, answering, ok
from tests.support.wire import Response, wait_until

JSON = b"Content-Type: application/json"
OWN = b"x-request-ID: of-the-service"
TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}
SHOWN = {"request_id_in_responses": True}


class Site:
    """A gateway with a plain, a cached, a compressing, a composed and a cross-origin route, and an access log."""

    def __init__(self, rig: Rig, folder: Path, *fields: bytes, **settings: Any) -> None:
        body = json.dumps(list(range(500))).encode()
        self.upstream: Upstream = rig.upstream(answering(ok(body, JSON, b"Cache-Control: max-age=60", *fields)))
        compose = {"a": {"service": "u", "path": "/a"}, "b": {"service": "u", "path": "/b"}}
        routes: list[dict[str, Any]] = [
            {"path": "/plain/{rest*}", "service": "u"},
            {"path": "/cached", "service": "u", "cache": {}},
            {"path": "/compressed", "service": "u", "cache": {}, "compress": True},
            {"path": "/composed", "compose": compose},
            {"path": "/stored", "compose": compose, "cache": {}},
            {"path": "/cors", "service": "u", "cors": {"origins": ["https://a.example"]}},
        ]
        self.log = folder / "access.log"
        settings["access_log"] = str(self.log)
        self.gateway: Running = rig.gateway({"u": {"targets": [self.upstream.url]}}, routes, **settings)
        self.client: Client = rig.connect(self.gateway)

    def get(self, target: str, *fields: tuple[str, str], method: str = "GET") -> Response:
        return self.client.request(method, target, *fields)

    def logged(self, count: int) -> list[dict[str, Any]]:
        """Return the lines of the log once there are ``count``."""
        wait_until(lambda: self.log.exists() and self.log.read_bytes().count(b"\n") >= count, "lines in the log")
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.mark.parametrize("own", [(), (OWN,), (OWN, b"X-Request-Id: twice")], ids=["none", "one", "two"])
def test_every_response_has_the_id_that_the_log_has(rig: Rig, tmp_path: Path, own: tuple[bytes, ...]) -> None:
    site = Site(rig, tmp_path, *own, **SHOWN)
    preflight = (("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET"))
    answers = [
        *(site.get("/plain/x", method=method) for method in ("GET", "HEAD", "DELETE")),
        *(site.get("/cached") for _ in range(3)),
        site.get("/cached", ("If-None-Match", "*")),
        site.get("/cached", ("Range", "bytes=0-1")),
        site.get("/cached", method="HEAD"),
        *(site.get("/compressed", ("Accept-Encoding", "gzip")) for _ in range(2)),
        *(site.get("/composed") for _ in range(2)),
        *(site.get("/stored") for _ in range(2)),
        site.get("/cors", *preflight, method="OPTIONS"),
        site.get("/none"),
    ]
    shown = [answer.all("x-request-id") for answer in answers]
    assert all(len(ids) == 1 for ids in shown)
    assert [ids[0].decode() for ids in shown] == [line["request_id"] for line in site.logged(len(answers))]
    assert len({ids[0] for ids in shown}) == len(answers)
    assert json.loads(answers[-1].body)["request_id"].encode() == shown[-1][0]
    assert site.upstream.requests[0].all("x-request-id") == shown[0]


def test_without_the_setting_only_errors_of_the_gateway_have_it(rig: Rig, tmp_path: Path) -> None:
    site = Site(rig, tmp_path)
    for target in ("/plain/x", "/cached", "/cached", "/composed", "/stored", "/stored"):
        assert site.get(target).all("x-request-id") == []
    assert len(site.get("/none").all("x-request-id")) == 1
    other = Site(rig, tmp_path, OWN)
    assert other.get("/plain/x").all("x-request-id") == [b"of-the-service"]


@pytest.mark.parametrize("target", ["/plain/x", "/cached", "/composed", "/stored", "/none"])
def test_the_id_of_a_trusted_proxy_is_kept(rig: Rig, tmp_path: Path, target: str) -> None:
    site = Site(rig, tmp_path, **TRUSTED, **SHOWN)
    for given in ("0af7651916cd43dd-8448eb211c80319c", "A.b_c~d:e/f+g=h@i", "x" * 128):
        answer = site.get(target, ("X-Request-Id", given))
        assert answer.all("x-request-id") == [given.encode()]
    assert [line["request_id"] for line in site.logged(3)] == [
        "0af7651916cd43dd-8448eb211c80319c",
        "A.b_c~d:e/f+g=h@i",
        "x" * 128,
    ]
    if target != "/none":
        assert {b"0af7651916cd43dd-8448eb211c80319c"} <= {
            value for request in site.upstream.requests for value in request.all("x-request-id")
        }
        assert all(len(request.all("x-request-id")) == 1 for request in site.upstream.requests)


INVALID = ["", "x" * 129, "a b", 'a"b', "a\\b", "<script>", "a,b", "é", "{a}", "%0d"]


@pytest.mark.parametrize("given", INVALID)
def test_an_invalid_id_is_replaced(rig: Rig, tmp_path: Path, given: str) -> None:
    site = Site(rig, tmp_path, **TRUSTED, **SHOWN)
    (shown,) = site.get("/plain/x", ("X-Request-Id", given)).all("x-request-id")
    assert shown and shown != given.encode("latin-1")
    assert site.upstream.requests[0].all("x-request-id") == [shown]


def test_two_ids_are_replaced(rig: Rig, tmp_path: Path) -> None:
    site = Site(rig, tmp_path, **TRUSTED, **SHOWN)
    (shown,) = site.get("/plain/x", ("X-Request-Id", "a"), ("x-request-id", "b")).all("x-request-id")
    assert shown not in (b"a", b"b")


@pytest.mark.parametrize("settings", [{}, {"trusted_proxies": ["192.0.2.0/24"]}])
def test_a_client_chooses_no_id(rig: Rig, tmp_path: Path, settings: dict[str, Any]) -> None:
    site = Site(rig, tmp_path, **settings, **SHOWN)
    for target in ("/plain/x", "/cached", "/cached"):
        (shown,) = site.get(target, ("X-Request-Id", "chosen")).all("x-request-id")
        assert shown != b"chosen"
    assert all(b"chosen" not in request.all("x-request-id") for request in site.upstream.requests)


def test_a_reload_changes_both_settings(rig: Rig, tmp_path: Path) -> None:
    upstream = rig.upstream(answering(ok()))
    services, routes = {"u": {"targets": [upstream.url]}}, [{"path": "/{rest*}", "service": "u"}]
    gateway = rig.gateway(services, routes)
    client = rig.connect(gateway)
    given = ("X-Request-Id", "given")
    assert client.request("GET", "/", given).all("x-request-id") == []
    gateway.reload(services, routes, **TRUSTED, **SHOWN)
    assert client.request("GET", "/", given).all("x-request-id") == [b"given"]
    gateway.reload(services, routes, **SHOWN)
    assert client.request("GET", "/", given).all("x-request-id") not in ([], [b"given"])
    gateway.reload(services, routes)
    assert client.request("GET", "/", given).all("x-request-id") == []


def test_a_malformed_request_gets_an_id_of_its_own(rig: Rig, tmp_path: Path) -> None:
    site = Site(rig, tmp_path, **TRUSTED, **SHOWN)
    site.client.send(head("GET", "/plain/x", ("X-Request-Id", "given"), ("Content-Length", "+1")))
    (shown,) = site.client.read_response().all("x-request-id")
    assert shown != b"given"
