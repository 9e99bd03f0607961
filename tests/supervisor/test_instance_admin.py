"""Changes of instances at run time, by the admin port and the command line."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from passerelle.cli.main import main
from passerelle.discovery.overrides import Overrides, target_key
from passerelle.upstream.members import InstanceSpec
from tests.supervisor.helpers import FILE_SERVER, until_now
from tests.supervisor.up import Up, command, invoke
from tests.support.upstream import Connection, Upstream, ok

BOUND = 30.0
HEAD = "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\naccess_log: 'off'\n"
ROUTES = "routes: [{path: '/{rest*}', service: s}]\n"
EVENLY = "balance: weighted, slow_start: 'off'"


class Server(Upstream):
    """Responds with its number; to ``/hold`` once ``release`` is set."""

    def __init__(self, number: int) -> None:
        self.body = b"%d" % number
        self.release = threading.Event()
        super().__init__(self._serve)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _serve(self, conn: Connection) -> None:
        while True:
            if conn.read_request().target == b"/hold":
                self.release.wait(60)
            conn.send(ok(self.body))


@pytest.fixture
def three() -> Iterator[list[Server]]:
    with contextlib.ExitStack() as stack:
        servers = [Server(number) for number in (1, 2, 3)]
        for server in servers:
            stack.callback(server.close)
            stack.callback(server.release.set)
        yield servers


def write(folder: Path, targets: str, what: str = "up") -> None:
    workers = "workers: 2\n" if what == "up" else ""
    (folder / "gateway.yaml").write_text(f"{HEAD}{workers}services: {{s: {{targets: {targets}, {EVENLY}}}}}\n{ROUTES}")


def ask(running: Up, method: str, path: str, **arguments: object) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", running.admin, timeout=90)
    try:
        query = f"?{urlencode(arguments)}" if arguments else ""
        connection.request(method, f"/services/{path}{query}", headers={"Passerelle-Admin": "1"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def refused(running: Up, method: str, path: str, **arguments: object) -> tuple[int, str]:
    status, answer = ask(running, method, path, **arguments)
    (problem,) = answer["problems"]
    return status, problem


def seen(running: Up, times: int = 60) -> Counter[bytes]:
    """Count the responses of each server, on new connections, which are spread over both workers."""
    return Counter(running.get("/")[1] for _ in range(times))


def see_only(running: Up, *bodies: bytes) -> None:
    until_now(lambda: set(seen(running)) == set(bodies), BOUND)


def settled(running: Up, *states: str) -> None:
    until_now(lambda: [i["state"] for i in running.instances("s")] == list(states), BOUND)


@pytest.mark.slow
@pytest.mark.parametrize("what", [pytest.param("up", marks=pytest.mark.long), "gateway"])
def test_added_weighed_drained_and_removed(tmp_path: Path, three: list[Server], what: str) -> None:
    one, two, three_ = three
    write(tmp_path, f"['{one.url}', '{two.url}']", what)
    with command(tmp_path, what) as running:
        running.listening()
        settled(running, "up", "up")
        status, answer = ask(running, "POST", "s/instances", url=three_.url, weight=2)
        name = f"s-{three_.address}"
        assert (status, answer["name"], answer["state"]) == (200, name, "up")
        assert refused(running, "POST", "s/instances", url=three_.url) == (
            409,
            f"s already has {three_.address}: {name}, up",
        )
        own = f"127.0.0.1:{running.port}"
        problem = f"found {own}, where the gateway itself listens: it would call itself"
        assert refused(running, "POST", "s/instances", url=f"http://{own}") == (409, problem)
        see_only(running, b"1", b"2", b"3")
        assert ask(running, "PATCH", f"s/instances/{name}", weight=98)[0] == 200
        until_now(lambda: seen(running)[b"3"] >= 50, BOUND)
        assert ask(running, "PATCH", "s/instances/s-1", drain="true") == (
            200,
            {
                "message": "s: s-1 drained, no requests in flight",
                "name": "s-1",
                "address": one.address,
                "state": "draining",
                "in_flight": 0,
            },
        )
        assert ask(running, "DELETE", f"s/instances/{two.address}")[0] == 200

        # A reload of the unchanged file keeps all changes.
        assert invoke(tmp_path, "reload", "--admin", f"127.0.0.1:{running.admin}")[0] == 0
        see_only(running, b"3")
        _, about = ask(running, "GET", "s/instances")
        assert about["removed"] == [two.address] and about["up"] == 1
        assert [(i["name"], i["state"], i["weight"], i["origin"]) for i in about["instances"]] == [
            ("s-1", "draining", 1.0, "file"),
            (name, "up", 98.0, "added"),
        ]
        assert ask(running, "GET", "s/instances/s-1")[1]["address"] == one.address

        # Revert: resume the drained instance, then add the removed one, which is in the file.
        assert ask(running, "PATCH", "s/instances/s-1", drain="false")[0] == 200
        see_only(running, b"1", b"3") if what == "gateway" else settled(running, "up", "up")
        assert ask(running, "POST", "s/instances", url=two.url)[0] == 200
        assert ask(running, "DELETE", f"s/instances/{name}")[0] == 200
        see_only(running, b"1", b"2")
        assert ask(running, "GET", "s/instances")[1]["removed"] == []
        assert running.stop() == 0


@pytest.mark.slow
def test_a_change_of_the_file_overrides_changes_at_run_time(tmp_path: Path, three: list[Server]) -> None:
    one, two, three_ = three
    write(tmp_path, f"['{one.url}', '{two.url}']")
    with command(tmp_path, "up", "--watch") as running:
        running.listening()
        ask(running, "POST", "s/instances", url=three_.url, weight=9)
        ask(running, "PATCH", "s/instances/s-1", weight=9)
        ask(running, "DELETE", "s/instances/s-2")
        # The file now has another weight for one instance, names another one, and keeps the third.
        write(tmp_path, f"['{one.url}', {{url: '{two.url}', weight: 2}}, {{url: '{three_.url}', weight: 3}}]")

        def weights() -> dict[str, float]:
            return {i["address"]: i["weight"] for i in running.instances("s")}

        until_now(lambda: weights() == {one.address: 9.0, two.address: 2.0, three_.address: 3.0}, BOUND)
        until_now(lambda: {i["origin"] for i in running.instances("s")} == {"file"}, BOUND)
        see_only(running, b"1", b"2", b"3")
        # The file owns the added instance since it named it: no longer named, it is removed.
        write(tmp_path, f"['{one.url}', {{url: '{two.url}', weight: 2}}]")
        until_now(lambda: list(weights()) == [one.address, two.address], BOUND)
        assert running.stop() == 0


@contextlib.contextmanager
def held(running: Up, server: Server, pool: ThreadPoolExecutor) -> Iterator[Future[tuple[int, bytes]]]:
    """Keep a request in flight in the body of the ``with`` statement."""
    before = len(server.requests)
    future = pool.submit(running.get, "/hold")
    until_now(lambda: any(r.target == b"/hold" for r in server.requests[before:]), BOUND)
    yield future
    server.release.set()
    assert future.result(BOUND) == (200, server.body)


@pytest.mark.slow
@pytest.mark.parametrize("what", [pytest.param("up", marks=pytest.mark.long), "gateway"])
def test_draining_waits_for_what_is_in_flight_with_a_limit(tmp_path: Path, three: list[Server], what: str) -> None:
    one, two, _ = three
    write(tmp_path, f"['{one.url}']", what)
    with command(tmp_path, what) as running, ThreadPoolExecutor() as pool:
        running.listening()
        settled(running, "up")
        with held(running, one, pool):
            assert ask(running, "POST", "s/instances", url=two.url)[0] == 200
            assert refused(running, "PATCH", "s/instances/s-1", drain="true", limit="100ms") == (
                409,
                "s-1 receives no new requests, but still has 1 in flight after 0.1 s",
            )
            see_only(running, b"2")
            # Removed after the limit, it still finishes its request.
            status, answer = ask(running, "DELETE", "s/instances/s-1", limit="100ms")
            assert (status, answer["in_flight"]) == (200, 1)
            assert answer["message"] == "s: s-1 removed; 1 request in flight after 0.1 s will continue"
            assert [i["name"] for i in running.instances("s")] == [f"s-{two.address}"]
        one.release.clear()
        assert ask(running, "POST", "s/instances", url=one.url)[0] == 200
        ask(running, "PATCH", f"s/instances/{two.address}", drain="true")
        see_only(running, b"1")
        with held(running, one, pool):
            ask(running, "PATCH", f"s/instances/{two.address}", drain="false")
            until_now(lambda: running.status()["services"]["s"]["up"] == 2, BOUND)
            waiting = pool.submit(ask, running, "DELETE", "s/instances/s-1", limit="1m")
            until_now(lambda: "draining" in [i["state"] for i in running.instances("s")], BOUND)
            # Resumed while a removal waits.
            assert ask(running, "PATCH", "s/instances/s-1", drain="false")[0] == 200
            until_now(lambda: [i["state"] for i in running.instances("s")] == ["up", "up"], BOUND)
            one.release.set()
            assert waiting.result(60) == (409, {"problems": ["s-1 was resumed meanwhile, so it is not removed"]})
        assert running.stop() == 0


@pytest.mark.slow
def test_the_last_one_is_spared_unless_it_is_forced(tmp_path: Path, three: list[Server]) -> None:
    one, two, _ = three
    write(tmp_path, f"['{one.url}', '{two.url}']")
    with command(tmp_path, "up") as running:
        running.listening()
        assert ask(running, "PATCH", "s/instances/s-2", drain="true")[0] == 200
        problem = "s-1 is the last instance of s that is up; add another one first, or force the change"
        for method, arguments in (("DELETE", {}), ("PATCH", {"drain": "true"})):
            assert refused(running, method, "s/instances/s-1", **arguments) == (409, problem)
        assert ask(running, "DELETE", "s/instances/s-1", force="true")[0] == 200
        assert refused(running, "DELETE", "s/instances/s-2")[0] == 409
        assert ask(running, "DELETE", "s/instances/s-2", force="true")[0] == 200
        assert running.get("/")[0] == 503
        assert ask(running, "POST", "s/instances", url=one.url)[1]["name"] == "s-1"
        see_only(running, b"1")
        assert running.stop() == 0


@pytest.mark.slow
def test_what_is_refused(tmp_path: Path, three: list[Server]) -> None:
    one, two, _ = three
    (tmp_path / "list.txt").write_text(f"{two.url}\n")
    (tmp_path / "gateway.yaml").write_text(
        f"{HEAD}services:\n  s: {{targets: ['{one.url}', {{file: list.txt}}]}}\n"
        f"  z: {{zones: {{a: {{targets: ['{one.url}']}}, b: {{targets: ['{one.url}']}}}}}}\n"
        "routes: [{path: '/{rest*}', service: s}, {path: /z, service: z}]\n"
    )
    url = "http://127.0.0.1:1"
    with command(tmp_path, "gateway") as running:
        running.listening()
        scheme = "found scheme 'ftp'; allowed is http://host:port or https://host:port, such as http://127.0.0.1:5000"
        found = f"s-{two.address}"
        again = f"{found} was found by list.txt and would be found again; remove it there, or drain it: "
        again += f"passerelle instances drain s {found}"
        cases: list[tuple[str, str, dict[str, str], int, str]] = [
            ("POST", "x/instances", {"url": url}, 404, "there is no service 'x'; the services are: s, z"),
            (
                "POST",
                "s/instances",
                {},
                400,
                "url is required: where the instance listens, such as http://127.0.0.1:5000",
            ),
            ("POST", "s/instances", {"url": "ftp://x"}, 400, f"url: {scheme}, or dns+http://name:port"),
            (
                "POST",
                "s/instances",
                {"url": url, "weight": "0"},
                400,
                "weight: found 0; allowed is a whole number from 1",
            ),
            ("POST", "s/instances", {"url": url, "wieght": "1"}, 400, "found 'wieght'; allowed: url, weight, zone"),
            ("POST", "s/instances", {"url": url, "zone": "a"}, 400, "found zone 'a'; s has no zones"),
            ("POST", "s/instances", {"url": f"{url}/v1"}, 400, f"url: found {url}/v1 with a path; all instances have"),
            ("POST", "s/instances", {"url": "https://x"}, 409, "s has no https:// target in the file"),
            (
                "POST",
                "s/instances",
                {"url": "dns+http://x:1"},
                400,
                "url: dns+http://x:1 is a name to look up, not an instance",
            ),
            (
                "POST",
                "s/instances",
                {"url": f"http://127.0.0.1:{running.port}"},
                409,
                f"found 127.0.0.1:{running.port}, ",
            ),
            (
                "POST",
                "s/instances",
                {"url": f"http://localhost:{running.port}"},
                409,
                f"found localhost:{running.port}, ",
            ),
            ("POST", "z/instances", {"url": url}, 400, "zone is required; allowed: a, b"),
            ("POST", "z/instances", {"url": url, "zone": "c"}, 400, "found zone 'c'; allowed: a, b"),
            ("DELETE", "s/instances/s-9", {}, 404, f"s has no instance 's-9'; the instances are: s-1, s-{two.address}"),
            ("DELETE", f"s/instances/{two.address}", {}, 409, again),
            ("DELETE", "s/instances/s-1", {"limit": "5"}, 400, "limit: found 5 without a unit"),
            ("DELETE", "s/instances/s-1", {"limit": "2h"}, 400, "limit: found '2h'; allowed is at most 1h"),
            ("DELETE", "s/instances/s-1", {"force": "yes"}, 400, "force: found 'yes'; allowed: true, false"),
            ("DELETE", f"z/instances/{one.address}", {}, 400, f"{one.address} is ambiguous: z-a-1, z-b-1"),
            ("PATCH", "s/instances/s-1", {}, 400, "a change needs exactly one of weight and drain"),
            ("PATCH", "s/instances/s-1", {"weight": "1.5"}, 400, "weight: found 1.5"),
            ("PATCH", "s/instances/s-1", {"drain": "false"}, 409, "s-1 is up, not draining"),
            ("GET", "s/instances/s-9", {}, 404, "s has no instance 's-9'"),
            ("GET", "x/instances", {}, 404, "there is no service 'x'; the services are: s, z"),
        ]
        for method, path, arguments, status, problem in cases:
            answer = refused(running, method, path, **arguments)
            assert answer[0] == status and answer[1].startswith(problem), (method, path, arguments, answer)
        for method, path in (("PUT", "/services/s/instances"), ("DELETE", "/services/s/instances")):
            connection = http.client.HTTPConnection("127.0.0.1", running.admin, timeout=10)
            connection.request(method, path, headers={"Passerelle-Admin": "1"})
            response = connection.getresponse()
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD, POST")
            connection.close()
        for fields in ({}, {"Passerelle-Admin": "1", "Origin": "http://localhost"}):
            connection = http.client.HTTPConnection("127.0.0.1", running.admin, timeout=10)
            connection.request("DELETE", "/services/s/instances/s-1", headers=fields)
            assert connection.getresponse().status == 403
            connection.close()
        assert running.stop() == 0


@pytest.mark.long
@pytest.mark.slow
def test_the_only_one_is_spared_although_it_is_down(tmp_path: Path) -> None:
    write(tmp_path, "['http://127.0.0.1:1']")
    with command(tmp_path, "up") as running:
        running.listening()
        settled(running, "down")
        told = "s-1 is the only instance of s; add another one first, or force the change"
        assert refused(running, "DELETE", "s/instances/s-1") == (409, told)
        assert ask(running, "DELETE", "s/instances/s-1", force="true")[0] == 200
        assert running.stop() == 0


@pytest.mark.slow
def test_the_command_line(
    tmp_path: Path, three: list[Server], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, _ = three
    (tmp_path / "gateway.yaml").write_text(
        f"{HEAD}services:\n  s: {{targets: ['{one.url}'], balance: round_robin}}\n"
        f"  p: {{run: [python, -S, '{FILE_SERVER}', '{{port}}']}}\n"
        "routes: [{path: '/{rest*}', service: s}, {path: /p, service: p}]\n"
    )
    with command(tmp_path, "up") as running:
        running.listening()
        monkeypatch.setenv("PASSERELLE_ADMIN", f"127.0.0.1:{running.admin}")

        def said(code: int, *words: str) -> str:
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main(["instances", *words])
            text = "".join(capsys.readouterr())
            assert ended.value.code == code, text
            return text

        assert said(0, "add", "s", two.url, "--weight", "3") == f"s: s-{two.address} added\n"
        assert "balance: round_robin ignores weights" in said(0, "weight", "s", two.address, "5")
        lines = said(0, "list").splitlines()
        assert lines[0].split() == ["service", "name", "state", "address", "weight", "in", "flight", "from"]
        assert lines[2].split() == ["s", f"s-{two.address}", "up", two.address, "5", "0", "added"]
        assert said(0, "drain", "s", "s-1", "--limit", "5s") == "s: s-1 drained, no requests in flight\n"
        assert said(1, "remove", "s", two.url).startswith(f"s-{two.address} is the last instance of s that is up")
        assert said(0, "resume", "s", "s-1") == "s: s-1 resumed; it receives requests as soon as it is up\n"
        until_now(lambda: running.status()["services"]["s"]["up"] == 2, BOUND)
        assert json.loads(said(0, "remove", "s", "s-1", "--json"))["state"] == "gone"
        assert f"removed from s at run time: {one.address}" in said(0, "list", "s")
        assert json.loads(said(0, "list", "s", "--json"))["removed"] == [one.address]
        assert said(1, "list", "x") == "there is no service 'x'; the services are: s, p\n"
        assert "passerelle scale p=N" in said(1, "drain", "p", "p-1")
        assert "a duration has a unit" in said(2, "drain", "s", two.address, "--limit", "5")
        # The same in a separate process with a variable, and in this one with an option for the admin address.
        with command(tmp_path, "instances", "list", "s") as asked:
            assert asked.ended() == 0
            assert asked.text == said(0, "list", "s")
        monkeypatch.delenv("PASSERELLE_ADMIN")
        code, text = invoke(tmp_path, "status", "--admin", f"127.0.0.1:{running.admin}")
        assert code == 0
        assert "added at run time" in text and f"removed from s at run time: {one.address}" in text
        assert running.stop(limit=30) == 0


# Overrides


def spec(port: int, weight: float = 1.0, zone: str = "") -> InstanceSpec:
    return InstanceSpec(f"s-{port}", "10.0.0.1", port, weight, zone)


def test_changes_apply_until_the_declaration_of_that_instance_changes() -> None:
    overrides, declared = Overrides(), [spec(1), spec(2), spec(3)]
    overrides.add(spec(4, 7), declared)
    overrides.remove(target_key(spec(1)), declared)
    overrides.set_weight(target_key(spec(2)), 5, declared)
    assert overrides.apply_to(declared) == [spec(2, 5), spec(3), spec(4, 7)]
    # New declarations: exactly the changes that they concern no longer apply.
    new = [spec(1), spec(2, 2), spec(4, 9)]
    assert overrides.apply_to(new) == [spec(2, 2), spec(4, 9)]
    # Nothing is forgotten before the new declarations are in force.
    assert overrides.apply_to(declared) == [spec(2, 5), spec(3), spec(4, 7)]
    overrides.drop_obsolete(new)
    assert overrides.apply_to(declared) == [spec(2), spec(3)]
    overrides.drop_obsolete([spec(2)])
    assert overrides.apply_to(declared) == declared


def test_a_removed_instance_is_added_again_with_the_new_weight() -> None:
    overrides, declared = Overrides(), [spec(1, 4)]
    overrides.remove(target_key(spec(1)), declared)
    overrides.add(spec(1, 2), declared)
    assert overrides.apply_to(declared) == [spec(1, 2)] and overrides.removed == {}
    overrides.drop_obsolete(declared)
    assert overrides.apply_to(declared) == [spec(1, 2)]


def test_zones_are_distinguished() -> None:
    overrides, declared = Overrides(), [spec(1, zone="a"), spec(1, zone="b")]
    overrides.remove(target_key(spec(1, zone="a")), declared)
    overrides.set_weight(target_key(spec(1, zone="b")), 2, declared)
    assert overrides.apply_to(declared) == [spec(1, 2, "b")]
