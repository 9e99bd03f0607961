"""A Redis that is reached over TLS, with a password, or through Sentinel."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from redis import Redis

from passerelle.security.credentials.redis_api_keys import RedisKeyStore
from passerelle.system import ports
from tests.caching.redis_server import RedisServer
from tests.conformance.conftest import loop, rig
from tests.requirements import needs
from tests.supervisor.up import invoke
from tests.support.bad_redis import BadRedis, always, says
from tests.support.gateways import Rig, Running
from tests.support.secure import Authority
from tests.support.upstream import answering, ok
from tests.support.wire import wait_until

__all__ = ["loop", "rig"]

pytestmark = needs("redis-server")

LIMIT = 30.0  # seconds, for all waits: the machine may be busy
# Characters that have a meaning in URLs, and one beyond ASCII; then as they are written in a URL.
USER, PASSWORD, WRITTEN = "gateway", "p@s:s/w?örd#%", "p%40s%3As%2Fw%3F%C3%B6rd%23%25"
# The rights that are enough for a gateway.
RIGHTS = ("~passerelle:*", "&passerelle:*", "+@all", "-@admin", "-@dangerous")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for Redis as long as the machine needs: a response that is not stored in time is lost."""
    monkeypatch.setattr("passerelle.caching.redis.store.TIMEOUT", LIMIT)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[RedisServer]:
    """A Redis that accepts one user over TLS, with a certificate for ``localhost``."""
    certificate, key = map(str, authority.issue("redis", "localhost"))
    tls = ("--port", "0", "--tls-port", "{port}", "--tls-cert-file", certificate, "--tls-key-file", key)
    users = ("--user", USER, "on", f">{PASSWORD}", *RIGHTS, "--user", "default", "off")
    with RedisServer(*tls, "--tls-auth-clients", "no", *users) as server:
        yield server


def gateway(rig: Rig, redis: str) -> Running:
    """Start a gateway with limits, a cache and API keys in this Redis."""
    services = {"u": {"targets": [rig.upstream(answering(ok(b"fine", b"Cache-Control: max-age=60"))).url]}}
    routes = [
        {"path": "/few", "service": "u", "rate_limit": {"rate": "4/h", "by": "header:X-Client"}},
        {"path": "/cached", "service": "u", "cache": {}},
        {"path": "/key", "service": "u", "auth": ["key"]},
    ]
    return rig.gateway(services, routes, redis=redis, keys={}, cache={"namespace": "secured"})


def ask(running: Running, path: str, *fields: tuple[str, str]) -> int:
    with running.connect() as client:
        return client.request("GET", path, *fields, within=LIMIT).status


def cache(running: Running) -> dict[str, int]:
    found: dict[str, int] = running.snapshot()["cache"]["redis"]
    return found


def reasons(rig: Rig) -> str:
    return "\n".join(record.getMessage() for record in rig.log.records)


