"""Streams of the admin port: events, the live view, their bounds, and logins for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from passerelle.config.loader import load_text
from passerelle.config.models.addresses import Address
from passerelle.config.models.admin import AdminPort
from passerelle.config.models.config import Config
from passerelle.observability.events import EventLog
from passerelle.observability.metrics import Metrics, Snapshot
from passerelle.supervisor.admin import Admin, PurgeResult
from passerelle.supervisor.admin_stream import MOST_STREAMS, StreamHub
from passerelle.supervisor.live_sampler import LiveSampler, Reading
from passerelle.system import ports
from tests.observability.test_live import apply, reading
from tests.supervisor.helpers import run, until

TOKEN = "a-token-of-32-visible-characters"
CONFIG = "services: {user: {targets: ['http://127.0.0.1:1']}}\nroutes: [{path: /user, service: user}]\n"


class Source:
    """One worker whose counters the test changes."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.now = 1.0
        self.states: dict[str, dict[str, Any]] = {"user-1": {"state": "up"}}

    @property
    def config(self) -> Config:
        return load_text(CONFIG)

    async def live_readings(self) -> list[Reading]:
        self.now += 1.0
        return [Reading("gateway", 7, self.now, reading(self.metrics))]

    def live_states(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
        return {"gateway": {"state": "up", "pid": 7}}, {"user": self.states}


class Subject:
    is_ready = True

    def __init__(self) -> None:
        self.events = EventLog()
        self.source = Source()
        self.live = LiveSampler(self.source)
        self.changes: list[str] = []

    async def metrics(self) -> Snapshot:
        return Metrics().snapshot()

    async def status(self) -> dict[str, Any]:
        return {"services": {}}

    async def change(self, name: str, arguments: Any) -> dict[str, Any]:
        self.changes.append(name)
        return {"message": "done"}

    async def purge(self, kind: str, value: str) -> PurgeResult:
        return PurgeResult(0, [])


class Port:
    def __init__(self, admin: Admin, subject: Subject, number: int) -> None:
        self.admin = admin
        self.subject = subject
        self.number = number
        self.clients: list[Client] = []

    async def send(
        self, target: str, *fields: str, method: str = "GET", body: bytes = b"", version: str = "1.1"
    ) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.number, limit=2**16))
        self.clients.append(client)
        lines = [f"{method} {target} HTTP/{version}", f"Host: 127.0.0.1:{self.number}", *fields]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        client.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        client.head = (await client.reader.readuntil(b"\r\n\r\n")).decode()
        client.status = int(client.head.split()[1])
        return client

    async def stream(self, target: str, *fields: str) -> Client:
        return await self.send(target, "Accept: text/event-stream", *fields)


class Client:
    head = ""
    status = 0

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def message(self) -> tuple[str, Any]:
        """Return the name and the data of the next message; skips comments and chunk sizes."""
        name = ""
        while True:
            line = await self.reader.readline()
            assert line, "the stream has ended"
            if line.startswith(b"event: "):
                name = line[7:].strip().decode()
            elif line.startswith(b"data: "):
                return name, orjson.loads(line[6:])

    async def ended(self) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def port(listen: str = "127.0.0.1", **settings: Any) -> AsyncIterator[Port]:
    sock = ports.for_admin(listen, 0)
    subject = Subject()
    keys = AdminPort.model_validate({"listen": Address(host=listen, port=0), **settings})
    admin = Admin(sock, subject, keys)
    await admin.start()
    one = Port(admin, subject, sock.getsockname()[1])
    try:
        yield one
    finally:
        await admin.stop()
        for client in one.clients:
            client.writer.close()
        await asyncio.sleep(0)


def test_events_are_streamed_as_they_happen() -> None:
    async def check() -> None:
        async with port() as one:
            events = one.subject.events
            events.record("start", "before")
            client = await one.stream("/events")
            assert client.status == 200
            assert "Content-Type: text/event-stream\r\n" in client.head
            assert "Cache-Control: no-store\r\n" in client.head
            sent = events.record("ejection", "user-1 was ejected", service="user", instance="user-1", address="x")
            assert await client.message() == ("event", sent._asdict())
            client.writer.close()
            await until(lambda: len(one.admin.streams) == 0)
            assert events._listeners == []

    run(check())


def test_events_after_a_number_are_repeated_and_then_followed() -> None:
    async def check() -> None:
        async with port() as one:
            events = one.subject.events
            first, second = events.record("start", "a"), events.record("end", "b")
            for target, fields in (
                (f"/events?since={first.seq}", ()),
                ("/events", (f"Last-Event-ID: {first.seq}",)),
                ("/events?since=0&kind=end", ()),
            ):
                client = await one.stream(target, *fields)
                assert (await client.message())[1]["seq"] == second.seq
            third = events.record("end", "c")
            assert (await client.message())[1]["seq"] == third.seq

    run(check())


