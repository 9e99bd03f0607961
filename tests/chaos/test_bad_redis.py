"""A Redis that is there and misbehaves, under everything that uses one: two gateways in processes of their own.

What is promised of one that is gone is promised of one that talks nonsense. Every request is answered in a bounded
time, and not with an error of the gateway: from memory or the service where the cache or a limit has no Redis, with a
503 where a session or a key cannot be verified. When it is well, it is used again by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from passerelle.security.shared_keys import SharedKeyStore
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.support import bad_redis as bad
from tests.support.bad_redis import BadRedis, Fault, When, always, later
from tests.support.client import Client
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Response, wait_until

pytestmark = [needs("redis-server"), pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
LONG = 30.0
FRESH = b"Cache-Control: max-age=600"
JSON = ("Content-Type", "application/json")
CREDENTIALS = json.dumps({"username": "ada", "password": "right"}).encode()

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
    "an absurd list": bad.says(b"*99999999999999\r\n"),
    "a deep list": bad.says(b"*1\r\n" * 3000 + b":1\r\n"),
    "LOADING": bad.says(b"-LOADING Redis is loading the dataset in memory\r\n"),
    "OOM": bad.says(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
    "READONLY": bad.says(b"-READONLY You can't write against a read only replica.\r\n"),
    "NOAUTH": bad.says(b"-NOAUTH Authentication required.\r\n"),
    "NOPERM": bad.says(b"-NOPERM this user has no permissions to run the command\r\n"),
    "WRONGTYPE": bad.says(b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
    "MISCONF": bad.says(b"-MISCONF Redis is configured to save RDB snapshots, but it cannot persist on disk.\r\n"),
    "NOSCRIPT": bad.says(b"-NOSCRIPT No matching script.\r\n"),
    "an error without words": bad.says(b"-\r\n"),
    "a number": bad.says(b":7\r\n"),
    "a negative number": bad.says(b":-9223372036854775808\r\n"),
    "a word": bad.says(b"+OK\r\n"),
    "a text": bad.says(b"$5\r\nhello\r\n"),
    "nothing": bad.says(b"$-1\r\n"),
    "no list": bad.says(b"*-1\r\n"),
    "an empty list": bad.says(b"*0\r\n"),
    "a list of nothing": bad.says(b"*3\r\n$-1\r\n$-1\r\n$-1\r\n"),
    "a list of others": bad.says(b"*4\r\n:1\r\n$3\r\n\xff\xfe\xfd\r\n*1\r\n:1\r\n+x\r\n"),
    "a list of texts": bad.says(b"*8\r\n" + b"$3\r\n\xff{]\r\n" * 8),
    "a list of errors": bad.says(b"*2\r\n-ERR one\r\n-ERR two\r\n"),
    "a map": bad.says(b"%1\r\n$1\r\na\r\n:1\r\n"),
    "a message that nobody awaits": bad.says(b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n"),
}

# An empty list is what a script says of a credential that is not there.
UNKNOWN = {"an empty list"}


def serve(conn: Connection) -> None:
    """Knows one user; all else is answered with a response that may be stored."""
    while True:
        request = conn.read_request()
        if request.start.startswith(b"POST /verify "):
            conn.send(ok(b'{"user_id": "1", "roles": ["customer"]}'))
        else:
            conn.send(ok(b"ok", FRESH))


class Process:
    """A gateway."""

    def __init__(self, settings: dict[str, Any], log: Path) -> None:
        self._log = log
        self._read = 0
        command = [sys.executable, "-m", "tests.support.serve"]
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._say(json.dumps(settings))
        self.port = int(self.process.stdout.readline())

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def snapshot(self) -> dict[str, Any]:
        """What it says of itself."""
        assert self.process.stdout is not None
        self._say("")
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said

    @property
    def connected(self) -> bool:
        """Whether its cache uses Redis."""
        return bool(self.snapshot()["cache"]["redis"]["connected"])

    def logged(self) -> str:
        """What it has logged since the last look."""
        text = self._log.read_bytes()[self._read :]
        self._read += len(text)
        return text.decode()

    def highest(self) -> int:
        """The most memory that it has had at once (bytes)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