def test_two_gateways_share_everything_over_tls_with_a_password(
    rig: Rig, secured: RedisServer, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    url = f"rediss://{USER}:{WRITTEN}@localhost:{secured.port}/0"
    one, two = gateway(rig, url), gateway(rig, url)
    for running in (one, two):
        wait_until(lambda running=running: cache(running)["connected"], "the cache uses Redis", LIMIT)
    assert [ask(running, "/few", ("X-Client", "a")) for running in (one, two) * 3] == [200] * 4 + [429] * 2
    assert ask(one, "/cached") == 200
    wait_until(lambda: cache(one)["stores"] == 1, "it is stored in Redis", LIMIT)
    assert ask(two, "/cached") == 200
    assert cache(two)["hits"] == 1
    # The command uses the same connection.
    (tmp_path / "gateway.yaml").write_text(
        f"redis: {url}\nkeys: {{}}\nservices: {{u: {{targets: ['http://127.0.0.1:1']}}}}\n"
        "routes: [{path: /, service: u, auth: [key]}]\n"
    )
    code, output = invoke(tmp_path, "keys", "create", "--owner", "app")
    assert code == 0, output
    key = output.splitlines()[0]
    assert [ask(running, "/key", ("X-API-Key", key)) for running in (one, two)] == [200, 200]
    assert ask(one, "/key", ("X-API-Key", "pk_wrong")) == 401


@pytest.mark.parametrize(
    ("url", "trusted", "why"),
    [
        (f"rediss://{USER}:wrong-one@localhost", True, "WRONGPASS"),
        ("rediss://localhost", True, "NOAUTH"),
        (f"rediss://{USER}:{WRITTEN}@localhost", False, "certificate verify failed"),
        (f"rediss://{USER}:{WRITTEN}@127.0.0.1", True, "certificate verify failed"),
        (f"redis://{USER}:{WRITTEN}@localhost", True, ""),
    ],
    ids=["wrong password", "no password", "another authority", "another name", "without TLS"],
)
def test_a_redis_that_cannot_be_used_is_reported_with_the_reason(
    rig: Rig,
    secured: RedisServer,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    trusted: bool,
    why: str,
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    running = gateway(rig, f"{url}:{secured.port}/0")
    wait_until(lambda: "redis at" in reasons(rig) and "cannot reach" in reasons(rig), "both are reported", LIMIT)
    assert why in reasons(rig)
    assert not any(secret in reasons(rig) for secret in (PASSWORD, WRITTEN, "wrong-one"))
    assert cache(running)["connected"] == 0
    # Nothing fails but what is kept in Redis alone.
    assert [ask(running, path) for path in ("/few", "/cached")] == [200, 200]
    assert ask(running, "/key", ("X-API-Key", "pk_some")) in (401, 503)


class Sentinel:
    """A Sentinel that watches one master alone, and decides alone that it is down."""

    def __init__(self, name: str, master: RedisServer, folder: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]
        self._name = name
        self._file = folder / "sentinel.conf"
        self._file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {name} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 3000\n"
        )
        self._process = subprocess.Popen(
            [master.program, str(self._file), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def knows_a_replica(self) -> bool:
        with Redis(port=self.port) as client:
            return len(client.execute_command("SENTINEL", "REPLICAS", self._name)) == 1

    def __enter__(self) -> Self:
        wait_until(self._accepts, "Sentinel accepts connections", LIMIT)
        return self

    def _accepts(self) -> bool:
        with socket.socket() as found:
            return found.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()


@pytest.mark.slow
def test_the_replica_that_sentinel_promotes_takes_over_with_what_was_counted(rig: Rig, tmp_path: Path) -> None:
    with RedisServer() as master, RedisServer("--replicaof", "127.0.0.1", str(master.port)) as replica:
        with Redis(port=replica.port) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "replication", LIMIT)
        with Sentinel("shop", master, tmp_path) as sentinel:
            wait_until(sentinel.knows_a_replica, "Sentinel knows the replica", LIMIT)
            # The first Sentinel is not running.
            url = f"redis+sentinel://127.0.0.1:{ports.free()},127.0.0.1:{sentinel.port}/shop/0"
            running = gateway(rig, url)
            wait_until(lambda: cache(running)["connected"], "the cache uses Redis", LIMIT)
            with Redis(port=master.port) as client:
                key = RedisKeyStore(client).create("app", (), int(time.time()))[1]
            assert [ask(running, "/few", ("X-Client", "a")) for _ in range(5)] == [200] * 4 + [429]
            assert ask(running, "/key", ("X-API-Key", key)) == 200
            with Redis(port=master.port) as client:
                assert client.wait(1, 5000) == 1  # the replica has it all
            master.stop()
            with Redis(port=replica.port) as client:
                wait_until(lambda: client.role()[0] == b"master", "the replica is promoted", LIMIT)
                wait_until(lambda: cache(running)["connected"], "the cache uses the new master", LIMIT)
                other = RedisKeyStore(client).create("other", (), int(time.time()))[1]
            wait_until(lambda: ask(running, "/key", ("X-API-Key", other)) == 200, "keys are read from it", LIMIT)
            assert ask(running, "/key", ("X-API-Key", key)) == 200
            assert ask(running, "/few", ("X-Client", "a")) == 429


def test_a_sentinel_without_the_master_is_reported(rig: Rig, tmp_path: Path) -> None:
    with RedisServer() as master, Sentinel("shop", master, tmp_path) as sentinel:
        running = gateway(rig, f"redis+sentinel://127.0.0.1:{sentinel.port}/other")
        wait_until(lambda: "watches no master 'other'" in reasons(rig), "it is reported", LIMIT)
        assert ask(running, "/few") == 200


def test_a_replica_that_sentinel_names_is_not_used_for_limits_and_keys(rig: Rig) -> None:
    def names(server: RedisServer) -> None:
        door.misbehave(says(b"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n%05d\r\n" % server.port), always)

    with (
        RedisServer() as master,
        RedisServer("--replicaof", "127.0.0.1", str(master.port)) as replica,
        BadRedis(master.port) as door,
    ):
        names(replica)
        running = gateway(rig, f"redis+sentinel://127.0.0.1:{door.port}/shop")
        wait_until(lambda: f"127.0.0.1:{replica.port} is not the master yet" in reasons(rig), "reported", LIMIT)
        names(master)
        with Redis(port=master.port) as client:
            key = RedisKeyStore(client).create("app", (), int(time.time()))[1]
        wait_until(lambda: ask(running, "/key", ("X-API-Key", key)) == 200, "the master is used", LIMIT)


def test_a_cluster_is_reported_and_no_request_fails(rig: Rig) -> None:
    with (
        RedisServer("--cluster-enabled", "yes", "--cluster-port", str(ports.free())) as server,
        Redis(port=server.port) as client,
    ):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "the cluster is up", LIMIT)
        running = gateway(rig, server.url)
        wait_until(lambda: cache(running)["connected"], "the connection is accepted", LIMIT)
        statuses = {ask(running, "/cached") for _ in range(20)}
        # A response and its tags are in different slots, so nothing is stored.
        wait_until(lambda: "cannot reach" in reasons(rig), "it is reported", LIMIT)
        assert (statuses, cache(running)["stores"]) == ({200}, 0)
        assert ask(running, "/few") == 200
