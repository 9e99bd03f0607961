"""Altered records in Redis: they are ignored, and fail no other request."""

from __future__ import annotations

import contextlib
import hashlib
from functools import partial

import pytest
import redis

from tests.chaos.two_gateways import LONG, TwoGateways, judged
from tests.requirements import needs
from tests.support.client import Client
from tests.support.wire import wait_until

pytestmark = [needs("redis-server"), pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(180)]


def sha256(credential: str) -> str:
    """Return the digest under which sessions and keys are stored."""
    return hashlib.sha256(credential.encode()).hexdigest()


def names(two: TwoGateways, pattern: str) -> tuple[redis.Redis, list[bytes]]:
    client = redis.Redis(port=two.server.port)
    found = list(client.scan_iter(match=pattern, count=1000))
    return client, found


ALTERED = {
    "cut": lambda data: data[: len(data) // 2],
    "one byte": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "a bit": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "no times": lambda data: data[:8] + b"\xff" * 16 + data[24:],
    "zeros": lambda data: bytes(len(data)),
    "nothing": lambda data: b"",
    "text": lambda data: b"hello",
}


def stores(two: TwoGateways) -> int:
    """Return how many responses the first gateway has written to Redis."""
    return int(two.made[0].snapshot()["cache"]["redis"]["stores"])


def has_stored(two: TwoGateways, before: int) -> bool:
    return stores(two) > before


def shared(two: TwoGateways, client: Client) -> str:
    """Return a target whose response the first gateway has just written to Redis.

    A gateway drops a write that takes too long, as on a busy machine, so several targets may be needed.
    """
    for _ in range(10):
        target = f"/cached/altered-{next(two.numbers)}"
        before = stores(two)
        assert client.request("GET", target, within=LONG).status == 200
        with contextlib.suppress(AssertionError):
            wait_until(partial(has_stored, two, before), within=2.0)
            return target
    raise AssertionError("no response was written to Redis")


@pytest.mark.parametrize("how", [*ALTERED, "another type"])
def test_stored_responses_that_were_altered_are_fetched_again(two: TwoGateways, how: str) -> None:
    one, other = two.made
    with Client(one.port) as first, Client(other.port) as second:
        targets = [shared(two, first) for _ in range(5)]
        client, found = names(two, "passerelle:1:default:e:*altered*")
        with client:
            for name in found:
                if how == "another type":
                    client.delete(name)
                    client.rpush(name, b"x")
                elif (data := client.get(name)) is not None:
                    client.set(name, ALTERED[how](data))
        before = len(two.upstream.requests)
        for target in targets:
            answer = second.request("GET", target, within=LONG)
            assert (answer.status, answer.body) == (200, b"ok")
        assert len(two.upstream.requests) == before + 5
        with client:
            client.delete(*found)
    wait_until(two.is_used, "Redis is used", LONG)
    two.check()


@pytest.mark.parametrize("value", [b"hello", b"", b"1:", b"nan:nan", b"9" * 400 + b":1", None])
def test_counts_that_were_altered_fail_no_request(two: TwoGateways, value: bytes | None) -> None:
    """The count of one client: each gateway uses its own count, and no other client is affected."""
    one, other = two.made
    mine, theirs = ("X-Client", f"odd-{next(two.numbers)}"), ("X-Client", f"even-{next(two.numbers)}")
    with Client(one.port) as first, Client(other.port) as second:
        assert first.request("GET", "/few", mine, within=LONG).status == 200
        client, found = names(two, f"passerelle:1:limits:*{mine[1]}")
        assert len(found) == 1
        with client:
            client.delete(found[0])
            if value is None:
                client.rpush(found[0], b"x")
            else:
                client.set(found[0], value)
            statuses = [each.request("GET", "/few", mine, within=LONG).status for each in (first, second) * 4]
            assert set(statuses) <= {200, 429} and 200 in statuses
            others = [each.request("GET", "/few", theirs, within=LONG).status for each in (first, second) * 3]
            assert others == [200] * 4 + [429] * 2, "the limit of others is one for both gateways"
            client.delete(found[0])
    two.check()


SESSIONS: dict[str, dict[str, bytes]] = {
    "no times": {"created": b"x", "used": b"y"},
    "no roles": {"roles": b"customer"},
    "roles that are none": {"roles": b'{"customer": 1}'},
    "roles of numbers": {"roles": b"[1, 2]"},
    "deep roles": {"roles": b"[" * 100_000},
    "no text": {"user": b"\xff\xfe"},
    "a long user": {"user": b"x" * 100_000},
}


@pytest.mark.parametrize("how", [*SESSIONS, "another type"])
def test_a_session_that_was_altered_is_refused(two: TwoGateways, how: str) -> None:
    one, other = two.made
    good, session = two.login(one), two.login(one)
    client, found = names(two, f"passerelle:1:session:{sha256(session)}")
    assert len(found) == 1
    with client, Client(other.port) as asking:
        if how == "another type":
            client.delete(found[0])
            client.set(found[0], b"x")
        else:
            client.hset(found[0], mapping=SESSIONS[how])  # type: ignore[arg-type]
        for _ in range(3):
            assert two.ask(asking, "session", session, "").status in (401, 503)
            assert two.ask(asking, "session", good, "").status == 200
        client.delete(found[0])
    two.check()


def test_a_session_with_line_breaks_adds_no_header(two: TwoGateways) -> None:
    one, other = two.made
    session = two.login(one)
    client, found = names(two, f"passerelle:1:session:{sha256(session)}")
    with client, Client(other.port) as asking:
        client.hset(found[0], "user", "x\r\nX-Consumer: root")
        assert two.ask(asking, "session", session, "").status == 200
        client.delete(found[0])
    request = [each for each in two.upstream.requests if each.target == b"/me"][-1]
    assert request.get("x-consumer") == b"x%0D%0AX-Consumer: root"
    two.check()


KEYS: dict[str, dict[str, bytes]] = {
    "no scopes": {"scopes": b"read"},
    "scopes that are none": {"scopes": b"7"},
    "no time": {"created": b"x"},
    "an end that is none": {"expires": b"never"},
    "no text": {"owner": b"\xff\xfe"},
    "a long owner": {"owner": b"x" * 100_000},
}


@pytest.mark.parametrize("how", [*KEYS, "another type"])
def test_a_key_that_was_altered_is_refused(two: TwoGateways, how: str) -> None:
    other = two.made[1]
    good, key = two.new_key(), two.new_key()
    client, found = names(two, f"passerelle:1:keys:digest:{sha256(key)}")
    assert len(found) == 1
    with client, Client(other.port) as asking:
        name = b"passerelle:1:keys:key:" + client.get(found[0])  # type: ignore[operator]
        if how == "another type":
            client.delete(name)
            client.set(name, b"x")
        else:
            client.hset(name, mapping=KEYS[how])  # type: ignore[arg-type]
        for _ in range(3):
            assert two.ask(asking, "key", "", key).status in (401, 503)
            assert two.ask(asking, "key", "", good).status == 200
        client.delete(name, found[0])
    two.check()


@pytest.mark.parametrize("what", ["sequence", "log", "generation", "purged", "publication"])
def test_altered_messages_between_gateways(two: TwoGateways, what: str) -> None:
    """No request fails, and afterwards Redis is used again."""
    session, key = two.login(two.made[0]), two.new_key()
    client = redis.Redis(port=two.server.port)
    name = f"passerelle:1:default:{what}"
    with client:
        if what == "publication":
            for message in b"", b"x", b"7", b"7 ", b"x y z \xff", b"99999999 a D b", b"-1 a D b":
                client.publish("passerelle:1:default:invalid", message)
                client.publish("passerelle:1:default:flights", message)
        elif what == "log":
            client.lpush(name, b"x", b"", b"1 2 3")
        else:
            client.set(name, b"hello")
        with contextlib.suppress(redis.RedisError):
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        judged(two.use(3, session, key))
        client.delete(name)
    wait_until(two.is_used, "Redis is used again", LONG)
    two.check()
