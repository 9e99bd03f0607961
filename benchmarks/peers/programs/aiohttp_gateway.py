"""Composition in aiohttp (server and client) with uvloop and orjson: the fastest hand-written variant.

Usage: ``aiohttp_gateway.py PORT HOST:PORT...``
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import uvloop
from aiohttp import web

PORT, UPSTREAMS = int(sys.argv[1]), itertools.cycle(sys.argv[2:])
CLIENT = web.AppKey("client", aiohttp.ClientSession)


async def client(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        app[CLIENT] = session
        yield


async def part(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(f"http://{next(UPSTREAMS)}{path}") as response:
        return orjson.loads(await response.read())


async def compose(request: web.Request) -> web.Response:
    session, ids = request.app[CLIENT], request.match_info
    user, product = await asyncio.gather(
        part(session, f"/user/{ids['user']}"), part(session, f"/product/{ids['product']}")
    )
    return web.Response(body=orjson.dumps({"user": user, "product": product}), content_type="application/json")


def main() -> None:
    app = web.Application()
    app.cleanup_ctx.append(client)
    app.router.add_get("/api/{user}/{product}", compose)
    web.run_app(app, host="127.0.0.1", port=PORT, access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
