"""The shop as processes: each application in the application server, and the gateway configuration that runs them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from passerelle.appserver import main as appserver
from passerelle.config import load
from passerelle.system import ports
from shopkit.prepare import prepare
from tests.examples.conftest import SHOP

LIMIT = 20.0  # seconds


@contextmanager
def running(app: str, **environment: str) -> Iterator[int]:
    """Run ``app`` from the shop's folder during the block; yield its port. It must exit cleanly."""
    port = ports.free()
    process = subprocess.Popen(
        appserver.command(app, "127.0.0.1", port), cwd=SHOP, env={**os.environ, **environment}, stderr=subprocess.PIPE
    )
    try:
        end = time.monotonic() + LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, process.stderr and process.stderr.read1()  # type: ignore[attr-defined]
                time.sleep(0.02)
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        _, errors = process.communicate()
        assert b"Traceback" not in errors, errors.decode()


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        response = connection.getresponse()
        text = response.read()
        return response.status, dict(response.getheaders()), json.loads(text) if text else None
    finally:
        connection.close()


class TestServices:
    def test_users(self, sqlite: str) -> None:
        prepare("users", sqlite)
        with running("users:app", USERS_DATABASE_URL=sqlite) as port:
            assert ask(port, "GET", "/healthz")[2] == {"status": "ok", "service": "users"}
            user = {"user_id": "1", "username": "user_1", "email": "user_1@example.com"}
            assert ask(port, "GET", "/user/1")[2] == user
            status, fields, _ = ask(port, "POST", "/user", {"username": "new", "email": "new@example.com"})
            assert (status, fields["Location"]) == (201, "/user/10001")
            assert ask(port, "GET", "/user/99999999999999999999")[0] == 404

    @pytest.mark.long
    def test_products_on_postgresql(self, postgresql: str) -> None:
        prepare("products", postgresql)
        with running("products:app", PRODUCTS_DATABASE_URL=postgresql) as port:
            assert ask(port, "GET", "/healthz")[0] == 200
            assert ask(port, "GET", "/product/1")[2] == {"product_id": "1", "name": "Produit_1", "price": 19.99}
            assert ask(port, "DELETE", "/product/1")[0] == 204
            assert ask(port, "GET", "/product/1")[0] == 404

    def test_monolith(self, sqlite: str) -> None:
        prepare("monolith", sqlite)
        with running("monolith:app", MONOLITH_DATABASE_URL=sqlite) as port:
            assert ask(port, "GET", "/api/1/1")[2] == {
                "user": {"user_id": "1", "username": "user_1", "email": "user_1@example.com"},
                "product": {"product_id": "1", "name": "Produit_1", "price": 19.99},
            }

    @pytest.mark.parametrize("empty", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True)
    def test_one_of_many_equal_writes_wins(self, empty: str) -> None:
        prepare("users", empty)
        with running("users:app", USERS_DATABASE_URL=empty) as port:
            statuses: list[int] = []
            together = threading.Barrier(8)

            def create() -> None:
                together.wait(LIMIT)
                statuses.append(ask(port, "POST", "/user", {"username": "one", "email": "one@example.com"})[0])

            threads = [threading.Thread(target=create) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LIMIT)
            assert sorted(statuses) == [201] + [409] * 7


class TestFoundingDesign:
    def test_its_gateway_over_its_services_gives_what_its_monolith_gives(self) -> None:
        with (
            running("founding.users:app") as users,
            running("founding.products:app") as products,
            running("founding.monolith:app") as monolith,
            running(
                "founding.gateway:app",
                USER_SERVICE_URL=f"http://127.0.0.1:{users}",
                PRODUCT_SERVICE_URL=f"http://127.0.0.1:{products}",
            ) as gateway,
        ):
            expected = {
                "user": {"user_id": "1", "username": "user_1", "email": "user_1@example.com"},
                "product": {"product_id": "7", "name": "Produit_7", "price": 19.99},
            }
            assert ask(monolith, "GET", "/api/1/7")[2] == expected
            assert ask(gateway, "GET", "/api/1/7")[2] == expected

    @pytest.mark.parametrize("name", ["users", "products", "monolith", "gateway"])
    def test_each_file_runs_by_itself(self, name: str) -> None:
        port = ports.free()
        process = subprocess.Popen(
            [sys.executable, f"founding/{name}.py"],
            cwd=SHOP,
            env={**os.environ, "PORT": str(port)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + LIMIT
            while True:
                try:
                    assert ask(port, "GET", "/")[0] == 404
                    break
                except (OSError, ValueError) as error:
                    if isinstance(error, ValueError):
                        break  # Flask's own 404 is HTML: it responds
                    assert process.poll() is None and time.monotonic() < end
                    time.sleep(0.02)
        finally:
            process.kill()
            process.wait()


class TestGatewayFile:
    def test_it_runs_five_instances_of_each_service(self) -> None:
        config = load(SHOP / "gateway.yaml")
        assert {
            name: (service.app, service.instances.min, service.instances.max)
            for name, service in config.services.items()
        } == {
            "user": ("users:app", 5, 5),
            "product": ("products:app", 5, 5),
        }

    def test_it_routes_the_resources_and_the_composed_answer(self) -> None:
        config = load(SHOP / "gateway.yaml")
        routes = {route.path: route for route in config.routes}
        assert set(routes) == {
            "/user",
            "/user/{user_id}",
            "/product",
            "/product/{product_id}",
            "/api/{user_id}/{product_id}",
        }
        composed = routes["/api/{user_id}/{product_id}"].compose
        assert composed is not None and list(composed) == ["user", "product"]
