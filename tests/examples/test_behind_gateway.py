"""Responses of the shop behind its gateway are as the OpenAPI document of the gateway has them, errors included."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from tests.caching.redis_server import RedisServer
from tests.conformance.conftest import loop, rig
from tests.examples.conftest import SHOP, Applications
from tests.examples.test_openapi import BODIES, Node, Received, conforms, paths
from tests.requirements import needs
from tests.support.gateways import Rig, Running
from tests.support.wire import wait_until

__all__ = ["loop", "rig"]

PROBLEM = Node("common.yaml", "/components/responses/Problem")
GATEWAY = yaml.safe_load((SHOP / "gateway.yaml").read_text())
NAMES = {"user": "users", "product": "products"}


@contextmanager
def serving(application: Flask) -> Iterator[str]:
    """Serve ``application`` on a free port, and return its URL."""
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Shop:
    """The routes of the shop's gateway.yaml in front of both services, with one user and one product."""

    def __init__(self, rig: Rig, clients: Callable[[str], FlaskClient], redis: str) -> None:
        self._servers = {name: ExitStack() for name in NAMES}
        targets = {}
        for service, name in NAMES.items():
            application = clients(name).application
            targets[service] = {"targets": [self._servers[service].enter_context(serving(application))]}
        routes = GATEWAY["routes"]
        self.gateway: Running = rig.gateway(targets, routes, redis=redis, request_id_in_responses=True)
        for path, body in BODIES.items():
            assert self.send("post", path, json=body).status_code == 201

    def stop(self, service: str) -> None:
        """Stop the server of ``service``."""
        self._servers[service].close()

    def close(self) -> None:
        for service in NAMES:
            self.stop(service)

    def send(self, method: str, target: str, json: object = None, **fields: str) -> Received:
        """Send a request, and validate its response against the operation of the document, if there is one."""
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        body = None
        if json is not None:
            body, headers["Content-Type"] = dumps(json), "application/json"
        connection = HTTPConnection("127.0.0.1", self.gateway.port, timeout=20)
        try:
            connection.request(method.upper(), target, body, headers)
            answer = connection.getresponse()
            received = Received(answer.status, answer.headers, answer.read())
        finally:
            connection.close()
        operation = operation_of(method, target)
        if operation is None:
            check(PROBLEM, received, method)
        elif str(received.status_code) not in operation["responses"]:
            check(operation["responses"]["default"], received, method)
        else:
            conforms(operation, received, method)
        return received

    def problem(self, method: str, target: str, status: int, kind: str | None, **options: Any) -> None:
        """Send a request that the gateway refuses with ``kind``; None: that a service refuses."""
        received = self.send(method, target, **options)
        document = json.loads(received.data)
        assert (received.status_code, document.get("kind")) == (status, kind)
        check(PROBLEM, received, method)


def dumps(value: object) -> bytes:
    return json.dumps(value).encode()


def operation_of(method: str, target: str) -> Node | None:
    """Return the documented operation of a request, or None."""
    segments = target.partition("?")[0].split("/")
    for path in paths("gateway"):
        pattern = path.split("/")
        if len(pattern) == len(segments) and all(
            p == s or p.startswith("{") for p, s in zip(pattern, segments, strict=True)
        ):
            item = paths("gateway")[path]
            return item["get" if method == "head" else method] if method in (*item, "head") else None
    return None


def check(documented: Node, received: Received, method: str) -> None:
    assert received.headers.get("Cache-Control") == "no-store"
    assert received.content_type == "application/problem+json"
    if method != "head":
        documented["content"]["application/problem+json"]["schema"].check(json.loads(received.data))


REAL = pytest.param("postgresql", marks=needs("initdb", "postgres", "redis-server"))


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["sqlite", REAL])
def shop(
    request: pytest.FixtureRequest, rig: Rig, applications: Applications, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """Serve the shop on SQLite alone, and on PostgreSQL with Redis."""
    if request.param == "sqlite":
        url = "off"

        def new_database() -> str:
            return f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.db'}"
    else:
        server = request.getfixturevalue("redis")
        server.forget()
        url, new_database = server.url, request.getfixturevalue("cluster").create_database
    made = Shop(rig, lambda name: applications.client(name, request.param, new_database), url)
    if request.param == "postgresql":
        wait_until(lambda: made.gateway.snapshot()["cache"]["redis"]["connected"], "Redis is in use")
    yield made
    made.close()


def test_the_document_has_the_routes_of_the_gateway_and_no_other() -> None:
    assert set(paths("gateway")) == {route["path"] for route in GATEWAY["routes"]}


def test_responses_of_services_and_cache_are_as_documented(shop: Shop) -> None:
    for target in ("/user/1", "/product/1", "/api/1/1", "/user", "/product"):
        for method in ("get", "get", "head"):
            whole = shop.send(method, target)
            assert whole.status_code == 200
        assert shop.send("get", target, If_None_Match=whole.headers["ETag"]).status_code == 304
    for path, body in BODIES.items():
        shop.problem("post", path, 422, None, json={})
        shop.problem("post", path, 415, None)
        shop.problem("get", f"{path}?limit=x", 422, None)
        shop.problem("get", f"{path}/999", 404, None)
        assert shop.send("put", f"{path}/1", json=body).status_code == 200
    shop.problem("get", "/api/1/999", 404, None)
    shop.problem("post", "/user", 409, None, json=BODIES["/user"])
    for path in BODIES:
        assert shop.send("delete", f"{path}/1").status_code == 204
        shop.problem("get", f"{path}/1", 404, None)
    shop.problem("get", "/api/1/1", 404, None)


def test_errors_of_the_gateway_are_as_documented(shop: Shop) -> None:
    shop.problem("get", "/healthz", 404, "no_route")
    shop.problem("post", "/internal/verify", 404, "no_route", json={})
    shop.problem("delete", "/api/1/1", 405, "method_not_allowed")
    shop.problem("get", "/user/..;/x", 400, "bad_path")
    shop.problem("get", "/user/1", 504, "not_cached", Cache_Control="only-if-cached")
    shop.problem("get", "/user", 431, "head_too_large", X_Long="x" * 70_000)
    shop.problem("get", "/user", 417, "expectation_failed", Expect="tea")
    shop.problem("post", "/user", 413, "body_too_large", Content_Length=str(100 * 1024 * 1024))
    shop.problem("trace", "/user", 501, "method_unknown")
    assert shop.send("head", "/healthz").status_code == 404


def test_errors_of_a_service_that_is_gone_are_as_documented(shop: Shop) -> None:
    shop.stop("product")
    shop.problem("get", "/product/1", 502, "connect_failed")
    shop.problem("get", "/product", 502, "connect_failed")
    shop.problem("post", "/product", 502, "connect_failed", json=BODIES["/product"])
    shop.problem("get", "/api/1/1", 502, "part_failed")
    assert shop.send("get", "/user/1").status_code == 200
