"""Three gateways behind nginx with PostgreSQL and Redis: state is shared, and no single failure fails a request."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.chaos.load import Load
from tests.cluster.system import ADMIN, CUSTOMER, HOUR, LIMIT, PASSWORD, ShopCluster, request, wait
from tests.examples.test_logins import Browser
from tests.requirements import needs

pytestmark = [
    *(pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(180)),
    needs("initdb", "postgres", "redis-server", "nginx"),
]

# One is stored by the gateways, one needs the database, and one is counted in Redis.
PATHS = ("/product/1", "/product?limit=2", "/counted/2")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopCluster]:
    with ShopCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def browser(cluster: ShopCluster, name: str) -> Browser:
    """Log in through nginx."""
    made = Browser(cluster.nginx.port)
    assert made.login(name)[0] == 200
    return made


def at(known: Browser, port: int) -> Browser:
    """Return a browser with the same cookies that sends its requests to another port."""
    other = Browser(port)
    other.cookies = dict(known.cookies)
    return other


def test_a_limit_holds_for_all_gateways_together(cluster: ShopCluster) -> None:
    statuses = [
        request("127.0.0.1", gateway.port, "GET", "/limited", {"X-Client": "one"})[0]
        for _ in range(HOUR)
        for gateway in cluster.gateways
    ]
    assert statuses == [200] * HOUR + [429] * 2 * HOUR
    assert request("127.0.0.1", cluster.nginx.port, "GET", "/limited", {"X-Client": "one"})[0] == 429
    assert request("127.0.0.1", cluster.nginx.port, "GET", "/limited", {"X-Client": "two"})[0] == 200


def test_a_session_is_valid_and_ends_at_every_gateway(cluster: ShopCluster) -> None:
    known = browser(cluster, CUSTOMER)
    everywhere = [at(known, port) for port in (cluster.nginx.port, *(g.port for g in cluster.gateways))]
    assert [each.ask("GET", "/user/1")[2]["username"] for each in everywhere] == [CUSTOMER] * 4
    assert everywhere[2].status("POST", "/logout", **everywhere[2].token) == 204
    for each in everywhere[:2] + everywhere[3:]:
        wait(lambda each=each: each.status("GET", "/user/1") == 401, "the session is over")


def test_wrong_passwords_count_together(cluster: ShopCluster) -> None:
    ports = [cluster.gateways[number % 3].port for number in range(6)]
    assert [Browser(port).login("user_3", "wrong password")[0] for port in ports] == [401] * 5 + [429]
    assert Browser(ports[1]).login("user_3", PASSWORD)[0] == 429


def test_a_write_and_a_purge_reach_what_every_gateway_has_stored(cluster: ShopCluster) -> None:
    admin = browser(cluster, ADMIN)
    ports = [gateway.port for gateway in cluster.gateways]

    def stored() -> list[tuple[str, bool]]:
        found = [request("127.0.0.1", port, "GET", "/product/7") for port in ports]
        return [(json.loads(body)["name"], "hit" in fields["Cache-Status"]) for _, fields, body in found]

    name = "Produit_7"
    for number, gateway in enumerate(cluster.gateways):
        stored()
        wait(lambda name=name: stored() == [(name, True)] * 3, "every gateway has stored it")
        name = f"Thé {number}"
        there = at(admin, gateway.port)
        assert there.status("PUT", "/product/7", {"name": name, "price": 4.5}, **there.token) == 200
        # The gateway that forwarded the write shows it at once, the others a moment later.
        assert stored()[number][0] == name
        wait(lambda name=name: {found for found, _ in stored()} == {name}, "every gateway shows it")
    with write(cluster, "UPDATE products SET name = 'elsewhere' WHERE id = 7"):
        assert {found for found, _ in stored()} == {name}
        cluster.purge(cluster.gateways[1], "--tag", "product:7")
        wait(lambda: {found for found, _ in stored()} == {"elsewhere"}, "the purge reached all")


@contextlib.contextmanager
def write(cluster: ShopCluster, statement: str) -> Iterator[None]:
    """Change the database behind the back of the services."""
    with psycopg.connect(cluster.postgresql.conninfo("products"), autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]
        yield


def is_stored(cluster: ShopCluster, path: str) -> bool:
    """Return whether every gateway responds to ``path`` from its store."""
    found = [request("127.0.0.1", gateway.port, "GET", path) for gateway in cluster.gateways]
    return all(status == 200 and "hit" in fields["Cache-Status"] for status, fields, _ in found)


class Traffic:
    """Load through nginx on all :data:`PATHS`."""

    def __init__(self, cluster: ShopCluster, stack: contextlib.ExitStack) -> None:
        port = cluster.nginx.port
        self._loads = [stack.enter_context(Load(port, path, connections=2, pause=0.1, keep=False)) for path in PATHS]

    @property
    def failures(self) -> list[str]:
        return [failure for load in self._loads for failure in load.failures]

    @property
    def count(self) -> int:
        return sum(load.answered for load in self._loads)

    def more(self, number: int = 15) -> None:
        """Wait until each path has this many more responses."""
        goals = [load.answered + number for load in self._loads]

        def reached() -> bool:
            assert self.failures == []
            return all(load.answered >= goal for load, goal in zip(self._loads, goals, strict=True))

        wait(reached, "the load goes on")


def test_no_request_fails_while_each_part_restarts_in_turn(cluster: ShopCluster) -> None:
    known = browser(cluster, CUSTOMER)
    with contextlib.ExitStack() as stack:
        traffic = Traffic(cluster, stack)
        traffic.more()
        gateway = cluster.gateways[0]
        gateway.kill()
        traffic.more()
        gateway.start()
        gateway.wait()
        traffic.more()

        cluster.redis.stop()
        traffic.more()
        # What needs Redis and has no other place is refused, not wrong.
        assert known.status("GET", "/user/1") == 503
        cluster.redis.start()
        for gateway in cluster.gateways:
            wait(gateway.uses_redis, "the gateway uses Redis again")
        assert [at(known, gateway.port).status("GET", "/user/1") for gateway in cluster.gateways] == [200] * 3
        traffic.more()

        cluster.nginx.reload()
        traffic.more()

        for instance in cluster.instances["product"]:
            instance.restart()
            # The next one may only leave when this one receives requests again.
            wait(lambda: all(g.sees_all("product") for g in cluster.gateways), "all instances are up")
            traffic.more()
    assert traffic.failures == []
    assert traffic.count >= 7 * 15 * len(PATHS)
    assert "Traceback" not in "".join(gateway.log for gateway in cluster.gateways)


class Writer:
    """Replaces one product and creates others through nginx, again and again, until it is stopped."""

    def __init__(self, cluster: ShopCluster, product: int, known: Browser) -> None:
        self.product = product
        self.statuses: list[tuple[str, int, int]] = []  # method, number of the attempt, status
        self.faults: list[BaseException] = []
        self._browser = at(known, cluster.nginx.port)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def body(self, number: int) -> dict[str, Any]:
        """Return what attempt ``number`` writes: the name and the price belong together."""
        return {"name": f"writer {self.product} {number}", "price": float(number)}

    def _run(self) -> None:
        number = 0
        try:
            while not self._end.is_set():
                number += 1
                for method, path in (("PUT", f"/product/{self.product}"), ("POST", "/product")):
                    status = self._browser.status(method, path, self.body(number), **self._browser.token)
                    self.statuses.append((method, number, status))
        except BaseException as error:
            self.faults.append(error)

    def seen(self, *statuses: int) -> Callable[[], bool]:
        """Return a condition: one of these statuses was received after this call."""
        begin = len(self.statuses)
        return lambda: any(status in statuses for _, _, status in self.statuses[begin:])

    def stop(self) -> None:
        self._end.set()
        self._thread.join(LIMIT)
        assert not self.faults, self.faults


def test_writes_during_an_outage_of_the_database_are_503_and_not_half_done(cluster: ShopCluster) -> None:
    admin = browser(cluster, ADMIN)
    writers = [Writer(cluster, product, admin) for product in (11, 12)]
    during: list[tuple[str, int]] = []
    try:
        for writer in writers:
            wait(writer.seen(200, 201), "writes succeed")
        cluster.purge(cluster.gateways[0], "--path", "/product/15")  # so that it is fresh for the time of the outage
        wait(lambda: is_stored(cluster, "/product/15"), "every gateway has stored it")
        cluster.postgresql.stop()
        for writer in writers:
            wait(writer.seen(503), "writes are refused")
        # Begun and refused while the server was down: these cannot have had an effect.
        body = {"name": "never", "price": 1.0}
        for method, path in (("POST", "/product"), ("PUT", "/product/13"), ("DELETE", "/product/14")):
            during += [(method, admin.status(method, path, body, **admin.token)) for _ in range(4)]
        assert is_stored(cluster, "/product/15")
        cluster.postgresql.start()
        for writer in writers:
            wait(writer.seen(200, 201), "writes succeed again")
    finally:
        for writer in writers:
            writer.stop()
    assert {status for _, status in during} == {503}
    with psycopg.connect(cluster.postgresql.conninfo("products")) as connection:
        rows = connection.execute("SELECT id, name, price FROM products WHERE id <= 15 OR id > 1000").fetchall()
    found = {identity: (name, float(price)) for identity, name, price in rows}
    assert "never" not in {name for name, _ in found.values()}
    assert found[13][0] == "Produit_13" and 14 in found
    for writer in writers:
        assert {status for _, _, status in writer.statuses} == {200, 201, 503}
        whole = {number: tuple(writer.body(number).values()) for _, number, _ in writer.statuses}
        # The product has the values of one attempt, and of none before the last that was acknowledged.
        acknowledged = max(number for method, number, status in writer.statuses if (method, status) == ("PUT", 200))
        assert found[writer.product] in [values for number, values in whole.items() if number >= acknowledged]
        # What was created is complete, was created once, and what was acknowledged is there.
        own = [values for i, values in found.items() if i > 1000 and values[0].startswith(f"writer {writer.product} ")]
        assert len(own) == len(set(own)) and set(own) <= set(whole.values())
        created = {whole[number] for method, number, status in writer.statuses if (method, status) == ("POST", 201)}
        assert created <= set(own)
