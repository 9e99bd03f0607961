"""What clients send grows neither the series of a gateway, nor its live view, nor its memory."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import subprocess
import sys
from pathlib import Path
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

ROOT = Path(__file__).resolve().parents[2]
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


async def measure() -> dict[str, Any]:
    """Send 100,000 requests. Return what is kept after 60,000 of them, when everything is full, and at the end."""
    gateway = Gateway(load_text(json.dumps(CONFIG)))
    gateway.set_instances("u", [])  # no instance: a request that is admitted fails with 503
    live = LiveSampler(Source(gateway))
    patches: list[int] = []
    live.listen(lambda number, patch: patches.append(len(patch)))
    sock = socket.socket()
    transport = Transport(sock)
    connection = ClientConnection(gateway._listener)
    connection.connection_made(transport)
    unmatched = gateway.metrics.route(UNMATCHED)

    async def send(first: int, last: int) -> dict[str, int]:
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
        lines = render(gateway.snapshot())[0].count(b"\n")
        history = orjson.dumps(live.history.last(1))
        return {"lines": lines, "snapshot": len(live.snapshot()), "history": len(history), "blocks": blocks}

    found = {
        "full": await send(0, 60_000),
        "end": await send(60_000, 100_000),
        "statuses": {status.decode(): count for status, count in transport.statuses.items()},
        "metrics": render(gateway.snapshot())[0].decode(),
        "longest patch": max(patches),
        "failures": len(live.failures),
    }
    connection.connection_lost(None)
    sock.close()
    return found


@pytest.mark.timeout(120)
def test_a_hundred_thousand_paths_methods_and_hosts_grow_nothing() -> None:
    """In a process of its own: what other tests have left behind in this one would count as well."""
    command = [sys.executable, "-m", "tests.observability.test_bounded_series"]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    full, end, text = found["full"], found["end"], found["metrics"]
    assert found["statuses"] == {"403": 8_000, "404": 10_000, "503": 2_000}
    assert 'method="M' not in text and "example" not in text.replace("*.shop.example", "") and "/p-" not in text
    assert end["lines"] == full["lines"]
    assert end["snapshot"] <= full["snapshot"] * 1.05 and end["history"] <= full["history"] * 1.05
    assert found["longest patch"] < 2_000
    # Half a block for each of 8,000 requests: the tables differ in their phase.
    assert end["blocks"] - full["blocks"] < 4_000
    assert found["failures"] == MOST_FAILURES


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure())))
