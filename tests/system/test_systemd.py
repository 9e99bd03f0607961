"""What systemd passes to a service: whose it is, and that nothing of it is passed on."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from passerelle.system import systemd

OTHER = str(os.getpid() + 1)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": OTHER, "LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "-1", "LISTEN_FDNAMES": "a:b"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": OTHER},
        {"WATCHDOG_USEC": "1000000"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"},
    ],
)
def test_what_is_for_another_process_or_malformed_is_ignored_and_removed(environ: dict[str, str]) -> None:
    environ = environ | {"PATH": "/bin"}
    passed, notifier = systemd.take(environ)
    assert (passed.all, notifier.watchdog, environ) == ([], None, {"PATH": "/bin"})
    notifier.ready("x")  # a socket that does not exist is no error
    asyncio.run(notifier.feed_watchdog())


@pytest.mark.parametrize("abstract", [False, True])
def test_states_are_sent_as_datagrams(tmp_path: Path, abstract: bool) -> None:
    name = f"@passerelle-{os.getpid()}" if abstract else os.fspath(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0"))
        _, notifier = systemd.take({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""})
        assert notifier.watchdog == 30.0
        notifier.ready("listening")
        with pytest.raises(KeyError), notifier.reload():
            raise KeyError
        notifier.stopping()
        received = [receiver.recv(200).decode() for _ in range(4)]
        assert received[0] == "READY=1\nSTATUS=listening"
        assert received[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert received[2:] == ["READY=1", "STOPPING=1"]
