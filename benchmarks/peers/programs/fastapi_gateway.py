"""Composition in FastAPI with one shared httpx client, served by uvicorn on uvloop and httptools.

Usage: ``fastapi_gateway.py PORT HOST:PORT...``
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request

PORT, UPSTREAMS = int(sys.argv[1]), itertools.cycle(sys.argv[2:])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient() as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


async def part(client: httpx.AsyncClient, path: str) -> Any:
    return (await client.get(f"http://{next(UPSTREAMS)}{path}")).json()


@app.get("/api/{user}/{product}")
async def compose(request: Request, user: str, product: str) -> dict[str, Any]:
    client = request.app.state.client
    parts = await asyncio.gather(part(client, f"/user/{user}"), part(client, f"/product/{product}"))
    return {"user": parts[0], "product": parts[1]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_level="warning", loop="uvloop")
