from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from passerelle.system import ports
from passerelle.system.ports import PortTaken


def listener(share: bool = False) -> socket.socket:
    sock = socket.socket()
    if share:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_a_port_of_another_program_is_refused_in_one_line_even_with_reuseport(share: bool, count: int) -> None:
    with listener(share) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            ports.reserve("127.0.0.1", port, count)
        comm = Path("/proc/self/comm").read_text().strip()
        assert str(caught.value) == (
            f"cannot listen on 127.0.0.1:{port}: port {port} is taken by {comm} (pid {os.getpid()})"
        )


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1 is not an address of this machine"):
        ports.reserve("192.0.2.1", 8080)


def test_port_nought_is_one_real_port_for_all_workers() -> None:
    sockets = ports.reserve("127.0.0.1", 0, 3)
    try:
        assert len({s.getsockname()[1] for s in sockets}) == 1
        for s in sockets:
            s.listen()
    finally:
        for s in sockets:
            s.close()


def test_reserved_but_not_listening_refuses_and_connections_wait_once_it_listens() -> None:
    (sock,) = ports.reserve("127.0.0.1", 0)
    with sock, socket.socket() as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect(sock.getsockname())
        sock.listen()
        with socket.create_connection(sock.getsockname(), timeout=1):
            pass


def test_the_port_of_a_run_just_ended_can_be_taken_again() -> None:
    """A connection in TIME_WAIT on the port, closed by this side first, must not block the port."""
    (sock,) = ports.reserve("127.0.0.1", 0)
    sock.listen()
    address = sock.getsockname()
    client = socket.create_connection(address)
    served, _ = sock.accept()
    served.close()
    assert client.recv(1) == b""
    client.close()
    sock.close()
    (again,) = ports.reserve(*address)
    again.close()


def test_free_ports_can_be_bound_avoid_what_is_promised_and_stay_out_of_the_kernels_range() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    given: set[int] = set()
    for _ in range(50):
        port = ports.free(given)
        assert port not in given
        assert port < low
        given.add(port)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", port))


def test_the_lack_of_a_free_port_is_reported() -> None:
    with pytest.raises(PortTaken, match="no free port between"):
        ports.free(range(65536))


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:0", ("::1", 0)),
        (":9", ("127.0.0.1", 9)),
        ("8080", ("127.0.0.1", 8080)),
    ],
)
def test_addresses(text: str, pair: tuple[str, int]) -> None:
    assert ports.split(text) == pair
    assert ports.split(ports.join(*pair)) == pair


@pytest.mark.parametrize("text", ["", "host", "host:", "host:65536", "host:-1", "host:８０"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        ports.split(text)
