"""Targets that are names: looked up again while connections are in use, and kept where a look-up fails."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from passerelle.http1.client.names import LOOKUP_SECONDS, is_name
from passerelle.http1.client.pool import ConnectionPool
from tests.support.streams import stream_server


class Clock:
    now = 100.0


class Waiter:
    def __init__(self) -> None:
        self.found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def client_key(self) -> bytes | None:
        return None

    def on_connection(self, connection: Any) -> None:
        self.found.set_result(connection)

    def on_no_connection(self, failure: Any) -> None:
        self.found.set_result(failure)


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", False), ("::1", False), ("name.example", True)])
def test_what_is_a_name(host: str, expected: bool) -> None:
    assert is_name(host) is expected


def test_a_name_that_moves_is_followed_and_one_that_cannot_be_found_stays() -> None:
    async def check() -> None:
        loop: Any = asyncio.get_running_loop()
        ended = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            ended.append(writer)

        async with stream_server(serve) as port, stream_server(serve, "127.0.0.2", port):
            answers: list[Any] = ["127.0.0.1"]
            asked = []
            genuine = loop.getaddrinfo

            async def getaddrinfo(host: Any, wanted: Any, **more: Any) -> Any:
                if host != "moving.example":
                    return await genuine(host, wanted, **more)
                asked.append(host)
                if isinstance(answers[-1], OSError):
                    raise answers[-1]
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[-1], wanted))]

            loop.getaddrinfo = getaddrinfo
            clock: Any = Clock()
            pool: Any = ConnectionPool(loop, clock, "moving.example", port)

            async def connected() -> Any:
                waiter = Waiter()
                pool.request(waiter)
                return await waiter.found

            first = await connected()
            assert first.address == "127.0.0.1"
            pool.release(first)
            busy = await connected()
            assert len(asked) == 1  # within the time nothing is looked up again

            answers.append(socket.gaierror("no answer"))
            clock.now += LOOKUP_SECONDS
            pool.sweep()
            again = await connected()
            assert again.address == "127.0.0.1" and len(asked) == 2
            again.close()

            answers.append("127.0.0.2")
            clock.now += LOOKUP_SECONDS
            pool._keepalive = 1000.0
            while "127.0.0.2" not in pool._names.addresses:
                pool.sweep()
                await asyncio.sleep(0)
            pool.sweep()
            assert pool.checkout() is None
            pool.release(busy)  # it comes back from a request, and is not used again
            assert pool.checkout() is None
            last = await connected()
            assert last.address == "127.0.0.2"
            last.close()
            pool.close()
            while len(ended) < 3:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(check(), 20))
