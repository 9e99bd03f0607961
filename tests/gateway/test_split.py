"""Splits of the users of a route between services: who receives what, and what else knows of the sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.client import head
from tests.support.gateways import Rig
from tests.support.upstream import Connection, Script, answering, ok

BY_HEADER = {"by": "header:X-User"}


class Split:
    """A gateway with a split route, and its two services."""

    def __init__(
        self,
        rig: Rig,
        users: int = 500,
        old: Script | None = None,
        new: Script | None = None,
        route: dict[str, Any] | None = None,
        top: dict[str, Any] | None = None,
        **split: Any,
    ) -> None:
        self.old = rig.upstream(old or answering(ok(b"old")))
        self.new = rig.upstream(new or answering(ok(b"new")))
        self.services = {"old": {"targets": [self.old.url]}, "new": {"targets": [self.new.url]}}
        settings = {"weights": {"new": users}, **(split or BY_HEADER)}
        self.routes = [{"path": "/{rest*}", "service": "old", "split": settings, **(route or {})}]
        self.running = rig.gateway(self.services, self.routes, **(top or {}))
        self.client = rig.connect(self.running)
        self.rig = rig

    def get(self, user: str = "", path: str = "/a", *fields: tuple[str, str]) -> bytes:
        """Return the body that ``user`` receives."""
        named = (("X-User", user),) if user else ()
        answer = self.client.request("GET", path, *named, *fields)
        assert answer.status == 200, answer
        return answer.body

    def weigh(self, users: int, slow_after: float | None = None) -> None:
        """Change the weights at run time."""
        settings = {"/{rest*}": {"weights": {"old": 1000 - users, "new": users}, "slow_after": slow_after}}
        self.rig.loop.call(lambda: self.running.gateway.set_splits(settings))

    def counts(self, side: str, route: str = "/{rest*}") -> dict[str, int]:
        found = dict(self.running.snapshot()["splits"][route][side])
        latency = found.pop("latency")
        assert sum(latency) <= found["requests"]
        return found

    def users(self) -> tuple[str, str]:
        """Return a user of the old side, and one of the new side."""
        sides = {self.get(f"u{number}"): f"u{number}" for number in range(40)}
        return sides[b"old"], sides[b"new"]


def counts(requests: int = 0, failed: int = 0, failed_users: int = 0, slow_users: int = 0) -> dict[str, int]:
    return {"requests": requests, "failed": failed, "failed_users": failed_users, "slow_users": slow_users}


# ---- who is on which side


def test_a_user_stays_on_a_side_and_moves_to_the_new_one_alone_as_its_share_grows(rig: Rig) -> None:
    split = Split(rig, 0)
    users = [f"u{number}" for number in range(60)]
    before: set[str] = set()
    for share in (0, 100, 500, 1000):
        split.weigh(share)
        now = {user for user in users if split.get(user) == b"new"}
        assert now == {user for user in users if split.get(user) == b"new"}
        assert before <= now
        assert share in (0, 1000) or 0 < len(now) < len(users)
        before = now
    assert before == set(users)
    split.weigh(0)
    assert {split.get(user) for user in users} == {b"old"}


def test_three_gateways_and_one_that_was_restarted_agree_on_the_side_of_each_user(rig: Rig) -> None:
    split = Split(rig, 300)
    gateways = [split.running, *(rig.gateway(split.services, split.routes) for _ in range(3))]
    clients = [rig.connect(each) for each in gateways]
    for number in range(40):
        answers = {client.request("GET", "/", ("X-User", f"u{number}")).body for client in clients}
        assert len(answers) == 1
    assert split.old.requests
    assert split.new.requests


def test_a_reload_keeps_the_side_of_each_user_and_another_salt_moves_other_users_first(rig: Rig) -> None:
    split = Split(rig, 300)
    users = [f"u{number}" for number in range(40)]
    before = {user: split.get(user) for user in users}
    split.running.reload(split.services, split.routes)
    assert {user: split.get(user) for user in users} == before
    salted = {**split.routes[0], "split": {**split.routes[0]["split"], "salt": "another"}}
    split.running.reload(split.services, [salted])
    assert {user: split.get(user) for user in users} != before


@pytest.mark.parametrize(
    ("by", "field"),
    [("header:X-User", lambda user: ("X-User", user)), ("cookie:id", lambda user: ("Cookie", f"a=b; id={user}"))],
)
def test_a_user_is_what_the_configuration_states(rig: Rig, by: str, field: Callable[[str], tuple[str, str]]) -> None:
    split = Split(rig, by=by)
    found = {split.get("", "/", field(f"u{number}")) for number in range(40)}
    assert found == {b"old", b"new"}
    # Without it, the address counts: the same side for all requests.
    assert len({split.get("", f"/{number}") for number in range(5)}) == 1


def test_addresses_of_trusted_proxies_count_and_ipv6_addresses_count_by_network(rig: Rig) -> None:
    split = Split(rig, by="address", top={"trusted_proxies": ["127.0.0.1"]})

    def side(address: str) -> bytes:
        return split.get("", "/", ("X-Forwarded-For", address))

    assert {side(f"192.0.2.{number}") for number in range(40)} == {b"old", b"new"}
    for number in range(10):
        assert len({side(f"2001:db8:0:{number}::{last}") for last in range(1, 4)}) == 1


def key_store(folder: Any, consumers: list[str]) -> tuple[str, dict[str, str]]:
    """Create API keys; return the path of their store, and the keys by consumer."""
    from passerelle.security.credentials.key_store import KeyStore

    store = KeyStore(folder / "keys.db")
    made = {name: store.create(name, (), None)[1] for name in consumers}
    return str(folder / "keys.db"), made


# ---- the override


def test_testers_choose_their_side_by_header_or_cookie_and_others_do_not(rig: Rig) -> None:
    override = {"header": "X-Side", "cookie": "side", "clients": ["192.0.2.0/24"]}
    split = Split(rig, 0, override=override, **BY_HEADER, top={"trusted_proxies": ["127.0.0.1"]})
    tester, other = ("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-For", "198.51.100.7")
    assert split.get("", "/", tester) == b"old"
    assert split.get("", "/", tester, ("X-Side", "new")) == b"new"
    assert split.get("", "/", tester, ("Cookie", "side=new")) == b"new"
    assert split.get("", "/", tester, ("X-Side", "old"), ("Cookie", "side=new")) == b"old"
    assert split.get("", "/", tester, ("X-Side", "nowhere")) == b"old"
    assert split.get("", "/", other, ("X-Side", "new")) == b"old"


# ---- bodies, retries, tunnels


def test_a_body_reaches_the_side_of_its_user(rig: Rig) -> None:
    split = Split(rig, 1000)
    assert split.client.request("POST", "/", ("X-User", "u"), body=b"x" * 70_000).body == b"new"
    expecting = head("POST", "/", ("Expect", "100-continue"), length=3)
    split.client.send(expecting)
    assert split.client.read_response(stop_at_100=True).status == 100
    split.client.send(b"abc")
    assert split.client.read_response().status == 200
    assert [len(request.body) for request in split.new.requests] == [70_000, 3]
    assert not split.old.requests


def test_a_body_that_is_too_large_is_refused(rig: Rig) -> None:
    split = Split(rig, 1000, route={"body": "1 KiB"})
    assert split.client.request("POST", "/", body=b"x" * 2000).status == 413


def test_a_retry_stays_on_its_side(rig: Rig) -> None:
    def closes_once(conn: Connection) -> None:
        conn.read_request()
        if conn.index == 0:
            conn.close()
        else:
            conn.send(ok(b"new"))

    split = Split(rig, 1000, new=closes_once)
    assert split.get("u") == b"new"
    assert len(split.new.requests) == 2
    assert not split.old.requests
    assert split.counts("new") == counts(1)


def test_websockets_reach_the_side_of_their_user(rig: Rig) -> None:
    def switches(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello")
        conn.exactly(3)
        conn.send(b"bye")

    split = Split(rig, 1000, new=switches)
    split.client.send(head("GET", "/ws", ("Upgrade", "x"), ("Connection", "Upgrade")))
    assert split.client.read_response(stop_at_100=True).status == 101
    assert split.client.exactly(5) == b"hello"
    split.client.send(b"abc")
    assert split.client.exactly(3) == b"bye"
    assert split.counts("new") == counts(1)
