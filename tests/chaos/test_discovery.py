"""Instances that come and go by DNS and by file under load, and a DNS server that fails."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, command
from tests.support.names import Names

HEAD = "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\naccess_log: 'off'\n"
TAIL = "routes: [{path: '/{rest*}', service: s}]\n"
EVENLY = "balance: round_robin, slow_start: 'off'"
BOUND = 30.0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.server.server_address[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def servers(*hosts: str) -> Iterator[int]:
    """Run a server on each of these addresses, all on one port."""
    running: list[http.server.ThreadingHTTPServer] = []
    try:
        port = 0
        for host in hosts:
            running.append(http.server.ThreadingHTTPServer((host, port), Handler))
            port = running[0].server_address[1]
        for server in running:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield port
    finally:
        for server in running:
            server.shutdown()
            server.server_close()


class Clients:
    """Send requests without a pause and record the responses."""

    def __init__(self, running: Up) -> None:
        self._running = running
        self.failed: list[object] = []
        self.recent: list[str] = []
        self.count = 0
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                status, body = self._running.get("/")
            except OSError as error:
                self.failed.append(error)
                continue
            self.count += 1
            if status == 200:
                self.recent = [*self.recent[-29:], body.decode()]
            else:
                self.failed.append((status, body))

    def see_only(self, *hosts: str) -> None:
        """Wait until exactly these hosts respond."""
        until_now(lambda: len(self.recent) == 30 and set(self.recent) == set(hosts), BOUND)

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(20)


@contextlib.contextmanager
def asked(running: Up) -> Iterator[Clients]:
    running.listening()
    clients = Clients(running)
    try:
        yield clients
    finally:
        clients.stop()


def replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("what", ["up", "gateway"])
def test_names_are_looked_up_again_and_a_failing_server_changes_nothing(tmp_path: Path, what: str) -> None:
    names = Names(ttl=0)
    with contextlib.closing(names), servers("127.0.0.1", "127.0.0.2", "127.0.0.3") as port:
        names.records = {("s.test", "A"): ["127.0.0.1", "127.0.0.2"]}
        (tmp_path / "gateway.yaml").write_text(
            f"{HEAD}dns: {{server: '{names.server}', min_ttl: 100ms, timeout: 500ms}}\n"
            f"services: {{s: {{targets: ['dns+http://s.test:{port}'], {EVENLY}}}}}\n{TAIL}"
        )
        with command(tmp_path, what) as running, asked(running) as clients:
            clients.see_only("127.0.0.1", "127.0.0.2")
            names.records = {("s.test", "A"): ["127.0.0.2", "127.0.0.3"]}
            clients.see_only("127.0.0.2", "127.0.0.3")
            for wrong in ("broken", "silent", "empty"):
                kept, asked_before = names.records, names.asked
                if wrong == "empty":
                    names.records = {}
                else:
                    setattr(names, wrong, True)
                until_now(lambda before=asked_before: names.asked > before + 6, BOUND)
                names.records = kept
                names.broken = names.silent = False
                assert {i["name"] for i in running.instances("s")} == {f"s-127.0.0.{n}:{port}" for n in (2, 3)}
            names.records = {("s.test", "A"): ["127.0.0.1"]}
            clients.see_only("127.0.0.1")
            assert clients.failed == [] and clients.count > 0
            assert "keeping its last 2 targets" in running.text


@pytest.mark.long
@pytest.mark.slow
def test_the_next_priority_of_srv_records_takes_over_from_dead_instances(tmp_path: Path) -> None:
    name = "_http._tcp.s.test"
    names = Names(ttl=0)
    with contextlib.closing(names), servers("127.0.0.1") as port, servers("127.0.0.2") as second:
        hosts = {("a.s.test", "A"): ["127.0.0.1"], ("b.s.test", "A"): ["127.0.0.2"]}
        names.records = {(name, "SRV"): [f"10 1 {port} a.s.test.", f"20 1 {second} b.s.test."], **hosts}
        (tmp_path / "gateway.yaml").write_text(
            f"{HEAD}dns: {{server: '{names.server}', min_ttl: 100ms}}\n"
            f"services: {{s: {{targets: ['dns+http://{name}'], {EVENLY}}}}}\n{TAIL}"
        )
        with command(tmp_path, "up") as running, asked(running) as clients:
            clients.see_only("127.0.0.1")
            # Other priorities: the same instances in reverse order, under load.
            names.records = {(name, "SRV"): [f"20 1 {port} a.s.test.", f"10 1 {second} b.s.test."], **hosts}
            clients.see_only("127.0.0.2")
            # The first one is not running any more, whatever the records say.
            names.records = {(name, "SRV"): [f"20 1 {port} a.s.test.", f"10 1 {unused()} b.s.test."], **hosts}
            clients.see_only("127.0.0.1")
            assert clients.failed == [] and clients.count > 0


def unused() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.2", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.parametrize("what", [pytest.param("up", marks=pytest.mark.long), "gateway"])
def test_a_list_that_changes_under_load_fails_no_request(tmp_path: Path, what: str) -> None:
    with servers("127.0.0.1", "127.0.0.2", "127.0.0.3") as port:
        listed = tmp_path / "targets.txt"

        def line(number: int) -> str:
            return f"http://127.0.0.{number}:{port}\n"

        listed.write_text(line(1))
        (tmp_path / "gateway.yaml").write_text(
            f"{HEAD}services: {{s: {{targets: {{file: targets.txt}}, {EVENLY}}}}}\n{TAIL}"
        )
        with command(tmp_path, what) as running, asked(running) as clients:
            clients.see_only("127.0.0.1")
            replace(listed, line(1) + line(2))
            clients.see_only("127.0.0.1", "127.0.0.2")
            replace(listed, line(3))
            clients.see_only("127.0.0.3")
            replace(listed, line(1) + "http//nonsense\n")
            running.says(r"targets\.txt:2: url: found 'http//nonsense'", BOUND)
            clients.see_only("127.0.0.3")
            replace(listed, line(3) + line(1))
            clients.see_only("127.0.0.1", "127.0.0.3")
            assert clients.failed == []


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("what", ["up", "gateway"])
def test_a_reload_brings_and_ends_what_is_found(tmp_path: Path, what: str) -> None:
    with servers("127.0.0.1", "127.0.0.2") as port:
        (tmp_path / "targets.yaml").write_text(f"- http://127.0.0.2:{port}\n")
        file = tmp_path / "gateway.yaml"

        def say(targets: str) -> None:
            file.write_text(f"{HEAD}services: {{s: {{targets: {targets}, {EVENLY}}}}}\n{TAIL}")

        say(f"['http://127.0.0.1:{port}']")
        with command(tmp_path, what) as running, asked(running) as clients:
            clients.see_only("127.0.0.1")
            say(f"['http://127.0.0.1:{port}', {{file: targets.yaml}}]")
            assert _reload(tmp_path, running) == 0
            clients.see_only("127.0.0.1", "127.0.0.2")
            say("{file: targets.yaml}")
            assert _reload(tmp_path, running) == 0
            clients.see_only("127.0.0.2")
            say(f"['http://127.0.0.1:{port}']")
            assert _reload(tmp_path, running) == 0
            clients.see_only("127.0.0.1")
            assert clients.failed == []


def _reload(folder: Path, running: Up) -> int:
    with command(folder, "reload", "--admin", f"127.0.0.1:{running.admin}") as asking:
        return asking.popen.wait(60)
