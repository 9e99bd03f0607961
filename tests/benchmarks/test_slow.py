"""Slow clients send a byte from time to time, and their number is constant."""

import socket
import threading

from benchmarks.rig.slow import SlowClients
from tests.support.wire import wait_until

LONG = 30.0


def test_they_drip_and_come_again_when_refused() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []
    arrived: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            accepted.append(client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with SlowClients(listener.getsockname()[1], 3, "/x", period=0.1) as slow:
        wait_until(lambda: len(accepted) == 3, "three clients", LONG)
        accepted[0].settimeout(LONG)
        begun = b""
        while not begun.endswith(b"X-Slow: xx"):
            begun += accepted[0].recv(1)
        assert begun.startswith(b"GET /x HTTP/1.1\r\n") and b"\r\n\r\n" not in begun
        accepted[0].close()
        wait_until(lambda: len(accepted) == 4, "another one in its place", LONG)
        wait_until(lambda: slow.refused == 1, "it is counted", LONG)
    for client in accepted[1:]:
        client.settimeout(LONG)
        while data := client.recv(4096):
            arrived.append(data)
        client.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(LONG)
    assert arrived
