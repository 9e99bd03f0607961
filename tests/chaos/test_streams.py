"""Ten WebSockets and a server-sent event stream, with a real library, survive reloads and are counted correctly."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.test_no_client_notices import change
from tests.requirements import module
from tests.supervisor.helpers import until, until_now
from tests.supervisor.up import Up, command

aiohttp = module("aiohttp")

pytestmark = pytest.mark.slow

SERVER = """
import asyncio, sys
from aiohttp import web
async def echo(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws
async def events(request):
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for number in range(10**6):
        await answer.write(b"data: %d\\n\\n" % number)
        await asyncio.sleep(0.02)
async def health(request):
    return web.Response()
app = web.Application()
app.add_routes([web.get("/ws", echo), web.get("/events", events), web.get("/", health)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""
CONFIG = f"""
listen: 127.0.0.1:0
admin: 127.0.0.1:0
access_log: 'off'
services:
  s: {{run: [{sys.executable}, serve.py, "{{port}}"], instances: 2, health: {{path: /}}}}
routes: [{{path: "/{{rest*}}", service: s}}]
"""

# The number of instances and the policy, the routes, and back.
VERSIONS = (
    CONFIG.replace("instances: 2", "instances: 3, balance: round_robin"),
    CONFIG.replace("routes: [", "  t: {targets: ['http://127.0.0.1:9']}\nroutes: [{path: /t, service: t}, "),
    CONFIG,
)


def in_flight(running: Up) -> int:
    return sum(instance["in_flight"] for instance in running.instances("s"))


def test_websockets_and_events_live_through_twenty_reloads(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(SERVER)
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    with command(tmp_path, "up") as running:
        running.listening()
        asyncio.run(_talk(tmp_path, running))
        assert running.stop() == 0


def _reset(transport: asyncio.Transport) -> None:
    """Close a connection like a killed client: by RST, without completing anything."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _more(seen: list[bytes], than: int) -> bool:
    return len(seen) > than


async def _talk(folder: Path, running: Up) -> None:
    seen: list[bytes] = []
    at = f"http://127.0.0.1:{running.port}"
    async with aiohttp.ClientSession() as session:
        sockets = [await session.ws_connect(f"{at}/ws") for _ in range(10)]
        async with session.get(f"{at}/events", timeout=aiohttp.ClientTimeout(total=None)) as stream:

            async def listen() -> None:
                async for line in stream.content:
                    if line.strip():
                        seen.append(line)

            listening = asyncio.create_task(listen())
            for number in range(20):
                (folder / "gateway.yaml").write_text(VERSIONS[number % 3])
                await asyncio.to_thread(change, running, "/reload")
                before = len(seen)
                for index, each in enumerate(sockets):
                    await each.send_str(f"{number}.{index}")
                heard = [await each.receive_str(timeout=20) for each in sockets]
                assert heard == [f"{number}.{index}" for index in range(10)]
                await until(partial(_more, seen, before), 20)
            assert seen == [b"data: %d\n" % number for number in range(len(seen))]
            assert await asyncio.to_thread(in_flight, running) == 11
            for each in sockets[:5]:
                await each.close()
            for response in [*(each._response for each in sockets[5:]), stream]:
                _reset(response.connection.transport)
            with contextlib.suppress(aiohttp.ClientError):
                await listening
    await asyncio.to_thread(until_now, lambda: in_flight(running) == 0, 20)
