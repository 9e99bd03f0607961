"""Two gateways in separate processes with a Redis that can be made faulty, and clients that use all features."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import redis

from passerelle.security.credentials.redis_api_keys import RedisKeyStore
from tests.caching.redis_server import RedisServer
from tests.support.bad_redis import BadRedis
from tests.support.client import Client
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Response, wait_until

ROOT = Path(__file__).resolve().parents[2]
LONG = 30.0
FRESH = b"Cache-Control: max-age=600"
JSON = ("Content-Type", "application/json")
CREDENTIALS = json.dumps({"username": "ada", "password": "right"}).encode()
WHAT = ("session", "key", "many", "other", "same", "put", "login")


def serve(conn: Connection) -> None:
    """Know one user; respond to everything else with a cacheable response."""
    while True:
        request = conn.read_request()
        if request.start.startswith(b"POST /verify "):
            conn.send(ok(b'{"user_id": "1", "roles": ["customer"]}'))
        else:
            conn.send(ok(b"ok", FRESH))


class Process:
    """Process of a gateway."""

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
        """Return the metrics snapshot."""
        assert self.process.stdout is not None
        self._say("")
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said

    @property
    def connected(self) -> bool:
        """Return whether the cache uses Redis."""
        return bool(self.snapshot()["cache"]["redis"]["connected"])

    def logged(self) -> str:
        """Return what was logged since the last call."""
        text = self._log.read_bytes()[self._read :]
        self._read += len(text)
        return text.decode()

    def forget_highest(self) -> None:
        """Reset :meth:`highest`."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def highest(self) -> int:
        """Return the peak memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10

    def end(self) -> int:
        """Let the process end by itself; return its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(LONG)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(LONG)
        for pipe in self.process.stdin, self.process.stdout:
            if pipe is not None:
                pipe.close()


class TwoGateways:
    """Two gateways, and everything a client needs to use all their features."""

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
        self.settings, self._folder = settings, folder
        try:
            for _ in range(2):
                self.add()
        except BaseException:
            self.stop()
            raise

    def add(self) -> Process:
        """Start a further gateway; it is used like the others until it is stopped and removed."""
        made = self.start(self.settings)
        self.made.append(made)
        return made

    def start(self, settings: dict[str, Any]) -> Process:
        """Start a gateway that only the caller uses."""
        return Process(settings, self._folder / f"{next(self.numbers)}.log")

    def limited(self) -> dict[str, Any]:
        """Return the settings, without the features that store data only in Redis."""
        kept = {name: value for name, value in self.settings.items() if name not in ("sessions", "keys")}
        routes = [route for route in self.settings["routes"] if "rate_limit" in route]
        return {**kept, "routes": routes, "limits": {"gateways": 2}}

    def stop(self) -> None:
        for process in self.made:
            process.stop()

    def new_key(self) -> str:
        store = RedisKeyStore(redis.Redis(port=self.server.port))  # type: ignore[arg-type]
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

    def use(self, rounds: int, session: str, key: str, per_gateway: int = 2) -> dict[str, Counter[int]]:
        """Use every feature from several clients at once; return the number of responses by outcome."""
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
        """Return whether both gateways use Redis for everything."""
        if not all(process.connected for process in self.made):
            return False
        one, two = self.made[0], self.made[-1]
        number = f"again-{next(self.numbers)}"
        with Client(one.port) as first, Client(two.port) as second:
            # A session of one gateway is valid at the other, and both count together.
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
            with contextlib.suppress(AssertionError):  # if Redis is not used yet, the next line shows it
                wait_until(lambda: one.snapshot()["cache"]["redis"]["stores"] != stores, within=2)
            return second.request("GET", f"/cached/{number}", within=LONG).get("cache-status") == b"passerelle; hit"

    def check(self) -> str:
        """Assert that no gateway logged a defect."""
        logged = "".join(process.logged() for process in self.made)
        for process in self.made:
            assert process.process.poll() is None
        for word in ("Traceback", "Error", "Exception", "never retrieved", "never awaited"):
            assert word not in logged, logged
        return logged


def judged(found: dict[str, Counter[int]], unknown: bool = False) -> None:
    """Assert the guarantees."""
    for what in ("many", "other", "same", "put"):
        assert set(found[what]) == {200}, found
    for what in ("session", "key", "login"):
        assert set(found[what]) <= ({200, 401, 503} if unknown else {200, 503}), found
