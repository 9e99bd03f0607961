"""nginx with the exported configuration serves the shop: 200 requests get the responses of the gateway."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from passerelle.system import ports
from tests.conformance.conftest import loop, rig
from tests.examples.conftest import Applications, applications
from tests.examples.test_behind_gateway import NAMES, serving
from tests.export.serving import EXAMPLES, Nginx, deployment_of, in_place
from tests.requirements import needs
from tests.support.client import Client
from tests.support.gateways import Rig

__all__ = ["applications", "loop", "rig"]

pytestmark = needs("nginx")

PATHS = (
    *(f"/{name}" for name in ("user", "product", "user/", "", "users", "User", "user?limit=3&offset=2")),
    *("/product?limit=2", "/product?limit=x", "/user?limit=-1", "/user/0", "/user/x", "/user/%31", "/user/1?x=%2F"),
    *(f"/{kind}/{number}" for kind in ("user", "product") for number in range(1, 12)),
    *("/user/1/2", "/product/1/", "/user/a%20b", "/product/%C3%A9", "/healthz", "/user/99999999999999999999"),
)
METHODS = ("GET", "HEAD", "OPTIONS", "PATCH", "PROPFIND")
# nginx has its own body for these, the gateway a problem document: no service was involved.
OWN = {"/", "/user/", "/users", "/User", "/user/1/2", "/product/1/", "/healthz"}
COMPARED = ("Content-Type", "Content-Length", "ETag", "Last-Modified", "Location", "Allow", "Cache-Control", "Vary")


@pytest.fixture
def shop(rig: Rig, applications: Applications, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Serve the shop behind the gateway and behind nginx; return their ports."""
    config = yaml.safe_load((EXAMPLES / "shop" / "gateway.yaml").read_text())
    with ExitStack() as stack:
        services = {}
        for service, name in NAMES.items():
            client = applications.client(name, "sqlite", lambda name=name: f"sqlite:///{tmp_path / name}.db")
            services[service] = {"targets": [stack.enter_context(serving(client.application))]}
        gateway = rig.gateway(services, config["routes"])
        port = ports.free()
        nginx = stack.enter_context(Nginx(in_place(deployment_of(services, config["routes"]), port)[0], port))
        for number in range(1, 11):
            send(gateway.port, "POST", "/user", {"username": f"u{number}", "email": f"u{number}@example.com"})
            send(gateway.port, "POST", "/product", {"name": f"Thé {number}", "price": number + 0.5})
        yield gateway.port, nginx.port


def send(port: int, method: str, path: str, body: object = None) -> tuple[int, bytes, list[list[bytes]]]:
    """Send a request; return the status, the body, and the fields that are compared."""
    content = None if body is None else json.dumps(body).encode()
    fields = () if body is None else (("Content-Type", "application/json"),)
    with Client(port) as client:
        response = client.request(method, path, *fields, body=content)
    return response.status, response.body, [response.all(name) for name in COMPARED]


def test_two_hundred_requests_get_the_responses_of_the_gateway(shop: tuple[int, int]) -> None:
    gateway, nginx = shop
    requests = list(itertools.product(METHODS, PATHS))[:200]
    assert len(requests) == 200
    statuses = set()
    for method, path in requests:
        expected, found = send(gateway, method, path), send(nginx, method, path)
        statuses.add(expected[0])
        if path in OWN:
            assert found[0] == expected[0], (method, path)
        else:
            assert found == expected, (method, path)
    assert statuses >= {200, 404, 405}


def test_what_one_writes_the_other_reads(shop: tuple[int, int]) -> None:
    gateway, nginx = shop
    created = send(nginx, "POST", "/user", {"username": "ada", "email": "ada@example.com"})
    assert created[0] == 201
    path = created[2][COMPARED.index("Location")][0].decode()
    path = "/" + path.split("/", 3)[-1] if "://" in path else path
    assert send(gateway, "GET", path)[1] == created[1]
    assert send(nginx, "POST", "/user", {"username": ""})[:2] == send(gateway, "POST", "/user", {"username": ""})[:2]
    assert send(nginx, "DELETE", path)[0] == 204


def test_the_composed_route_is_closed(shop: tuple[int, int]) -> None:
    gateway, nginx = shop
    assert send(gateway, "GET", "/api/1/1")[0] == 200
    assert send(nginx, "GET", "/api/1/1")[0] == 501
    assert send(nginx, "POST", "/api/1/1")[0] == 405