def test_events_as_one_document() -> None:
    async def check() -> None:
        async with port() as one:
            events = one.subject.events
            first, second = events.record("start", "a"), events.record("end", "b")
            client = await one.send(f"/events?since={first.seq}", "Connection: close")
            assert orjson.loads(await client.ended()) == {"last": second.seq, "events": [second._asdict()]}
            for query in ("since=x", "since=-1", "since=" + "9" * 30, "kind=starts", "kind=start,,end"):
                for accept in ("*/*", "text/event-stream"):
                    assert (await one.send(f"/events?{query}", f"Accept: {accept}")).status == 400, query

    run(check())


def test_the_number_of_streams_is_bounded() -> None:
    async def check() -> None:
        async with port() as one:
            clients = [await one.stream("/live" if n % 2 else "/events") for n in range(MOST_STREAMS)]
            refused = await one.stream("/events")
            assert refused.status == 503 and "Retry-After" in refused.head
            clients[0].writer.close()
            await until(lambda: len(one.admin.streams) < MOST_STREAMS)
            assert (await one.stream("/live")).status == 200

    run(check())


def test_a_client_that_does_not_read_holds_no_memory_and_receives_the_rest_later() -> None:
    async def check() -> None:
        async with port() as one:
            events = one.subject.events
            client = await one.stream("/events")
            stream = next(iter(one.admin.streams._streams))
            sent = []
            while not stream.paused:
                sent.append(events.record("end", "x" * 400).seq)
                await asyncio.sleep(0)
                assert len(sent) < 100_000
            transport = next(iter(one.admin._listener.connections))._transport
            unsent = transport.get_write_buffer_size()
            sent += [events.record("end", "x" * 400).seq for _ in range(500)]
            assert transport.get_write_buffer_size() == unsent < 100_000
            seen: list[int] = []
            while not seen or seen[-1] != sent[-1]:
                seen.append((await client.message())[1]["seq"])
            assert seen == sent

    run(check())


def test_the_live_view_is_a_snapshot_and_changes() -> None:
    async def check() -> None:
        async with port() as one:
            live, source = one.subject.live, one.subject.source
            await live.take()
            client = await one.stream("/live")
            name, state = await client.message()
            assert (name, state) == ("snapshot", live.latest)
            for round_ in range(4):
                for _ in range(round_):
                    source.metrics.route("/user").observe(200, 0.002)
                source.states = {f"user-{round_}": {"state": "up"}, "user-1": {"state": "down"}}
                await live.take()
                name, patch = await client.message()
                assert name == "change"
                state = apply(state, patch)
                assert state == live.latest
            assert state["routes"]["/user"]["requests"] == 3.0
            assert state["services"]["user"]["instances"].keys() == {"user-3", "user-1"}
            sent = one.subject.events.record("end", "user-1 exited")
            assert await client.message() == ("event", sent._asdict())
            page = await one.send("/live", "Connection: close")
            assert orjson.loads(await page.ended()) == live.latest

    run(check())


def test_a_slow_client_of_the_live_view_receives_a_snapshot_again() -> None:
    async def check() -> None:
        async with port() as one:
            live, source = one.subject.live, one.subject.source
            client = await one.stream("/live")
            stream = next(iter(one.admin.streams._streams))
            number = 0
            while not stream.paused:
                number += 1
                source.states = {"user-1": {"state": "up", "problem": f"{number % 10}" * 15_000}}
                await live.take()
                await asyncio.sleep(0)
            await live.take()
            state: Any = {}
            while state != live.latest:
                name, data = await client.message()
                if name == "snapshot":
                    state = data
                elif name == "change":
                    state = apply(state, data)

    run(check())


def test_comments_keep_a_silent_stream_alive() -> None:
    async def check() -> None:
        async with port() as one:
            one.admin.streams = StreamHub(keep_alive=0.05)
            client = await one.stream("/events")
            while b": keep-alive" not in await client.reader.readline():
                pass

    run(check())


def test_old_clients_and_head() -> None:
    async def check() -> None:
        async with port() as one:
            old = await one.send("/events", "Accept: text/event-stream", version="1.0")
            one.subject.events.record("end", "x")
            assert (await old.message())[1]["text"] == "x"
            assert "chunked" not in old.head
            head = await one.send("/events", "Accept: text/event-stream", "Connection: close", method="HEAD")
            assert (head.status, await head.ended()) == (200, b"")

    run(check())


def test_stopping_ends_the_streams() -> None:
    async def check() -> None:
        async with port() as one:
            client = await one.stream("/events")
            await one.admin.stop()
            await client.ended()
            assert one.subject.events._listeners == []

    run(check())


