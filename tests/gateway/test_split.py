"""Splits of the users of a route between services: who receives what, and what else knows of the sides."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from passerelle.security.credentials.api_keys import KeyStore
from passerelle.upstream import side_counts
from tests.support.client import Client, head
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, Script, Upstream, answering, ok, once
from tests.support.wire import DEADLINE, wait_until

pytestmark = pytest.mark.usefixtures("one_minute")

BY_HEADER = {"by": "header:X-User"}


@pytest.fixture
def one_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test happen within one minute, in which each user counts once."""
    monkeypatch.setattr(side_counts, "perf_counter", lambda: 60.0)


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


def test_a_user_is_the_session_of_a_browser(rig: Rig, tmp_path: Path) -> None:
    sessions = {"store": str(tmp_path / "sessions.db"), "insecure": True}
    split = Split(rig, by="session", top={"sessions": sessions})
    assert {split.get("", "/", ("Cookie", f"session=s{number}")) for number in range(40)} == {b"old", b"new"}
    assert len({split.get("", "/", ("Cookie", f"other=s{number}")) for number in range(10)}) == 1


def test_addresses_of_trusted_proxies_count_and_ipv6_addresses_count_by_network(rig: Rig) -> None:
    split = Split(rig, by="address", top={"trusted_proxies": ["127.0.0.1"]})

    def side(address: str) -> bytes:
        return split.get("", "/", ("X-Forwarded-For", address))

    assert {side(f"192.0.2.{number}") for number in range(40)} == {b"old", b"new"}
    for number in range(10):
        assert len({side(f"2001:db8:0:{number}::{last}") for last in range(1, 4)}) == 1


def test_consumers_count_and_the_gateway_checks_their_keys_first(rig: Rig, tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.db")
    keys = [store.create(f"app-{number}", (), 0, None)[1] for number in range(20)]
    auth = {"auth": ["key"], "cache": {"ttl": "60s", "identity": "shared"}}
    split = Split(rig, by="consumer", shared_cache=True, route=auth, top={"keys": {"store": str(tmp_path / "keys.db")}})
    sides = [{split.get("", f"/{key}/{page}", ("X-API-Key", key)) for page in range(2)} for key in keys]
    assert [len(side) for side in sides] == [1] * len(keys)
    assert set().union(*sides) == {b"old", b"new"}
    assert split.get("", f"/{keys[0]}/0", ("X-API-Key", keys[0])) in sides[0]
    assert len(split.old.requests) + len(split.new.requests) == 2 * len(keys)  # that was a hit
    assert split.client.request("GET", f"/{keys[0]}/0").status == 401


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


def test_testers_with_a_role_choose_their_side(rig: Rig) -> None:
    secret = "a secret of at least 32 octets, for tests"
    top = {"jwt": {"algorithms": ["HS256"], "secret": secret, "issuer": "i", "audience": ["a"]}}
    override = {"header": "X-Side", "roles": "tester"}
    split = Split(rig, 0, override=override, **BY_HEADER, route={"auth": ["jwt"]}, top=top)

    def token(**claims: Any) -> tuple[str, str]:
        claims = {"iss": "i", "aud": "a", "sub": "ada", "exp": int(time.time()) + 600, **claims}
        return "Authorization", "Bearer " + jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret))

    chosen = ("X-Side", "new")
    assert split.get("", "/", token(roles=["tester"]), chosen) == b"new"
    assert split.get("", "/", token(roles="tester"), chosen) == b"new"
    for other in (token(roles=["staff", 7, None]), token()):
        assert split.get("", "/", other, chosen) == b"old"


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


# ---- the cache


def numbered(name: str) -> Script:
    """Return a script whose responses have a number, may be stored for a minute, and name their side."""
    numbers = itertools.count(1)

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(ok(f"{name} {next(numbers)}".encode(), b"Cache-Control: max-age=60"))

    return script


class Cached(Split):
    """A split route with a cache."""

    def __init__(self, rig: Rig, users: int = 500, route: dict[str, Any] | None = None, **split: Any) -> None:
        super().__init__(rig, users, numbered("old"), numbered("new"), {"cache": {}, **(route or {})}, **split)


