"""The question for the master, with Sentinels that reply anything, or nothing."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import pytest

from passerelle.access.redis_sentinel import find_master
from passerelle.caching.redis.location import RedisLocation

ASKED = b"*3\r\n$8\r\nSENTINEL\r\n$23\r\nGET-MASTER-ADDR-BY-NAME\r\n$4\r\nshop\r\n"
MASTER = b"*2\r\n$8\r\n10.0.0.7\r\n$4\r\n6380\r\n"


@contextmanager
def sentinel(reply: bytes | None) -> Iterator[int]:
    """Run a Sentinel that sends ``reply`` once, or never replies; yield its port."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):
            asked = b""
            while len(asked) < len(ASKED):
                asked += connection.recv(len(ASKED))
            assert asked == ASKED
            if reply is None:
                connection.recv(1)  # until the client gives up
            else:
                connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def found(replies: Sequence[bytes | None]) -> tuple[str, int]:
    """Return the master according to Sentinels with these replies, in their order."""
    with ExitStack() as stack:
        nodes = tuple(("127.0.0.1", stack.enter_context(sentinel(reply))) for reply in replies)
        return asyncio.run(find_master(RedisLocation(nodes, 0, False, master="shop"), None))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (MASTER, ("10.0.0.7", 6380)),
        (b"*2\r\n$3\r\n::1\r\n$1\r\n1\r\n", ("::1", 1)),
        (b"*2\r\n$18\r\nredis-0.redis.test\r\n$5\r\n65535\r\n", ("redis-0.redis.test", 65535)),
    ],
)
def test_the_master_is_an_address_or_a_name(reply: bytes, expected: tuple[str, int]) -> None:
    assert found([reply]) == expected


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"", "the connection was lost"),
        (MASTER[:-3], "the connection was lost"),
        (b"$-1\r\n", "it watches no master 'shop'"),
        (b"*-1\r\n", "it watches no master 'shop'"),
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH Authentication required."),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "Protocol error"),
        (b"*1\r\n$8\r\n10.0.0.7\r\n", "an unexpected reply"),
        (b":7\r\n", "an unexpected reply"),
        (b"*2\r\n$8\r\n10.0.0.7\r\n$5\r\n65536\r\n", "an unexpected reply"),
        (b"*2\r\n$8\r\n10.0.0.7\r\n$12\r\n638000000000\r\n", "an unexpected reply"),
        (b"*2\r\n$8\r\n10.0.0.7\r\n$2\r\n-1\r\n", "an unexpected reply"),
        (b"*2\r\n$4\r\na..b\r\n$4\r\n6379\r\n", "an unexpected reply"),
        (b"*2\r\n$3\r\na\0b\r\n$4\r\n6379\r\n", "an unexpected reply"),
        (b"*2\r\n$2\r\n\xff\xfe\r\n$4\r\n6379\r\n", "an unexpected reply"),
        (b"*2\r\n$70\r\n" + b"a" * 70 + b"\r\n$4\r\n6379\r\n", "an unexpected reply"),
        (b"$536870911\r\n" + b"x" * 200_000, "an endless reply"),
        (None, "no reply"),
    ],
)
def test_any_other_reply_is_an_error_and_the_next_sentinel_is_asked(reply: bytes | None, why: str) -> None:
    with pytest.raises(OSError, match=r"Sentinel at 127\.0\.0\.1:\d+: ") as raised:
        found([reply])
    assert why in str(raised.value)
    assert found([reply, MASTER]) == ("10.0.0.7", 6380)