def test_a_browser_begins_a_session_with_the_token_and_uses_it() -> None:
    async def check() -> None:
        async with port("0.0.0.0", token=TOKEN) as one:
            own = f"Origin: http://127.0.0.1:{one.number}"
            assert (await one.send("/status")).status == 401
            for body, kind in (
                (orjson.dumps({"token": TOKEN}), "application/json"),
                (f"token={TOKEN}".encode(), "application/x-www-form-urlencoded"),
            ):
                begun = await one.send("/session", f"Content-Type: {kind}", own, method="POST", body=body)
                assert begun.status == (200 if "json" in kind else 303)
            cookie = begun.head.partition("Set-Cookie: ")[2].partition(";")[0]
            assert TOKEN not in begun.head
            assert "; HttpOnly; SameSite=Strict\r\n" in begun.head
            assert (await one.send("/status", f"Cookie: {cookie}")).status == 200
            stream = await one.stream("/events", f"Cookie: {cookie}")
            assert stream.status == 200
            change = await one.send("/reload", f"Cookie: {cookie}", "Passerelle-Admin: 1", own, method="POST")
            assert change.status == 200 and one.subject.changes == ["reload"]
            audits = one.subject.events.since(kinds={"audit"})
            assert audits[-1].detail["by"] == "session" and audits[-1].detail["outcome"] == "done"
            ended = await one.send("/session", own, method="DELETE")
            assert "Max-Age=0" in ended.head

    run(check())


def test_logins_that_are_refused() -> None:
    async def check() -> None:
        async with port("0.0.0.0", token=TOKEN) as one:
            json = "Content-Type: application/json"
            for body, status in (
                (b'{"token": "wrong"}', 401),
                (b'{"token": 1}', 400),
                (b'{"token": ', 400),
                (b"[]", 400),
                (b"", 400),
                (b'{"token": "' + b"x" * 5000 + b'"}', 400),
            ):
                client = await one.send("/session", json, method="POST", body=body)
                assert client.status == status, body
                assert "Set-Cookie" not in client.head
            evil = await one.send(
                "/session", "Origin: http://evil.example", method="POST", body=orjson.dumps({"token": TOKEN})
            )
            assert evil.status == 403 and "Set-Cookie" not in evil.head
            assert (await one.send("/session")).status == 401
        async with port() as one:
            client = await one.send("/session", json, method="POST", body=orjson.dumps({"token": TOKEN}))
            assert client.status == 401

    run(check())


def test_changes_are_audited_without_the_token() -> None:
    async def check() -> None:
        async with port(token=TOKEN) as one:
            bearer = f"Authorization: Bearer {TOKEN}"
            assert (await one.send("/scale?service=user&instances=3", bearer, method="POST")).status == 200
            assert (await one.send("/cache/purge?x=1", bearer, method="POST")).status == 409
            assert (await one.send("/reload", "Passerelle-Admin: 1", method="POST")).status == 401
            assert (await one.send("/status")).status == 200
            done, refused, denied = one.subject.events.since(kinds={"audit"})
            assert done.detail == {
                "action": "scale",
                "arguments": {"service": "user", "instances": "3"},
                "by": "token",
                "client": "127.0.0.1",
                "outcome": "done",
            }
            assert done.service == "user"
            assert refused.detail["outcome"].startswith("refused: purge needs exactly one of")
            assert denied.detail["by"] is None and denied.detail["outcome"].startswith("refused with 401")
            assert TOKEN not in repr(one.subject.events.since())

    run(check())


def test_refused_requests_do_not_displace_events() -> None:
    async def check() -> None:
        async with port(token=TOKEN) as one:
            for _ in range(50):
                client = await one.send("/reload", "Passerelle-Admin: 1", method="POST")
                assert client.status == 401
                client.writer.close()
            assert 10 <= len(one.subject.events.since()) <= 10 + 20

    run(check())


@pytest.mark.parametrize("path", ["/", "/status", "/events", "/live", "/history", "/metrics", "/nothing"])
def test_no_page_of_another_origin_may_embed_a_response(path: str) -> None:
    async def check() -> None:
        async with port() as one:
            client = await one.send(path, "Connection: close")
            assert "Cross-Origin-Resource-Policy: same-origin\r\n" in client.head
            assert "X-Content-Type-Options: nosniff\r\n" in client.head
            assert "frame-ancestors 'none'" in client.head

    run(check())


def test_the_history() -> None:
    async def check() -> None:
        async with port() as one:
            for _ in range(5):
                one.subject.source.metrics.route("/user").observe(200, 0.002)
                await one.subject.live.take()
            client = await one.send("/history?seconds=2", "Connection: close")
            found = orjson.loads(await client.ended())
            assert len(found["times"]) == 2
            assert found["routes"]["/user"]["requests"] == [1.0, 1.0]
            for wrong in ("0", "601", "x", "-1", ""):
                expected = 400 if wrong else 200
                assert (await one.send(f"/history?seconds={wrong}")).status == expected

    run(check())


def test_a_defect_of_the_live_view_does_not_end_it(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    async def check() -> None:
        source = Source()
        live = LiveSampler(source, sleep=lambda seconds: asyncio.sleep(0))
        source.states = {"user-1": {}}  # has no state
        task = asyncio.create_task(live.run())
        await until(lambda: "the live view failed" in caplog.text)
        source.states = {"user-1": {"state": "up"}}
        number = live.number
        await until(lambda: live.number > number)
        task.cancel()

    run(check())
