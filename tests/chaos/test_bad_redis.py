"""A faulty Redis, under everything that uses Redis: two gateways in separate processes.

The guarantees for an unavailable Redis also hold for one that sends invalid data. Every request gets a response in
bounded time, and no error of the gateway: from memory or the service if the cache or a limit has no Redis, with a 503
if a session or a key cannot be verified. Once the fault ends, Redis is used again automatically.
"""

from __future__ import annotations

import pytest

from tests.chaos.two_gateways import LONG, TwoGateways, judged
from tests.requirements import needs
from tests.support import bad_redis as bad
from tests.support.bad_redis import Fault, When, always, later
from tests.support.client import Client
from tests.support.wire import wait_until

pytestmark = [needs("redis-server"), pytest.mark.slow, pytest.mark.timeout(180)]

FAULTS: dict[str, Fault] = {
    "never answers": bad.never,
    "half an answer": bad.half,
    "closes": bad.closes,
    "closes within": bad.closes_within,
    "resets within": bad.resets_within,
    "drips": bad.drips,
    "floods": bad.floods,
    "twice": bad.twice,
    "another protocol": bad.says(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
    "any bytes": bad.says(bytes(range(256))),
    "a huge text": bad.says(b"$536870911\r\nabc", then_silent=True),
    "an absurd text": bad.says(b"$99999999999999999999\r\nabc", then_silent=True),
    "a long list": bad.says(b"*1000000\r\n:1\r\n", then_silent=True),
    "a deep list": bad.says(b"*1\r\n" * 3000 + b":1\r\n"),
    "LOADING": bad.says(b"-LOADING Redis is loading the dataset in memory\r\n"),
    "OOM": bad.says(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
    "OOM of Redis 6": bad.says(b"-ERR Error running script (call to f_0): @user_script:9: -OOM not allowed\r\n"),
    "READONLY": bad.says(b"-READONLY You can't write against a read only replica.\r\n"),
    "NOAUTH": bad.says(b"-NOAUTH Authentication required.\r\n"),
    "WRONGTYPE": bad.says(b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
    "MISCONF": bad.says(b"-MISCONF Redis is configured to save RDB snapshots, but it cannot persist on disk.\r\n"),
    "NOSCRIPT": bad.says(b"-NOSCRIPT No matching script.\r\n"),
    "an error without words": bad.says(b"-\r\n"),
    "a number": bad.says(b":7\r\n"),
    "a negative number": bad.says(b":-9223372036854775808\r\n"),
    "a word": bad.says(b"+OK\r\n"),
    "a text": bad.says(b"$5\r\nhello\r\n"),
    "nothing": bad.says(b"$-1\r\n"),
    "an empty list": bad.says(b"*0\r\n"),
    "a list of nothing": bad.says(b"*3\r\n$-1\r\n$-1\r\n$-1\r\n"),
    "a list of others": bad.says(b"*4\r\n:1\r\n$3\r\n\xff\xfe\xfd\r\n*1\r\n:1\r\n+x\r\n"),
    "a list of texts": bad.says(b"*8\r\n" + b"$3\r\n\xff{]\r\n" * 8),
    "a list of errors": bad.says(b"*2\r\n-ERR one\r\n-ERR two\r\n"),
    "a map": bad.says(b"%1\r\n$1\r\na\r\n:1\r\n"),
    "an unexpected message": bad.says(b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n"),
}

# Scripts return an empty list for a credential that does not exist.
UNKNOWN = {"an empty list"}

# What stands for all of KINDS in `make test`: a connection that ends, bytes that are no reply, an error of Redis.
QUICK = {"closes within", "any bytes", "OOM"}

# One of each kind of fault for users of Redis that wait more than a second for each: Redis is tried again after a
# pause. The limits, which notice first, get all faults.
KINDS = [
    *("never answers", "half an answer", "closes within", "drips", "floods", "twice", "any bytes", "a huge text"),
    *("LOADING", "WRONGTYPE", "nothing", "an empty list", "a list of others", "an unexpected message", "OOM"),
]


@pytest.mark.parametrize(
    ("name", "when"),
    [
        pytest.param(name, (always, later)[number % 2], marks=() if name in QUICK else pytest.mark.long, id=name)
        for number, name in enumerate(KINDS)
    ],
)
def test_a_redis_that_misbehaves(two: TwoGateways, name: str, when: When) -> None:
    session, key = two.login(two.made[0]), two.new_key()
    before = two.door.faults
    two.door.misbehave(FAULTS[name], when)
    found = two.use(2, session, key)
    assert two.door.faults > before
    two.door.behave()
    wait_until(two.is_used, "Redis is used again", LONG)
    two.check()
    judged(found, name in UNKNOWN)


@pytest.mark.parametrize("name", ["any bytes", pytest.param("nothing", marks=pytest.mark.long)])
def test_an_admitted_key_stays_valid_for_a_while(two: TwoGateways, name: str) -> None:
    key = two.new_key()
    with Client(two.made[0].port) as client:
        assert two.ask(client, "key", "", key).status == 200
        faults = two.door.faults
        two.door.misbehave(FAULTS[name], later)

        def looked_up() -> bool:
            assert two.ask(client, "key", "", key).status == 200
            return two.door.faults > faults + 3

        wait_until(looked_up, "it is looked up again", LONG)
        assert two.ask(client, "key", "", two.new_key()).status == 503
    two.door.behave()
    two.check()


@pytest.mark.long
def test_a_redis_that_hangs_up(two: TwoGateways) -> None:
    """Connections are accepted and closed at once; established ones are closed with the next reply."""
    session, key = two.login(two.made[0]), two.new_key()
    two.door.hang_up()
    two.door.misbehave(bad.closes)
    judged(two.use(8, session, key))
    assert two.door.faults
    two.door.behave()
    wait_until(two.is_used, "Redis is used again", LONG)
    assert two.check().count("lost") <= 4, "it is said once"


@pytest.mark.long
@pytest.mark.parametrize("name", ["half an answer", "any bytes"])
def test_a_gateway_that_starts_beside_it(two: TwoGateways, name: str) -> None:
    session, key = two.login(two.made[0]), two.new_key()
    two.door.misbehave(FAULTS[name])
    added = two.add()
    try:
        judged(two.use(3, session, key))
        two.door.behave()
        wait_until(two.is_used, "Redis is used by the new one too", LONG)
        two.check()
    finally:
        two.made.remove(added)
        added.stop()


@pytest.mark.long
@pytest.mark.parametrize("name", ["half an answer", "floods"])
def test_a_gateway_stops_beside_it(two: TwoGateways, name: str) -> None:
    made = two.start(two.settings)
    try:
        wait_until(lambda: made.connected, "Redis is used", LONG)
        two.door.misbehave(FAULTS[name])
        with Client(made.port) as client:
            for what in "other", "put", "many":
                assert two.ask(client, what, "", "").status == 200
        assert made.end() == 0
        assert "Traceback" not in made.logged()
    finally:
        made.stop()


@pytest.mark.long
def test_its_failure_and_its_return_are_logged_once_each(two: TwoGateways) -> None:
    """Although connections succeed all the time."""
    made = two.start(two.limited())
    logged: list[str] = []

    def said(words: str) -> int:
        logged.append(made.logged())
        return "".join(logged).count(words)

    try:
        with Client(made.port) as client:
            two.door.misbehave(FAULTS["OOM of Redis 6"], later)

            def ask() -> bool:
                return client.request("GET", "/many", within=LONG).status == 200

            wait_until(lambda: ask() and said("redis at "), "it is said", LONG)
            faults = two.door.faults
            wait_until(lambda: ask() and two.door.faults > faults + 8, "it is tried again", LONG)
            two.door.behave()
            wait_until(lambda: ask() and said("redis: it is available again"), "it is back", LONG)
        # Once; more often if the test itself was suspended for so long that no operation failed meanwhile.
        assert said("redis at ") == said("redis: it is available again") <= 3, logged
    finally:
        made.stop()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_limits_alone_are_those_of_each_gateway(two: TwoGateways) -> None:
    """Half of the limit each, whatever Redis replies."""
    made = two.start(two.limited())
    try:
        with Client(made.port) as client:

            def admitted() -> int:
                mine = ("X-Client", f"alone-{next(two.numbers)}")
                statuses = [client.request("GET", "/few", mine, within=LONG).status for _ in range(6)]
                assert set(statuses) <= {200, 429}, statuses
                return statuses.count(200)

            wait_until(lambda: admitted() == 4, "Redis counts", LONG)
            for name, fault in FAULTS.items():
                two.door.misbehave(fault)
                wait_until(lambda: admitted() == 2, f"the gateway counts: {name}", LONG)
                two.door.behave()
                wait_until(lambda: admitted() == 4, f"Redis counts again: {name}", LONG)
        assert "Traceback" not in made.logged()
    finally:
        made.stop()


@pytest.mark.long
@pytest.mark.parametrize("when", [always, later], ids=["always", "later"])
def test_a_flood_is_not_kept(two: TwoGateways, when: When) -> None:
    session, key = two.login(two.made[0]), two.new_key()
    for process in two.made:
        process.forget_highest()
    before = [process.highest() for process in two.made]
    two.door.misbehave(bad.floods, when)
    judged(two.use(3, session, key))
    after = [process.highest() for process in two.made]
    two.door.behave()
    assert all(highest - lowest < 256 << 20 for lowest, highest in zip(before, after, strict=True))


@pytest.mark.parametrize("name", [pytest.param("any bytes", marks=pytest.mark.long), "closes"])
def test_invalidations_arrive_though_their_connection_misbehaves(two: TwoGateways, name: str) -> None:
    """Only the subscribed connection is faulty; all others work."""
    one, other = two.made
    target = f"/cached/told-{next(two.numbers)}"
    with Client(one.port) as first, Client(other.port) as second:
        two.door.misbehave(FAULTS[name], bad.subscriptions)
        for client in first, second:
            assert client.request("GET", target, within=LONG).status == 200

        def asked() -> int:
            return sum(request.target == target.encode() for request in two.upstream.requests)

        for client in first, second:
            assert client.request("PUT", target, body=b"new", within=LONG).status == 200
            before = asked()
            for each in first, second:
                wait_until(
                    lambda each=each, before=before: (
                        each.request("GET", target, within=LONG).status == 200 and asked() > before
                    ),
                    "the other gateway receives it",
                    LONG,
                )
    two.door.behave()
    wait_until(two.is_used, "Redis is used again", LONG)
    two.check()


@pytest.mark.long
def test_a_real_redis_that_is_frozen_and_thawed_under_load(two: TwoGateways) -> None:
    session, key = two.login(two.made[0]), two.new_key()
    for _ in range(3):
        two.server.freeze()
        try:
            judged(two.use(6, session, key))
        finally:
            two.server.thaw()
        judged(two.use(2, session, key))
        wait_until(two.is_used, "Redis is used again", LONG)
    two.check()
