from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.supervisor import control_channel
from passerelle.supervisor.control_channel import ControlClient, ControlError, ControlServer, Message
from tests.supervisor.helpers import run, until


@contextlib.asynccontextmanager
async def pair(
    operations: dict[str, Callable[[Message], Awaitable[Any]]],
) -> AsyncIterator[tuple[ControlClient, ControlServer, list[Message]]]:
    ours, theirs = socket.socketpair()
    events: list[Message] = []
    client = ControlClient(*await control_channel.open_channel(ours), events.append)
    server = ControlServer(*await control_channel.open_channel(theirs), operations)
    tasks = [asyncio.create_task(client.run()), asyncio.create_task(server.run())]
    try:
        yield client, server, events
    finally:
        client.close()
        await asyncio.gather(*tasks)


async def echo(message: Message) -> Any:
    return message["value"]


async def broken(message: Message) -> Any:
    raise ValueError("no such service")


def test_questions_answers_errors_and_events() -> None:
    async def check() -> None:
        async with pair({"echo": echo, "broken": broken}) as (client, server, events):
            answers = await asyncio.gather(*(client.request("echo", 5, value=n) for n in range(100)))
            assert answers == list(range(100))
            with pytest.raises(ControlError, match="ValueError: no such service"):
                await client.request("broken", 5)
            with pytest.raises(ControlError, match="unknown operation 'nothing'"):
                await client.request("nothing", 5)
            server.send_event("ready", listen="127.0.0.1:1")
            await until(lambda: events)
            assert events == [{"event": "ready", "listen": "127.0.0.1:1"}]

    run(check())


def test_an_answer_that_does_not_come_is_a_timeout_and_a_late_one_is_ignored() -> None:
    gate = asyncio.Event()

    async def slow(message: Message) -> Any:
        await gate.wait()

    async def check() -> None:
        async with pair({"slow": slow, "echo": echo}) as (client, _, _events):
            with pytest.raises(ControlError, match=r"no reply to slow within 0\.05 s"):
                await client.request("slow", 0.05)
            gate.set()
            assert await client.request("echo", 5, value="next") == "next"

    run(check())


def test_a_worker_that_goes_fails_every_open_question_and_every_later_one() -> None:
    async def check() -> None:
        ours, theirs = socket.socketpair()
        client = ControlClient(*await control_channel.open_channel(ours), print)
        task = asyncio.create_task(client.run())
        question = asyncio.create_task(client.request("status", 5))
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(ControlError, match="gone"):
            await question
        await task
        with pytest.raises(ControlError, match="gone"):
            await client.request("status", 5)

    run(check())


def test_the_servers_run_ends_with_the_supervisor() -> None:
    async def check() -> None:
        ours, theirs = socket.socketpair()
        server = ControlServer(*await control_channel.open_channel(theirs), {})
        task = asyncio.create_task(server.run())
        ours.close()
        await task

    run(check())


@pytest.mark.parametrize("line", [b"[1]\n", b"{\n", b"\n", b'{"id":1', b"\xff\n"])
def test_nonsense_ends_the_channel_without_a_traceback(line: bytes) -> None:
    async def check() -> None:
        ours, theirs = socket.socketpair()
        client = ControlClient(*await control_channel.open_channel(ours), print)
        theirs.sendall(line)
        theirs.shutdown(socket.SHUT_WR)
        await client.run()
        assert client.closed
        theirs.close()

    run(check())


def test_a_line_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_channel, "LINE_LIMIT", 1024)

    async def check() -> None:
        ours, theirs = socket.socketpair()
        client = ControlClient(*await control_channel.open_channel(ours), print)
        theirs.sendall(b"x" * 5000)
        await client.run()
        assert client.closed
        theirs.close()

    run(check())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_message_is_one_line_and_comes_back_as_it_was(message: Message) -> None:
    line = control_channel.encode(message)
    assert line.count(b"\n") == 1
    assert control_channel.decode(line) == message
