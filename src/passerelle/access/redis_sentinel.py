"""Which Redis is the master, by the first Sentinel that knows."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Sequence
from typing import Final, cast

import hiredis

from passerelle.caching.redis.location import RedisLocation

# For one Sentinel (seconds): one that hangs must leave time for the next, within the timeout of a connection attempt.
_LIMIT: Final = 0.5
_MOST: Final = 1 << 16  # bytes of a reply
# An IP address or a name. For other text, a lookup may raise any exception.
_HOST: Final = re.compile(rb"[0-9A-Fa-f:]{2,45}|[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,9}").fullmatch


async def find_master(location: RedisLocation, tls: ssl.SSLContext | None) -> tuple[str, int]:
    """Return the address of the master.

    :raises OSError: if no Sentinel knows it.
    """
    why = ""
    for host, port in location.nodes:
        try:
            async with asyncio.timeout(_LIMIT):
                return await _ask(host, port, location.master, tls)
        except (OSError, TimeoutError, hiredis.ProtocolError) as error:
            why = f"Sentinel at {host}:{port}: {str(error) or 'no reply'}"
    raise OSError(why)


async def _ask(host: str, port: int, name: str, tls: ssl.SSLContext | None) -> tuple[str, int]:
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        words = (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name.encode())
        writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
        replies = hiredis.Reader(notEnoughData=_MOST)
        read = 0
        while (reply := replies.gets()) is _MOST:
            data = await reader.read(4096)
            read += len(data)
            if not data or read > _MOST:
                raise OSError("the connection was lost" if not data else "an endless reply")
            replies.feed(data)
    finally:
        writer.close()
    if isinstance(reply, hiredis.ReplyError):
        raise OSError(str(reply))
    if reply is None:
        raise OSError(f"it watches no master {name!r}")
    match cast("Sequence[object]", reply):
        case [bytes() as master, bytes() as number] if _HOST(master) and number.isdigit() and int(number[:6]) < 65536:
            return master.decode(), int(number)
    raise OSError("an unexpected reply")
