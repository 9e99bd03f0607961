"""The control channel between the supervisor and a worker: JSON, one message a line, over a Unix socket pair.

The supervisor sends requests (``{"id": 7, "op": "status", ...}``). The worker sends replies (``{"id": 7, "result":
...}`` or ``{"id": 7, "error": "..."}``) and events (``{"event": "forget", ...}``). The length of a line is bounded. The
end of the stream means that the other side is gone.
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
    """The other side replied with an error, sent an invalid message, or is gone."""


async def open_channel(sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open streams over ``sock`` that bound the length of a line."""
    return await asyncio.open_unix_connection(sock=sock, limit=LINE_LIMIT)


def encode(message: Message) -> bytes:
    """Encode ``message`` as one line, including its end."""
    return orjson.dumps(message, option=orjson.OPT_NON_STR_KEYS) + b"\n"


def decode(line: bytes) -> Message:
    """Decode a line. :raises ControlError: unless it is one complete JSON object."""
    if not line.endswith(b"\n"):
        raise ControlError("the stream ended inside a message")
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ControlError(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise ControlError("the message is not a JSON object")
    return message


async def receive(reader: asyncio.StreamReader) -> Message | None:
    """Return the next message, or None at the end of the stream.

    :raises ControlError: if a line is too long, truncated or not a message.
    """
    try:
        line = await reader.readline()
    except ValueError:
        raise ControlError(f"a message is longer than {LINE_LIMIT} bytes") from None
    except OSError:
        return None
    return decode(line) if line else None


class ControlClient:
    """The supervisor's side of the channel: sends requests, waits for replies, passes events to ``on_event``."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_event: Callable[[Message], None]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_event = on_event
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._last = 0
        self.closed = False

    async def run(self) -> None:
        """Read messages until the worker is gone or sends an invalid one; then all pending requests fail."""
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
        reply = self._pending.pop(message.get("id", 0), None)
        if reply is None or reply.done():
            return  # the request has timed out or was cancelled
        if "error" in message:
            reply.set_exception(ControlError(str(message["error"])))
        else:
            reply.set_result(message.get("result"))

    async def request(self, op: str, within: float, **arguments: Any) -> Any:
        """Send the request ``op`` and return the result.

        :raises ControlError: if the reply is an error, the worker is gone, or there is no reply ``within`` that many
            seconds.
        """
        if self.closed:
            raise ControlError("the worker is gone")
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        number = self.send(op, **arguments)
        self._pending[number] = reply
        try:
            async with asyncio.timeout(within):
                return await reply
        except TimeoutError:
            raise ControlError(f"no reply to {op} within {within:g} s") from None
        finally:
            self._pending.pop(number, None)

    def send(self, op: str, **arguments: Any) -> int:
        """Send the request ``op`` without waiting for the reply. Returns the id of the request."""
        self._last += 1
        self._writer.write(encode({"id": self._last, "op": op, **arguments}))
        return self._last

    def close(self) -> None:
        """Close the channel. For the worker this means that the supervisor is gone."""
        self.closed = True
        self._writer.close()
        for reply in self._pending.values():
            if not reply.done():
                reply.set_exception(ControlError("the worker is gone"))


class ControlServer:
    """The worker's side of the channel: runs ``operations``, and replies in the order of the requests."""

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
        """Serve requests until the supervisor is gone."""
        try:
            while (message := await receive(self._reader)) is not None:
                self._writer.write(encode(await self._reply(message)))
                with contextlib.suppress(OSError):
                    await self._writer.drain()
        except ControlError:
            pass
        finally:
            self._writer.close()

    async def _reply(self, message: Message) -> Message:
        number = message.get("id")
        operation = self._operations.get(message.get("op", ""))
        if operation is None:
            return {"id": number, "error": f"unknown operation {message.get('op')!r}"}
        try:
            return {"id": number, "result": await operation(message)}
        except Exception as error:  # the supervisor gets the error, and the channel goes on
            return {"id": number, "error": f"{type(error).__name__}: {error}"}

    def send_event(self, event: str, **arguments: Any) -> None:
        """Send an event."""
        self._writer.write(encode({"event": event, **arguments}))
