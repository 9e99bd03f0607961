"""A worker process and reloads: it applies the configuration in force whenever the reload meets its start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from passerelle.config import load_text
from passerelle.config.models.config import Config
from passerelle.errors import CannotStart
from passerelle.gateway.endpoints import BoundSocket
from passerelle.supervisor.control_channel import ControlError
from passerelle.supervisor.listeners import Listeners
from passerelle.supervisor.packed_config import pack
from passerelle.supervisor.restart_backoff import Backoff
from passerelle.supervisor.socket_channel import ReceivedSockets, SocketSender
from passerelle.supervisor.worker_process import WorkerProcess
from tests.supervisor.helpers import run, until


def responding(listen: list[str], body: str) -> Config:
    route = {"path": "/{rest*}", "respond": {"body": body}}
    return load_text(json.dumps({"listen": listen, "routes": [route]}))


@contextlib.asynccontextmanager
async def running(config: Config, listeners: Listeners) -> AsyncIterator[WorkerProcess]:
    """A worker that is being started, and may not listen yet."""
    with listeners.bind(config) as opened:
        opened.adopt()
    events: Any = SimpleNamespace(up=lambda member: None, ended=lambda *facts: None)
    worker = WorkerProcess(
        "gateway",
        "file",
        pack(config),
        listeners.for_worker(0),
        (),
        asyncio.Event(),
        lambda name, line: None,
        lambda line: None,
        Backoff(random.random),
        events,
        time.monotonic,
    )
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await worker.stop(1.0)
        listeners.close()


async def reload(worker: WorkerProcess, listeners: Listeners, config: Config) -> None:
    with listeners.bind(config) as opened:
        await worker.reload(pack(config), opened.for_worker(0))
        opened.adopt()


async def body(address: str) -> str:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    response = await reader.read()
    writer.close()
    await writer.wait_closed()
    return response.partition(b"\r\n\r\n")[2].decode()


@pytest.mark.parametrize("moment", ["before its channel is open", "before it listens"])
def test_a_reload_during_the_start_of_a_worker_is_applied(moment: str) -> None:
    async def check() -> None:
        listeners = Listeners(1)
        async with running(responding(["127.0.0.1:0"], "old"), listeners) as worker:
            (old,) = listeners.addresses
            # The process before this one has accepted there: the kernel goes on until all have closed the socket.
            worker.sockets[0].sock.listen()
            if moment == "before its channel is open":
                while worker.process is None:
                    await asyncio.sleep(0)
                assert worker._client is None
            else:
                await until(lambda: worker._client is not None)
            await reload(worker, listeners, responding(["127.0.0.2:0", "127.0.0.3:0"], "new"))
            worker._may_listen.set()
            await until(worker.settled.is_set)
            assert worker.last_end == ""
            assert [await body(address) for address in listeners.addresses] == ["new", "new"]
            with pytest.raises(ConnectionRefusedError):
                await body(old)

    run(check())


def test_a_reload_that_fails_during_the_start_leaves_the_listeners_of_the_configuration_in_force() -> None:
    async def check() -> None:
        listeners = Listeners(1)
        before = responding(["127.0.0.1:0"], "old")
        async with running(before, listeners) as worker:
            (old,) = listeners.addresses
            await until(lambda: worker._client is not None)
            refused = responding(["127.0.0.2:0"], "new")
            with listeners.bind(refused) as opened:
                reloading = asyncio.create_task(worker.reload("not a configuration", opened.for_worker(0)))
                await asyncio.sleep(0)
                worker._may_listen.set()
                with pytest.raises(ControlError):
                    await reloading
            await until(worker.settled.is_set)
            assert await body(old) == "old"
            await reload(worker, listeners, responding(["127.0.0.3:0"], "newer"))
            assert await body(listeners.addresses[0]) == "newer"
            with pytest.raises(ConnectionRefusedError):
                await body(old)

    run(check())


def test_a_worker_that_cannot_return_to_the_previous_configuration_starts_with_it() -> None:
    async def check() -> None:
        listeners = Listeners(1)
        config = responding(["127.0.0.1:0"], "old")
        async with running(config, listeners) as worker:
            await until(lambda: worker._client is not None)
            assert worker._client is not None
            sockets = listeners.for_worker(0)
            with pytest.raises(ControlError):
                await worker.restore("the previous one", sockets, {})
            assert (worker._config, worker.sockets) == ("the previous one", sockets)

    run(check())


def test_a_message_takes_its_own_sockets_and_leaves_those_of_a_later_one() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bound = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    one, two, three = (BoundSocket(0, key, sock) for key, sock in enumerate(bound))
    sender, received = SocketSender(ours, []), ReceivedSockets({}, theirs.detach())
    sender.send([one])
    sender.send([one, two])
    received.select([(0, 0)])
    received.close_others([(0, 0)])
    assert [each.key for each in received.select([(0, 0), (1, 1)])] == [0, 1]
    received.close_others([(1, 1)])
    sender.keep([two])
    sender.send([one, three])
    assert [each.sock.getsockname() for each in received.select([(0, 0), (1, 2)])] == [
        each.sock.getsockname() for each in (one, three)
    ]
    with pytest.raises(CannotStart, match="the socket 7 was not received"):
        received.select([(0, 7)])
    received.close_others([])
    received._channel.close()
    sender.close()
    for each in bound:
        each.close()
