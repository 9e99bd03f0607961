"""Sticky cookies on composed responses and on protocol switches."""

from __future__ import annotations

import re

from tests.support.client import head
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, answering, ok

JSON = b"Content-Type: application/json"
SECRET = "0123456789abcdef"


def sticky(name: str) -> dict[str, object]:
    return {"policy": "round_robin", "sticky": {"cookie": name, "secret": SECRET}}


def tokens(lines: list[bytes]) -> dict[str, str]:
    found = [re.fullmatch(rb"(\w+)=([0-9a-f]{22}); Path=/; HttpOnly; SameSite=Lax", line) for line in lines]
    return {match[1].decode(): match[2].decode() for match in found if match is not None}


def composed(rig: Rig, **parts: object) -> Running:
    services = {
        name: {
            "targets": [rig.upstream(answering(ok(b'"%b"' % which, JSON))).url for which in (b"1", b"2")],
            "balance": sticky(f"at_{name}"),
        }
        for name in ("u", "p")
    }
    down = rig.upstream(answering(ok()))
    down.refuse()
    services["gone"] = {"targets": [down.url], "balance": sticky("at_gone")}
    compose = {
        "u": {"service": "u", "path": "/"},
        "v": {"service": "u", "path": "/v"},
        "p": {"service": "p", "path": "/"},
        "gone": {"service": "gone", "path": "/", "on_error": None},
        **parts,
    }
    return rig.gateway(services, [{"path": "/", "compose": compose}])


def test_each_service_of_a_composition_sets_its_cookie(rig: Rig) -> None:
    client = rig.connect(composed(rig))
    first = client.request("GET", "/", ("Passerelle-Debug", "1"))
    assert first.get("passerelle-instance") is not None
    cookies = first.all("set-cookie")
    found = tokens(cookies)
    assert len(cookies) == 2 and found.keys() == {"at_u", "at_p"}  # no cookie from the service that failed
    pair = ("Cookie", "; ".join(f"{name}={token}" for name, token in found.items()))
    responses = [client.request("GET", "/", pair) for _ in range(6)]
    assert len({response.body for response in responses}) == 1
    assert all(response.all("set-cookie") == [] for response in responses)


def test_a_cached_part_sets_no_cookie(rig: Rig) -> None:
    part = {"service": "u", "path": "/c", "cache": {"ttl": "60s"}}
    client = rig.connect(composed(rig, u=part, v=part))
    for _ in range(2):
        assert tokens(client.request().all("set-cookie")).keys() == {"at_p"}


def test_a_protocol_switch_sets_the_cookie(rig: Rig) -> None:
    def switching(which: bytes) -> object:
        def script(conn: Connection) -> None:
            conn.read_request()
            conn.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", which)

        return script

    ups = [rig.upstream(switching(which)) for which in (b"1", b"2")]
    gateway = rig.forward(*ups, service={"balance": sticky("at")})
    fields = [("Connection", "Upgrade"), ("Upgrade", "x")]

    def switch(*more: tuple[str, str]) -> tuple[list[bytes], bytes]:
        client = rig.connect(gateway)
        client.send(head("GET", "/", *fields, *more))
        raw = client.until(b"\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 101 ")
        lines = [line.partition(b": ")[2] for line in raw.split(b"\r\n") if line.startswith(b"Set-Cookie: ")]
        return lines, client.exactly(1)

    cookies, where = switch()
    token = tokens(cookies)["at"]
    assert [switch(("Cookie", f"at={token}")) for _ in range(4)] == [([], where)] * 4