class Rig:
    """Two gateways, and what a client needs to use all of them."""

    def __init__(self, server: RedisServer, door: BadRedis, upstream: Upstream, folder: Path) -> None:
        self.server, self.door, self.upstream = server, door, upstream
        self.numbers = itertools.count()
        settings = {
            "listen": "127.0.0.1:0",
            "admin": "off",
            "access_log": "off",
            "redis": door.url,
            "sessions": {},
            "keys": {},
            "services": {"u": {"targets": [upstream.url], "eject": "off"}},
            "routes": [
                {
                    "path": "/login",
                    "login": {"service": "u", "path": "/verify", "attempts": 1000, "address_attempts": 100_000},
                },
                {"path": "/me", "service": "u", "auth": ["session"]},
                {"path": "/key", "service": "u", "auth": ["key"]},
                {"path": "/few", "service": "u", "rate_limit": {"rate": "4/h", "by": "header:X-Client"}},
                {"path": "/many", "service": "u", "rate_limit": {"rate": "100000/s", "by": "address"}},
                {"path": "/cached/{rest*}", "service": "u", "cache": {"tags": ["all"]}, "timeout": "20s"},
            ],
        }
        self.made: list[Process] = []
        try:
            for name in "one", "two":
                self.made.append(Process(settings, folder / f"{name}.log"))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for process in self.made:
            process.stop()

    def new_key(self) -> str:
        store = SharedKeyStore(redis.Redis(port=self.server.port))  # type: ignore[arg-type]
        try:
            return store.create("app", (), int(time.time()))[1]
        finally:
            store.close()

    def login(self, gateway: Process) -> str:
        with Client(gateway.port) as client:
            answer = client.request("POST", "/login", JSON, body=CREDENTIALS, within=LONG)
        assert answer.status == 200
        (line,) = [line for line in answer.all("set-cookie") if line.startswith(b"__Host-session=")]
        return line.partition(b"=")[2].partition(b";")[0].decode()

    def ask(self, client: Client, what: str, session: str, key: str) -> Response:
        number = str(next(self.numbers))
        if what == "login":
            return client.request("POST", "/login", JSON, body=CREDENTIALS, within=LONG)
        if what == "session":
            return client.request("GET", "/me", ("Cookie", f"__Host-session={session}"), within=LONG)
        if what == "key":
            return client.request("GET", "/key", ("X-API-Key", key), within=LONG)
        if what == "put":
            return client.request("PUT", f"/cached/{number}", body=b"new", within=LONG)
        if what == "same":
            return client.request("GET", f"/cached/same-{int(number) // 40}", within=LONG)
        if what == "other":
            return client.request("GET", f"/cached/{number}", within=LONG)
        return client.request("GET", "/many", within=LONG)

    def attack(self, rounds: int, per_gateway: int = 3) -> dict[str, Counter[int]]:
        """Use everything from several clients at once; gives how often each was answered how."""
        session, key = self.login(self.made[0]), self.new_key()
        return self.use(rounds, session, key, per_gateway)

    def use(self, rounds: int, session: str, key: str, per_gateway: int = 3) -> dict[str, Counter[int]]:
        found: dict[str, Counter[int]] = {each: Counter() for each in WHAT}
        faults: list[BaseException] = []

        def work(gateway: Process) -> None:
            try:
                with Client(gateway.port) as client:
                    for _ in range(rounds):
                        for what in WHAT:
                            found[what][self.ask(client, what, session, key).status] += 1
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=work, args=(g,)) for g in self.made for _ in range(per_gateway)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults, faults
        return found

    def is_used(self) -> bool:
        """Whether both gateways use Redis for everything."""
        if not all(process.connected for process in self.made):
            return False
        one, two = self.made
        number = f"again-{next(self.numbers)}"
        with Client(one.port) as first, Client(two.port) as second:
            # A session of one holds at the other, and what one counts the other counts on.
            if first.request("POST", "/login", JSON, body=CREDENTIALS, within=LONG).status != 200:
                return False
            session, key = self.login(one), self.new_key()
            statuses = [self.ask(client, what, session, key).status for what in WHAT for client in (first, second)]
            if set(statuses) != {200}:
                return False
            mine = ("X-Client", number)
            counted = [client.request("GET", "/few", mine, within=LONG).status for client in (first, second) * 3]
            if counted != [200] * 4 + [429] * 2:
                return False
            stores = one.snapshot()["cache"]["redis"]["stores"]
            assert first.request("GET", f"/cached/{number}", within=LONG).status == 200
            end = time.monotonic() + 2
            while one.snapshot()["cache"]["redis"]["stores"] == stores and time.monotonic() < end:
                time.sleep(0.01)
            return second.request("GET", f"/cached/{number}", within=LONG).get("cache-status") == b"passerelle; hit"

    def check(self) -> str:
        """Nothing was logged that is a defect of a gateway."""
        logged = "".join(process.logged() for process in self.made)
        for process in self.made:
            assert process.process.poll() is None
        for word in ("Traceback", "Error", "Exception", "never retrieved", "never awaited"):
            assert word not in logged, logged
        return logged


WHAT = ("session", "key", "many", "other", "same", "put", "login")