def test_the_sides_do_not_share_stored_responses_and_a_change_invalidates_both(rig: Rig) -> None:
    split = Cached(rig)
    sides = {split.get(f"u{number}", "/x").split()[0]: f"u{number}" for number in range(40)}
    old, new = sides[b"old"], sides[b"new"]
    assert [split.get(user, "/x") for user in (old, new, old, new)] == [b"old 1", b"new 1"] * 2
    assert split.client.request("POST", "/x", ("X-User", new), body=b"a").status == 200
    assert [split.get(user, "/x") for user in (old, new)] == [b"old 2", b"new 3"]
    assert split.client.request("PUT", "/x", ("X-User", old), body=b"a").status == 200
    assert [split.get(user, "/x") for user in (old, new)] == [b"old 4", b"new 4"]
    assert split.rig.loop.call(lambda: split.running.gateway.purge("path", "/x")) == 2
    assert split.counts("old")["requests"] == len(split.old.requests)  # hits are not counted


def test_no_user_receives_a_response_of_the_other_side_when_weights_change(rig: Rig) -> None:
    split = Cached(rig, 0)
    assert split.get("u", "/x") == split.get("u", "/x") == b"old 1"
    split.weigh(1000)
    assert split.get("u", "/x") == split.get("u", "/x") == b"new 1"
    split.weigh(0)
    assert split.get("u", "/x") == b"old 1"


def test_the_sides_share_stored_responses_if_the_configuration_states_it(rig: Rig) -> None:
    split = Cached(rig, 0, shared_cache=True, **BY_HEADER)
    assert split.get("u", "/x") == b"old 1"
    split.weigh(1000)
    assert split.get("u", "/x") == b"old 1"
    assert split.get("", "/x") == b"old 1"


def test_a_reload_that_ends_a_split_drops_what_was_stored_before_it(rig: Rig) -> None:
    split = Cached(rig, 0)
    plain = [{"path": "/{rest*}", "service": "old", "cache": {}}]
    split.running.reload(split.services, plain)
    assert split.get("", "/x") == b"old 1"
    split.running.reload(split.services, split.routes)
    assert split.client.request("POST", "/x", body=b"a").status == 200
    split.running.reload(split.services, plain)
    assert split.get("", "/x") == b"old 3"


# ---- compositions


def parts(rig: Rig, cache: dict[str, Any] | None = None, **split: Any) -> tuple[Running, Client, Upstream, Upstream]:
    """Start a gateway with a composition whose part ``user`` is split, and a plain route to the old service."""
    old, new = rig.upstream(echo_json("old")), rig.upstream(echo_json("new"))
    services = {"old": {"targets": [old.url]}, "new": {"targets": [new.url]}}
    user = {"service": "old", "path": "/user", "split": {"weights": {"new": 500}, **BY_HEADER, **split}}
    if cache is not None:
        user["cache"] = cache
    compose = {"user": user, "page": {"service": "old", "path": "/page"}}
    running = rig.gateway(services, [{"path": "/all", "compose": compose}, {"path": "/user", "service": "old"}])
    return running, rig.connect(running), old, new


def echo_json(name: str) -> Script:
    numbers = itertools.count(1)

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            body = json.dumps([name, request.target.decode(), next(numbers)]).encode()
            conn.send(ok(body, b"Content-Type: application/json", b"Cache-Control: max-age=60"))

    return script


def test_a_part_of_a_composition_is_split(rig: Rig) -> None:
    running, client, _, new = parts(rig)
    seen = {}
    for number in range(40):
        whole = json.loads(client.request("GET", "/all", ("X-User", f"u{number}")).body)
        assert whole["page"][:2] == ["old", "/page"]
        seen[f"u{number}"] = whole["user"][0]
    assert set(seen.values()) == {"old", "new"}
    assert running.snapshot()["splits"]["/all#user"]["new"]["requests"] == len(new.requests)
    settings = {"/all#user": {"weights": {"old": 0, "new": 1000}, "slow_after": None}}
    rig.loop.call(lambda: running.gateway.set_splits(settings))
    assert json.loads(client.request("GET", "/all", ("X-User", "u")).body)["user"][0] == "new"


def test_stored_parts_of_both_sides_are_apart_and_a_change_invalidates_both(rig: Rig) -> None:
    _, client, _, _ = parts(rig, cache={})

    def user(name: str) -> Any:
        return json.loads(client.request("GET", "/all", ("X-User", name)).body)["user"]

    sides = {user(f"u{number}")[0]: f"u{number}" for number in range(40)}
    before = [user(sides[side]) for side in ("old", "new")]
    assert before == [user(sides[side]) for side in ("old", "new")]
    assert client.request("POST", "/user", body=b"x").status == 200
    after = [user(sides[side]) for side in ("old", "new")]
    assert all(one[0] == two[0] and one[2] < two[2] for one, two in zip(before, after, strict=True))


