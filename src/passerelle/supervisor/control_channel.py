"""The control channel between the supervisor and a worker: JSON, one message a line, over a Unix socket pair.

The supervisor asks (``{"id": 7, "op": "status", ...}``), the worker answers (``{"id": 7, "result": ...}`` or
``{"id": 7, "error": "..."}``) and tells (``{"event": "ready", ...}``). A line is bounded; the end of the stream means
that the other side is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

Message = dict[str, Any]
LINE_LIMIT = 32 * 1024 * 1024  # bytes; a snapshot of 10,000 routes is about 10 MiB


class ControlError(Exception):
    """The other side answered with an error, sent what is no message, or is gone."""


async def open_channel(sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams over ``sock`` with the bound on a line."""
    return await asyncio.open_unix_connection(sock=sock, limit=LINE_LIMIT)


def encode(message: Message) -> bytes:
    """One line, its end included."""
    return orjson.dumps(message, option=orjson.OPT_NON_STR_KEYS) + b"\n"


def decode(line: bytes) -> Message:
    """:raises ControlError: when ``line`` is not one whole JSON object."""
    if not line.endswith(b"\n"):
        raise ControlError("the stream ended inside a message")
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ControlError(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise ControlError("a message is an object")
    return message


async def receive(reader: asyncio.StreamReader) -> Message | None:
    """The next message, or None at the end of the stream.

    :raises ControlError: for a line that is too long, cut short or not a message.
    """
    try:
        line = await reader.readline()
    except ValueError:
        raise ControlError(f"a message is longer than {LINE_LIMIT} bytes") from None
    except OSError:
        return None
    return decode(line) if line else None


class ControlClient:
    """The supervisor's side: asks, waits for answers, hands on events."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_event: Callable[[Message], None]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_event = on_event
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last = 0
        self.closed = False

    async def run(self) -> None:
        """Read until the worker is gone, or speaks nonsense; then every open question fails."""
        try:
            while (message := await receive(self._reader)) is not None:
                self._take(message)
        except ControlError:
            pass
        finally:
            self.close()

    def _take(self, message: Message) -> None:
        if "event" in message:
            self._on_event(message)
            return
        waiting = self._waiting.pop(message.get("id", 0), None)
        if waiting is None or waiting.done():
            return  # nobody waits for it any more
        if "error" in message:
            waiting.set_exception(ControlError(str(message["error"])))
        else:
            waiting.set_result(message.get("result"))

    async def ask(self, op: str, within: float, **arguments: Any) -> Any:
        """The answer to ``op``.

        :raises ControlError: when the worker says no, is gone, or has not answered ``within`` so many seconds.
        """
        if self.closed:
            raise ControlError("the worker is gone")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        number = self.send(op, **arguments)
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(within):
                return await answer
        except TimeoutError:
            raise ControlError(f"no answer to {op} within {within:g} s") from None
        finally:
            self._waiting.pop(number, None)

    def send(self, op: str, **arguments: Any) -> int:
        """Ask without waiting for the answer; gives the number of the question."""
        self._last += 1
        self._writer.write(encode({"id": self._last, "op": op, **arguments}))
        return self._last

    def close(self) -> None:
        """End the channel: to the worker it means that the supervisor is gone."""
        self.closed = True
        self._writer.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ControlError("the worker is gone"))


class ControlServer:
    """The worker's side: answers in the order of the questions, by the operations it was given."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        operations: Mapping[str, Callable[[Message], Awaitable[Any]]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._operations = operations

    async def run(self) -> None:
        """Serve until the supervisor is gone."""
        try:
            while (message := await receive(self._reader)) is not None:
                self._writer.write(encode(await self._answer(message)))
                with contextlib.suppress(OSError):
                    await self._writer.drain()
        except ControlError:
            pass
        finally:
            self._writer.close()

    async def _answer(self, message: Message) -> Message:
        number = message.get("id")
        operation = self._operations.get(message.get("op", ""))
        if operation is None:
            return {"id": number, "error": f"unknown operation {message.get('op')!r}"}
        try:
            return {"id": number, "result": await operation(message)}
        except Exception as error:  # the supervisor must hear of it, and the channel must go on
            return {"id": number, "error": f"{type(error).__name__}: {error}"}

    def send_event(self, event: str, **arguments: Any) -> None:
        """Send an event."""
        self._writer.write(encode({"event": event, **arguments}))
