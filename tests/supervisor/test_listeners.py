"""The sockets of a gateway: bound for its listeners, passed by systemd, kept by workers, changed by reloads."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from passerelle.config import load_text
from passerelle.config.models.config import Config
from passerelle.supervisor.listeners import Listeners
from passerelle.system.ports import PortTaken
from passerelle.system.systemd import PassedSockets
from tests.supervisor.helpers import until_now
from tests.supervisor.up import command, invoke
from tests.support.upstream import Upstream, answering, ok


def config(listen: Any) -> Config:
    services = {"u": {"targets": ["http://127.0.0.1:1"]}}
    return load_text(
        json.dumps({"listen": listen, "services": services, "routes": [{"path": "/{rest*}", "service": "u"}]})
    )


@contextlib.contextmanager
def bound(listen: Any, workers: int = 1, passed: PassedSockets | None = None) -> Iterator[Listeners]:
    listeners = Listeners(workers, passed)
    with listeners.bind(config(listen)) as opened:
        opened.adopt()
    try:
        yield listeners
    finally:
        listeners.close()


# ---- Unix sockets


def test_workers_share_a_unix_socket_and_have_their_own_tcp_sockets(tmp_path: Path) -> None:
    with bound(["127.0.0.1:0", f"unix:{tmp_path}/s"], workers=2) as listeners:
        one, two = listeners.for_worker(0), listeners.for_worker(1)
        assert one[0].sock is not two[0].sock and one[0].sock.getsockname() == two[0].sock.getsockname()
        assert one[1] == two[1]


def test_a_socket_that_a_process_has_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(path))
    with bound(f"unix:{path}") as listeners:
        listeners.for_worker(0)[0].sock.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))


def test_a_socket_in_use_another_file_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as used:
        used.bind(os.fspath(path))
        used.listen()
        with pytest.raises(PortTaken, match=r"unix:.*/s: a process listens there"):
            Listeners(1).bind(config(f"unix:{path}"))
    path.unlink()
    path.write_text("precious")
    with pytest.raises(PortTaken, match="another kind of file is there"):
        Listeners(1).bind(config(f"unix:{path}"))
    assert path.read_text() == "precious"
    with pytest.raises(PortTaken, match="no such file or directory"):
        Listeners(1).bind(config(f"unix:{tmp_path}/missing/s"))


def test_the_file_of_another_gateway_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bound(f"unix:{path}"):
        path.unlink()
        path.write_text("of another")
    assert path.read_text() == "of another"


# ---- sockets of systemd


def test_a_passed_socket_is_used_by_its_name_or_by_its_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as by_name, socket.create_server(("127.0.0.1", 0)) as by_address:
        passed = PassedSockets([("web", by_name), ("api", by_address), ("web", by_address), ("other", by_name)])
        address = f"127.0.0.1:{by_address.getsockname()[1]}"
        with bound([address, "127.0.0.1:0"], 2, passed) as listeners:
            assert listeners.for_worker(1)[0].sock is by_address
            assert listeners.unused == ["web", "other"]
        with bound("systemd:web", 2, passed) as listeners:
            assert [each.sock for each in listeners.for_worker(0)] == [by_name, by_address]
            assert [each.listener for each in listeners.for_worker(0)] == [0, 0]
        assert by_name.fileno() > 0, "it stays open"
        with pytest.raises(PortTaken, match=f"systemd:web is a socket that {address} has already"):
            Listeners(2, passed).bind(config([address, "systemd:web"]))
        with pytest.raises(PortTaken, match="systemd has passed no socket with the name x; start the socket unit"):
            Listeners(1, passed).bind(config("systemd:x"))


# ---- whole systems

# Becomes the command in its arguments with a socket as descriptor 3, as systemd starts a service.
ACTIVATE = """
import fcntl, os, socket, sys
sock = socket.create_server(("127.0.0.1", 0))
high = fcntl.fcntl(sock, fcntl.F_DUPFD, 100)
os.dup2(high, 3)
os.close(high)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
os.environ |= {"WATCHDOG_PID": str(os.getpid()), "WATCHDOG_USEC": "400000"}
os.execvp(sys.argv[1], sys.argv[1:])
"""
FILE = """
listen: {listen}
admin: 127.0.0.1:0
access_log: 'off'
workers: 2
services: {{u: {{targets: ['{url}']}}}}
routes: [{{path: '/{{rest*}}', service: u}}]
"""


def served(address: tuple[str, int] | str) -> bool:
    """Whether a request to the address gets a response."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
        client.settimeout(10)
        try:
            client.connect(address)
            client.sendall(b"GET / HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
            return client.recv(15) == b"HTTP/1.1 200 OK"
        except OSError:
            return False


@pytest.mark.slow
def test_systemd_passes_a_socket_and_is_notified_and_reloads_change_the_rest(tmp_path: Path) -> None:
    upstream = Upstream(answering(ok()))
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(os.fspath(tmp_path / "notify"))
    messages: list[str] = []

    def receive() -> None:
        while text := notified.recv(4096).decode():
            messages.append(text)

    def next_state(kind: str) -> str:
        """Wait for the next message of this kind, and return it."""
        until_now(lambda: any(text.startswith(f"{kind}=") for text in messages))
        while not (text := messages.pop(0)).startswith(f"{kind}="):
            pass
        return text

    receiver = threading.Thread(target=receive, daemon=True)
    receiver.start()

    def write(*listen: str) -> None:
        (tmp_path / "gateway.yaml").write_text(FILE.format(listen=json.dumps(listen), url=upstream.url))

    def reload() -> tuple[int, str]:
        return invoke(tmp_path, "reload", "--admin", f"127.0.0.1:{running.admin}")

    write("systemd:web", f"unix:{tmp_path}/a")
    env = {"NOTIFY_SOCKET": os.fspath(tmp_path / "notify")}
    with notified, command(tmp_path, "up", env=env, before=[sys.executable, "-c", ACTIVATE]) as running:
        match = running.says(r"listening on http://127\.0\.0\.1:(\d+), unix:\S+/a \(http\) · admin http://.*:(\d+)")
        web, running.admin = ("127.0.0.1", int(match[1])), int(match[2])
        assert next_state("READY").startswith("READY=1\nSTATUS=listening on http://127.0.0.1:")
        assert next_state("WATCHDOG") == "WATCHDOG=1"
        assert served(web) and served(f"{tmp_path}/a")
        for pid in running.named("worker_start"):
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()

        write(f"unix:{tmp_path}/b", "systemd:web", "127.0.0.1:0")
        assert reload()[0] == 0
        assert next_state("RELOADING").startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert next_state("READY") == "READY=1"
        assert served(web) and served(f"{tmp_path}/b") and not (tmp_path / "a").exists()

        # A worker that is replaced has the sockets of the reload.
        for pid in running.named("worker_start"):
            os.kill(pid, signal.SIGKILL)
        until_now(lambda: [w["state"] for w in running.status()["workers"]] == ["up", "up"])
        assert served(web) and served(f"{tmp_path}/b")

        with socket.create_server(("127.0.0.1", 0)) as taken:
            write("systemd:web", f"127.0.0.1:{taken.getsockname()[1]}")
            code, text = reload()
            assert code == 1 and "listen: cannot listen on 127.0.0.1" in text
        assert served(web) and served(f"{tmp_path}/b")
        assert running.stop() == 0
        assert next_state("STOPPING") == "STOPPING=1"
        assert not (tmp_path / "b").exists()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", os.fspath(tmp_path / "notify"))
        receiver.join()
    upstream.close()


@pytest.mark.slow
def test_a_gateway_without_a_supervisor_applies_another_list(tmp_path: Path) -> None:
    def write(*listen: str) -> None:
        text = FILE.format(listen=json.dumps(listen), url="http://127.0.0.1:1").replace("service: u", "respond: {}")
        (tmp_path / "gateway.yaml").write_text(text.replace("workers: 2", ""))

    write("127.0.0.1:0", f"unix:{tmp_path}/a")
    with command(tmp_path, "gateway") as running:
        match = running.says(r"listening on http://127\.0\.0\.1:(\d+), unix:\S+/a \(http\) · admin http://.*:(\d+)")
        first, admin = ("127.0.0.1", int(match[1])), f"127.0.0.1:{match[2]}"
        write(f"unix:{tmp_path}/b")
        assert invoke(tmp_path, "reload", "--admin", admin)[0] == 0
        assert served(f"{tmp_path}/b") and not served(first) and not (tmp_path / "a").exists()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            write("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}")
            code, text = invoke(tmp_path, "reload", "--admin", admin)
            assert code == 1 and "listen: cannot listen on 127.0.0.1" in text
        assert served(f"{tmp_path}/b")
        assert running.stop() == 0
    assert not (tmp_path / "b").exists()