# ---- what is counted


def fails(conn: Connection) -> None:
    while True:
        conn.read_request()
        conn.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")


def test_failures_count_once_for_each_user_and_minute(rig: Rig) -> None:
    split = Split(rig, 1000, new=fails, top={"trusted_proxies": ["127.0.0.1"]})
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        assert split.client.request("GET", "/", ("X-Forwarded-For", address)).status == 500
    assert split.counts("new") == counts(3, 3, 2)
    assert split.counts("old") == counts()


@pytest.mark.parametrize(
    ("by", "fields"),
    [
        ("header:X-User", [("x-USER", "a"), ("X-User", "b")]),
        ("cookie:id", [("cookie", "x=1; id=a"), ("Cookie", "id=b")]),
    ],
)
def test_users_behind_one_address_count_each(rig: Rig, by: str, fields: list[tuple[str, str]]) -> None:
    split = Split(rig, 1000, new=fails, by=by)
    for field in fields * 2:
        assert split.client.request("GET", "/", field).status == 500
    assert split.client.request("GET", "/").status == 500
    assert split.counts("new") == counts(5, 5, 3)


def test_a_side_that_refuses_connections_or_cuts_its_response_fails(rig: Rig) -> None:
    cut = once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "close")
    split = Split(rig, 1000, new=cut)
    split.client.send(head("GET", "/"))
    split.client.wait_closed()
    wait_until(lambda: split.counts("new") == counts(1, 1, 1), lambda: str(split.counts("new")))
    split.new.refuse()
    assert split.rig.connect(split.running).request("GET", "/").status == 502
    wait_until(lambda: split.counts("new") == counts(2, 2, 1), lambda: str(split.counts("new")))


def test_a_request_counts_as_slow_once_its_time_is_over_also_if_its_client_leaves(rig: Rig) -> None:
    def hangs(conn: Connection) -> None:
        conn.read_request()
        conn.wait(threading.Event())

    split = Split(rig, 1000, new=[hangs, answering(ok(b"new"))], top={"trusted_proxies": ["127.0.0.1"]})
    split.weigh(1000, slow_after=0.01)
    split.client.send(head("GET", "/", ("X-Forwarded-For", "192.0.2.1")))
    wait_until(lambda: split.counts("new") == counts(1, slow_users=1), lambda: str(split.counts("new")))
    split.client.close()
    split.weigh(1000, slow_after=DEADLINE)
    leaving, staying = rig.connect(split.running), rig.connect(split.running)
    leaving.send(head("GET", "/", ("X-Forwarded-For", "192.0.2.2")))
    wait_until(lambda: split.counts("new")["requests"] == 2)
    leaving.close()
    assert staying.request("GET", "/", ("X-Forwarded-For", "192.0.2.3")).status == 200
    assert split.counts("new") == counts(3, slow_users=1)


def test_the_shadow_of_a_route_receives_the_requests_of_the_old_side(rig: Rig) -> None:
    shadow = rig.upstream(answering(ok(b"old")))
    split = Split(rig)
    services = {**split.services, "third": {"targets": [shadow.url]}}
    split.running.reload(services, [{**split.routes[0], "shadow": {"service": "third", "control": "0%"}}])
    old, new = split.users()
    before = len(split.old.requests)
    shadow.wait_requests(before)
    assert split.get(new) == b"new"
    assert split.get(old) == b"old"
    shadow.wait_requests(before + 1)


def test_the_access_log_names_the_side_and_traces_are_complete(rig: Rig, tmp_path: Path) -> None:
    collector = rig.upstream(answering(ok(b"{}")))
    tracing = {"endpoint": f"{collector.url}/v1/traces", "sample": "100%"}
    split = Split(rig, top={"access_log": str(tmp_path / "access.log"), "tracing": tracing})
    old, new = split.users()
    for user in (old, new):
        split.get(user)
    assert split.client.request("POST", "/", ("X-User", new), body=b"abc").body == b"new"
    split.running.stop()
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert [line["service"] for line in lines[-3:]] == ["old", "new", "new"]
    assert {line["route"] for line in lines} == {"/{rest*}"}
    wait_until(lambda: collector.requests, "spans")
    assert b"new-1" in b"".join(request.body for request in collector.requests)
