"""What clients send grows neither the series of a gateway, nor its live view, nor its memory."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
from typing import Any

import orjson
import pytest

from passerelle.config import load_text
from passerelle.gateway.gateway import Gateway
from passerelle.http1.server.connection import ClientConnection
from passerelle.observability.metrics import UNMATCHED
from passerelle.observability.prometheus import render
from passerelle.observability.recent_failures import MOST_FAILURES
from passerelle.supervisor.live_sampler import LiveSampler, Reading

CONFIG = {
    "listen": "127.0.0.1:0",
    "admin": "off",
    "access_log": "off",
    "services": {"u": {"targets": ["http://127.0.0.1:9"]}},
    "routes": [
        {"path": "/user/{user_id}", "service": "u", "clients": {"deny": ["0.0.0.0/0"]}},
        {"path": "/item/{item_id}", "host": "*.shop.example", "service": "u", "clients": {"deny": ["0.0.0.0/0"]}},
        {"path": "/none", "service": "u"},
    ],
}


class Transport(asyncio.Transport):
    """The other end of a connection that reads everything at once."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"peername": ("127.0.0.1", 5000), "sockname": ("127.0.0.1", 80), "socket": sock})
        self.statuses: dict[bytes, int] = {}

    def write(self, data: Any) -> None:
        status = bytes(data[9:12])
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Source:
    """The live view of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.config = load_text(json.dumps(CONFIG))
        self._gateway = gateway
        self._now = 0.0

    async def live_readings(self) -> list[Reading]:
        self._now += 1.0
        return [Reading("gateway", 7, self._now, self._gateway.live(full=False))]

    def live_states(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
        return {"gateway": {"state": "up"}}, {"u": {"u-1": {"state": "up"}}}


def request(number: int) -> bytes:
    """Return a request with a path, a method, a host and a field that no other number has."""
    method, host = b"M%d" % number, b"Host: h%d.example\r\n\r\n" % number
    kind = number % 10
    if kind == 0:
        return b"GET /none?%d HTTP/1.1\r\n%b" % (number, host)
    if kind in (1, 2, 3):
        return b"GET /item/%d HTTP/1.1\r\nX-F%d: 1\r\nHost: h%d.shop.example\r\n\r\n" % (number, number, number)
    if kind == 4:
        return b"%b /user/%d HTTP/1.1\r\n%b" % (method, number, host)
    return b"%b /p-%d/x HTTP/1.1\r\n%b" % (method, number, host)


@pytest.mark.timeout(120)
def test_a_hundred_thousand_paths_methods_and_hosts_grow_nothing() -> None:
    async def check() -> None:
        gateway = Gateway(load_text(json.dumps(CONFIG)))
        gateway.set_instances("u", [])  # no instance: a request that is admitted fails with 503
        source = Source(gateway)
        live = LiveSampler(source)
        patches: list[int] = []
        live.listen(lambda number, patch: patches.append(len(patch)))
        sock = socket.socket()
        transport = Transport(sock)
        connection = ClientConnection(gateway._listener)
        connection.connection_made(transport)

        unmatched = gateway.metrics.route(UNMATCHED)

        async def send(first: int, last: int) -> tuple[int, int, int, int]:
            """Return how many lines of metrics and bytes of the live view there are, and the most blocks of memory."""
            blocks = 0
            for number in range(first, last):
                if number % 5 == 0:  # a whole request takes 50 times as long as what counts it
                    connection.data_received(request(number // 5))
                else:
                    unmatched.observe(number, number / 1e4, b"M%d" % number)
                if number % 1_000 == 0:
                    await live.take()
                if number % 500 == 0:
                    gc.collect()
                    blocks = max(blocks, sys.getallocatedblocks())  # tables of known heads fill up and are emptied
            text = render(gateway.snapshot())[0]
            history = orjson.dumps(live.history.last(1))
            return text.count(b"\n"), len(live.snapshot()), len(history), blocks

        lines, size, history, blocks = await send(0, 60_000)  # everything that is kept is full
        later = await send(60_000, 100_000)
        assert transport.statuses == {b"403": 8_000, b"404": 10_000, b"503": 2_000}
        text = render(gateway.snapshot())[0].decode()
        assert 'method="M' not in text and "example" not in text.replace("*.shop.example", "") and "/p-" not in text
        assert later[0] == lines
        assert later[1] <= size * 1.05 and later[2] <= history * 1.05
        assert max(patches) < 2_000
        assert later[3] - blocks < 4_000  # half a block for each of 8,000 requests: the tables differ in their phase
        assert len(live.failures) == MOST_FAILURES
        connection.connection_lost(None)
        sock.close()

    gc.collect()
    gc.freeze()  # what the other tests of this process have made
    try:
        asyncio.run(check())
    finally:
        gc.unfreeze()
