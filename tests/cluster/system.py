"""The shop as a cluster on one machine: nginx, three gateways, the services, PostgreSQL and Redis, all as processes."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from passerelle.appserver import main as appserver
from passerelle.system import ports
from shopkit import accounts, database, roles
from shopkit.prepare import prepare
from tests.caching.redis_server import RedisServer
from tests.examples.conftest import SHOP
from tests.export.serving import Nginx
from tests.supervisor.up import Up, command, invoke
from tests.support.postgresql import PostgresServer

LIMIT = 30.0  # seconds, for all waits: the machine may be busy
CUSTOMER, ADMIN, PASSWORD = "user_1", "user_2", "correct horse"
HOUR = 12  # requests of each client per hour on /limited
# Each service and the addresses of its instances.
INSTANCES = {"user": ("127.0.1.1",), "product": ("127.0.1.2", "127.0.1.3")}


class Instance:
    """Process of one instance of a service on its own address, with its own variables alone."""

    def __init__(self, service: str, host: str, env: dict[str, str], log: Path) -> None:
        self.host = host
        self.port = free_port_of(host)
        self._app = f"{service}s:app"
        self._env = {name: value for name, value in os.environ.items() if not name.endswith("_URL")} | env
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Start the process, without waiting."""
        words = appserver.command(self._app, self.host, self.port)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(words, cwd=SHOP, env=self._env, stdout=log, stderr=log)

    def is_healthy(self) -> bool:
        """Return whether the instance can use its database."""
        assert self._process is not None and self._process.poll() is None, self._log.read_text()
        try:
            return request(self.host, self.port, "GET", "/healthz")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End the process in order."""
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(LIMIT) == 0, self._log.read_text()
            self._process = None

    def restart(self) -> None:
        """Replace the process, and wait until the new one is healthy."""
        self.stop()
        self.start()
        wait(self.is_healthy, "the instance is healthy")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class GatewayProcess:
    """Process of a gateway, which can be killed and started again on the same port."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.port = ports.free()
        self._folder, self._env = folder, env
        self._stack = ExitStack()
        self._up: Up | None = None

    @property
    def admin(self) -> str:
        """Address of the admin port."""
        assert self._up is not None
        return f"127.0.0.1:{self._up.admin}"

    @property
    def log(self) -> str:
        assert self._up is not None
        return self._up.text

    def start(self) -> None:
        options = ("gateway.yaml", "--listen", f"127.0.0.1:{self.port}", "--admin", "127.0.0.1:0")
        self._up = self._stack.enter_context(command(self._folder, "gateway", *options, env=self._env))

    def wait(self) -> None:
        """Wait until the gateway serves and uses Redis for everything."""
        assert self._up is not None
        self._up.says("listening on", LIMIT)
        self._up.listening()
        wait(self.uses_redis, "the gateway uses Redis")

    def uses_redis(self) -> bool:
        """Return whether the cache and the limits are shared."""
        assert self._up is not None
        connected = b"\npasserelle_cache_redis_connected 1" in self._up.get("/metrics", self._up.admin)[1]
        # A session that does not exist is 401 if Redis has been asked, else 503.
        return (
            connected and request("127.0.0.1", self.port, "GET", "/user/1", {"Cookie": f"session={'x' * 43}"})[0] == 401
        )

    def sees_all(self, service: str) -> bool:
        """Return whether the gateway forwards requests to every instance of ``service``."""
        assert self._up is not None
        return {instance["state"] for instance in self._up.instances(service)} == {"up"}

    def kill(self) -> None:
        """End the process at once."""
        self._stack.close()
        self._up = None