@pytest.fixture(scope="module")
def _rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    upstream = Upstream(serve)
    with RedisServer() as server, BadRedis(server.port) as door:
        made = Rig(server, door, upstream, tmp_path_factory.mktemp("gateways"))
        try:
            yield made
        finally:
            made.stop()
            upstream.close()


@pytest.fixture
def rig(_rig: Rig) -> Iterator[Rig]:
    wait_until(_rig.is_used, "Redis is used", LONG)
    yield _rig
    _rig.door.behave()


def judged(found: dict[str, Counter[int]], unknown: bool = False) -> None:
    """What is promised."""
    for what in ("many", "other", "same", "put"):
        assert set(found[what]) == {200}, found
    for what in ("session", "key", "login"):
        assert set(found[what]) <= ({200, 401, 503} if unknown else {200, 503}), found


@pytest.mark.parametrize("when", [always, later], ids=["always", "later"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_redis_that_misbehaves(rig: Rig, name: str, when: When) -> None:
    session, key = rig.login(rig.made[0]), rig.new_key()
    before = rig.door.faults
    rig.door.misbehave(FAULTS[name], when)
    found = rig.use(4, session, key)
    assert rig.door.faults > before
    rig.door.behave()
    wait_until(rig.is_used, "Redis is used again", LONG)
    rig.check()
    judged(found, name in UNKNOWN)


def test_a_redis_that_hangs_up(rig: Rig) -> None:
    """Connections are accepted and closed at once; those that stand are closed with the next answer."""
    session, key = rig.login(rig.made[0]), rig.new_key()
    rig.door.hang_up()
    rig.door.misbehave(bad.closes)
    judged(rig.use(8, session, key))
    assert rig.door.faults
    rig.door.behave()
    wait_until(rig.is_used, "Redis is used again", LONG)
    assert rig.check().count("lost") <= 4, "it is said once"


@pytest.mark.parametrize("name", ["never answers", "half an answer", "drips", "any bytes", "a number", "closes"])
def test_invalidations_arrive_though_their_connection_misbehaves(rig: Rig, name: str) -> None:
    """The one that is subscribed is ill, and all others are well."""
    one, two = rig.made
    target = f"/cached/told-{next(rig.numbers)}"
    with Client(one.port) as first, Client(two.port) as second:
        rig.door.misbehave(FAULTS[name], bad.subscriptions)
        for client in first, second:
            assert client.request("GET", target, within=LONG).status == 200

        def asked() -> int:
            return sum(request.target == target.encode() for request in rig.upstream.requests)

        for client in first, second:
            assert client.request("PUT", target, body=b"new", within=LONG).status == 200
            before = asked()
            for each in first, second:
                wait_until(
                    lambda each=each, before=before: (
                        each.request("GET", target, within=LONG).status == 200 and asked() > before
                    ),
                    "the other gateway hears of it",
                    LONG,
                )
    rig.door.behave()
    wait_until(rig.is_used, "Redis is used again", LONG)
    rig.check()


def test_a_real_redis_that_is_frozen_and_thawed_under_load(rig: Rig) -> None:
    session, key = rig.login(rig.made[0]), rig.new_key()
    for _ in range(3):
        rig.server.freeze()
        try:
            judged(rig.use(6, session, key))
        finally:
            rig.server.thaw()
        judged(rig.use(2, session, key))
        wait_until(rig.is_used, "Redis is used again", LONG)
    rig.check()


# ---- what is kept there is not what was put there


def sha256(credential: str) -> str:
    """As sessions and keys are kept."""
    return hashlib.sha256(credential.encode()).hexdigest()


def names(rig: Rig, pattern: str) -> tuple[redis.Redis, list[bytes]]:
    client = redis.Redis(port=rig.server.port)
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


@pytest.mark.parametrize("how", [*ALTERED, "another type"])
def test_stored_answers_that_were_altered_are_asked_for_anew(rig: Rig, how: str) -> None:
    one, two = rig.made
    targets = [f"/cached/altered-{next(rig.numbers)}" for _ in range(5)]
    stores = one.snapshot()["cache"]["redis"]["stores"]
    with Client(one.port) as first, Client(two.port) as second:
        for target in targets:
            assert first.request("GET", target, within=LONG).status == 200
        wait_until(lambda: one.snapshot()["cache"]["redis"]["stores"] >= stores + 5, "shared", LONG)
        client, found = names(rig, "passerelle:1:default:e:*altered*")
        with client:
            for name in found:
                if how == "another type":
                    client.delete(name)
                    client.rpush(name, b"x")
                elif (data := client.get(name)) is not None:
                    client.set(name, ALTERED[how](data))
        before = len(rig.upstream.requests)
        for target in targets:
            answer = second.request("GET", target, within=LONG)
            assert (answer.status, answer.body) == (200, b"ok")
        assert len(rig.upstream.requests) == before + 5
        with client:
            client.delete(*found)
    wait_until(rig.is_used, "Redis is used", LONG)
    rig.check()


@pytest.mark.parametrize("value", [b"hello", b"", b"1:", b"nan:nan", b"9" * 400 + b":1", None])
def test_counts_that_were_altered_fail_no_request(rig: Rig, value: bytes | None) -> None:
    """One client's count: it is admitted by each gateway's own, and nobody else notices."""
    one, two = rig.made
    mine, other = ("X-Client", f"odd-{next(rig.numbers)}"), ("X-Client", f"even-{next(rig.numbers)}")
    with Client(one.port) as first, Client(two.port) as second:
        assert first.request("GET", "/few", mine, within=LONG).status == 200
        client, found = names(rig, f"passerelle:1:limits:*{mine[1]}")
        assert len(found) == 1
        with client:
            client.delete(found[0])
            if value is None:
                client.rpush(found[0], b"x")
            else:
                client.set(found[0], value)
            statuses = [each.request("GET", "/few", mine, within=LONG).status for each in (first, second) * 4]
            assert set(statuses) <= {200, 429} and 200 in statuses
            others = [each.request("GET", "/few", other, within=LONG).status for each in (first, second) * 3]
            assert others == [200] * 4 + [429] * 2, "the limit of others is one for both gateways"
            client.delete(found[0])
    rig.check()


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
def test_a_session_that_was_altered_lets_nobody_in(rig: Rig, how: str) -> None:
    one, two = rig.made
    good, session = rig.login(one), rig.login(one)
    client, found = names(rig, f"passerelle:1:session:{sha256(session)}")
    assert len(found) == 1
    with client, Client(two.port) as asking:
        if how == "another type":
            client.delete(found[0])
            client.set(found[0], b"x")
        else:
            client.hset(found[0], mapping=SESSIONS[how])  # type: ignore[arg-type]
        for _ in range(3):
            assert rig.ask(asking, "session", session, "").status in (401, 503)
            assert rig.ask(asking, "session", good, "").status == 200
        client.delete(found[0])
    rig.check()


def test_a_session_with_lines_says_no_more_than_a_name(rig: Rig) -> None:
    one, two = rig.made
    session = rig.login(one)
    client, found = names(rig, f"passerelle:1:session:{sha256(session)}")
    with client, Client(two.port) as asking:
        client.hset(found[0], "user", "x\r\nX-Consumer: root")
        assert rig.ask(asking, "session", session, "").status == 200
        client.delete(found[0])
    request = [each for each in rig.upstream.requests if each.target == b"/me"][-1]
    assert request.get("x-consumer") == b"x%0D%0AX-Consumer: root"
    rig.check()


KEYS: dict[str, dict[str, bytes]] = {
    "no scopes": {"scopes": b"read"},
    "scopes that are none": {"scopes": b"7"},
    "no time": {"created": b"x"},
    "an end that is none": {"expires": b"never"},
    "no text": {"owner": b"\xff\xfe"},
    "a long owner": {"owner": b"x" * 100_000},
}


@pytest.mark.parametrize("how", [*KEYS, "another type"])
def test_a_key_that_was_altered_lets_nobody_in(rig: Rig, how: str) -> None:
    _, two = rig.made
    good, key = rig.new_key(), rig.new_key()
    client, found = names(rig, f"passerelle:1:keys:digest:{sha256(key)}")
    assert len(found) == 1
    with client, Client(two.port) as asking:
        name = b"passerelle:1:keys:key:" + client.get(found[0])  # type: ignore[operator]
        if how == "another type":
            client.delete(name)
            client.set(name, b"x")
        else:
            client.hset(name, mapping=KEYS[how])  # type: ignore[arg-type]
        for _ in range(3):
            assert rig.ask(asking, "key", "", key).status in (401, 503)
            assert rig.ask(asking, "key", "", good).status == 200
        client.delete(name, found[0])
    rig.check()


@pytest.mark.parametrize("what", ["sequence", "log", "generation", "purged", "publication"])
def test_what_gateways_tell_each_other_was_altered(rig: Rig, what: str) -> None:
    """No request fails for it, and when it is gone Redis is used again."""
    session, key = rig.login(rig.made[0]), rig.new_key()
    client = redis.Redis(port=rig.server.port)
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
        judged(rig.use(3, session, key))
        client.delete(name)
    wait_until(rig.is_used, "Redis is used again", LONG)
    rig.check()
