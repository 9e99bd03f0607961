"""An unexpected exception in the gateway: the client receives 500, the traceback is logged, the next request works."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from passerelle.config import load_text
from passerelle.gateway.gateway import Gateway
from passerelle.routing.router import RouteMatch

CONFIG = """
listen: 127.0.0.1:0
admin: off
access_log: {log}
services: {{user: {{targets: ["http://127.0.0.1:9"]}}}}
routes: [{{path: /user, service: user}}]
"""


class Broken:
    """A router whose first call raises."""

    def __init__(self, router: object) -> None:
        self._router = router
        self.left = 1

    def match(self, *arguments: bytes) -> RouteMatch:
        if self.left:
            self.left -= 1
            raise ZeroDivisionError("planted")
        return self._router.match(*arguments)  # type: ignore[attr-defined,no-any-return]

    match_usual = match


async def ask(port: int, count: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(count):
        last = b"Connection: close\r\n" if number == count - 1 else b""
        writer.write(b"GET /none HTTP/1.1\r\nHost: gw\r\n" + last + b"\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return answer


def test_a_defect_is_a_500_without_a_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "access.log"

    async def run() -> bytes:
        gateway = Gateway(load_text(CONFIG.format(log=log)))
        gateway.context.router = Broken(gateway.context.router)  # type: ignore[assignment]
        _, port = await gateway.start()
        answer = await ask(port, 2)
        await gateway.stop(1.0)
        return answer

    with caplog.at_level(logging.ERROR, "passerelle"):
        answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"application/problem+json" in answer
    assert b"HTTP/1.1 404 " in answer
    assert b"planted" not in answer
    assert b"Traceback" not in answer
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert '"failure":"internal","side":"gateway"' in log.read_text()