class ShopCluster:
    """The whole system; ``folder`` has its configuration and logs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        self.redis = stack.enter_context(RedisServer("--appendonly", "yes", "--appendfsync", "always"))
        self.postgresql = PostgresServer()
        stack.callback(self.postgresql.close)
        urls = self._databases()
        self.instances = {
            service: [
                Instance(
                    service, host, {f"{service.upper()}S_DATABASE_URL": urls[service]}, self._folder / f"{host}.log"
                )
                for host in hosts
            ]
            for service, hosts in INSTANCES.items()
        }
        self.gateways = [GatewayProcess(self._folder, {"GATEWAY_REDIS_URL": self.redis.url, "SESSION_STORE": "redis"})]
        self.gateways += [GatewayProcess(self._folder, self.gateways[0]._env) for _ in range(2)]
        (self._folder / "gateway.yaml").write_text(yaml.safe_dump(self._config()))
        for instance in self.every_instance:
            stack.callback(instance.kill)
            instance.start()
        for gateway in self.gateways:
            stack.callback(gateway.kill)
            gateway.start()
        for instance in self.every_instance:
            wait(instance.is_healthy, "the instance is healthy")
        for gateway in self.gateways:
            gateway.wait()
        self.nginx = stack.enter_context(self._nginx())

    @property
    def every_instance(self) -> list[Instance]:
        return [instance for instances in self.instances.values() for instance in instances]

    def _databases(self) -> dict[str, str]:
        """Create a role and a database for each service, and fill them; return their URLs."""
        host = f"127.0.0.1:{self.postgresql.port}"
        urls = {service: f"postgresql+psycopg://{service}s:of-{service}@{host}/{service}s" for service in INSTANCES}
        wanted = [roles.Need(f"{service}s", len(hosts) + 1, 4) for service, hosts in INSTANCES.items()]
        roles.apply(self.postgresql.conninfo(), {f"{s}s": roles.make_url(url) for s, url in urls.items()}, wanted)
        for service, url in urls.items():
            prepare(f"{service}s", url)
        engine = database.connect(urls["user"])
        for name, role in ((CUSTOMER, "customer"), (ADMIN, "admin")):
            assert accounts.give(engine, name, PASSWORD, role)
        engine.dispose()
        return urls

    def _config(self) -> dict[str, Any]:
        """Return gateway-secure.yaml with the addresses of the services, and with routes that have limits."""
        config: dict[str, Any] = yaml.safe_load((SHOP / "gateway-secure.yaml").read_text("utf-8"))
        config |= {"trusted_proxies": ["127.0.0.1"], "access_log": "off"}
        for name, instances in self.instances.items():
            health = config["services"][name]["health"]
            config["services"][name] = {"targets": [instance.url for instance in instances], "health": health}
            # An instance that was away for a moment is used again soon.
            config["services"][name]["eject"] = {"time": "1s"}
        few = {"rate": f"{HOUR}/h", "by": "header:X-Client"}
        many = {"rate": "100000/s", "by": "address"}
        product = {"service": "product", "methods": ["GET"]}
        config["routes"] += [
            {"path": "/limited", "rewrite": "/healthz", "rate_limit": few, **product},
            {"path": "/counted/{product_id}", "rewrite": "/product/{product_id}", "rate_limit": many, **product},
        ]
        return config

    def _nginx(self) -> Nginx:
        """Return nginx with the configuration that ``passerelle export`` writes."""
        port = ports.free()
        gateways = ",".join(f"127.0.0.1:{gateway.port}" for gateway in self.gateways)
        options = ("--gateways", gateways, "--listen", f"127.0.0.1:{port}")
        code, text = invoke(self._folder, "export", "nginx", "gateway.yaml", *options, env=self.gateways[0]._env)
        assert code == 0, text
        return Nginx(text, port)

    def purge(self, gateway: GatewayProcess, *options: str) -> None:
        """Purge stored responses by the command, on one gateway."""
        code, text = invoke(self._folder, "cache", "purge", "--admin", gateway.admin, *options)
        assert code == 0, text


def wait(condition: Callable[[], object], what: str) -> None:
    """Wait until ``condition`` is true; most conditions are requests, so they are not evaluated all the time."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"not within {LIMIT} s: {what}"
        time.sleep(0.1)


def request(
    host: str, port: int, method: str, path: str, fields: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send one request on its own connection."""
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT)
    try:
        connection.request(method, path, headers=fields or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def free_port_of(host: str) -> int:
    """Return a port that is free now on an address."""
    with socket.socket() as found:
        found.bind((host, 0))
        port: int = found.getsockname()[1]
        return port
