"""Responses may repeat the requested origin, so they are not served to clients of another origin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Response

LONG = 20.0


def repeating(conn: Connection) -> None:
    """A service that repeats the requested origin, as in redirects and links, and the client's cookie."""
    while True:
        request = conn.read_request()
        if request.start.startswith(b"POST /verify "):
            conn.send(ok(b'{"user_id": "1"}'))
            continue
        names = ("host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-prefix", "cookie")
        said = {name: (request.get(name) or b"").decode() for name in names}
        fields = (b"Content-Type: application/json", b"Cache-Control: public, max-age=60", b"Vary: Cookie")
        conn.send(ok(json.dumps(said).encode(), *fields))


def get(client: Client, host: str, *lines: str) -> Response:
    head = "\r\n".join(["GET /a HTTP/1.1", f"Host: {host}", *lines, "", ""])
    client.send(head.encode("ascii"))
    return client.read_response(within=LONG)


def is_hit(response: Response) -> bool:
    return (response.get("cache-status") or b"").startswith(b"passerelle; hit")


@pytest.fixture
def upstream(rig: Rig) -> Upstream:
    return rig.upstream(repeating)


@pytest.mark.parametrize("other", ["gw:1337", "gw."])
def test_a_client_cannot_put_a_port_of_its_choice_into_what_others_get(
    rig: Rig, upstream: Upstream, other: str
) -> None:
    client = rig.connect(rig.forward(upstream, route={"cache": {}}))
    get(client, other)
    assert json.loads(get(client, "gw").body)["host"] == "gw"
    hits = [get(client, host) for host in ("gw", "GW", other)]
    assert all(is_hit(hit) for hit in hits)
    assert [json.loads(hit.body)["host"] for hit in hits] == ["gw", "gw", other]


@pytest.mark.parametrize(
    "field", ["X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example", "X-Forwarded-Prefix: /a"]
)
def test_forwarded_headers_of_a_trusted_proxy_are_part_of_the_cache_key(
    rig: Rig, upstream: Upstream, field: str
) -> None:
    client = rig.connect(rig.forward(upstream, route={"cache": {}}, trusted_proxies=["127.0.0.0/8"]))
    name, value = field.lower().split(": ")
    first, second = get(client, "gw"), get(client, "gw", field)
    assert json.loads(second.body)[name] == value != json.loads(first.body)[name]
    assert get(client, "gw").body == first.body and get(client, "gw", field).body == second.body
    assert is_hit(get(client, "gw")) and is_hit(get(client, "gw", field))
    assert len(upstream.requests) == 2


def test_forwarded_headers_of_a_client_are_ignored(rig: Rig, upstream: Upstream) -> None:
    client = rig.connect(rig.forward(upstream, route={"cache": {}}))
    get(client, "gw")
    assert is_hit(get(client, "gw", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example"))


@pytest.mark.parametrize("field", ["Location", "Content-Location"])
@pytest.mark.parametrize(
    ("trusted", "host", "gone"),
    [
        (True, "shop.example", True),
        (True, "shop.example:443", True),
        (True, "SHOP.example", True),
        (True, "gw", True),
        (True, "other.example", False),
        (True, "shop.example:8443", False),
        (False, "shop.example", False),
        (False, "gw", True),
    ],
)
def test_a_change_may_name_what_it_changed_by_the_host_that_a_trusted_proxy_says(
    rig: Rig, trusted: bool, host: str, gone: bool, field: str
) -> None:
    """Services build links with it; it is ignored unless a trusted proxy sends it."""
    asked = 0

    def serve(conn: Connection) -> None:
        nonlocal asked
        while True:
            if conn.read_request().method == b"POST":
                conn.send(ok(b"made", f"{field}: https://{host}/a".encode()))
            else:
                asked += 1
                conn.send(ok(b"%d" % asked, b"Cache-Control: max-age=60"))

    proxies = {"trusted_proxies": ["127.0.0.0/8"]} if trusted else {}
    client = rig.connect(rig.forward(rig.upstream(serve), route={"cache": {}}, **proxies))
    said = ("X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example", "X-Forwarded-For: 198.51.100.7")
    assert [get(client, "gw", *said).body for _ in range(2)] == [b"1", b"1"]
    fields = [tuple(line.split(": ")) for line in said]
    assert client.request("POST", "/list", *fields, body=b"x").status == 200  # type: ignore[arg-type]
    assert (get(client, "gw", *said).body == b"2") is gone


@pytest.mark.parametrize("of_part", [True, False])
def test_parts_and_compositions_are_kept_for_each_host(rig: Rig, upstream: Upstream, of_part: bool) -> None:
    part = {"service": "u", "path": "/part", **({"cache": {}} if of_part else {})}
    route = {"path": "/a", "compose": {"part": part}, **({} if of_part else {"cache": {}})}
    client = rig.connect(rig.gateway({"u": {"targets": [upstream.url]}}, [route]))
    get(client, "evil.example")
    for _ in range(2):
        assert json.loads(get(client, "gw").body)["part"]["host"] == "gw"
    assert len(upstream.requests) == 2


def test_a_part_without_hosts_is_kept_once(rig: Rig, upstream: Upstream) -> None:
    part = {"service": "u", "path": "/part", "cache": {"per_host": False}}
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, [{"path": "/a", "compose": {"part": part}}])
    client = rig.connect(gateway)
    assert get(client, "one").body == get(client, "two").body
    assert len(upstream.requests) == 1


def test_a_cookie_that_connection_names_does_not_go_on_without_the_session(
    rig: Rig, upstream: Upstream, tmp_path: Path
) -> None:
    """The cache does not see the field (RFC 9110 §7.6.1), so a response changed by it would be served to everyone."""
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/login", "login": {"service": "u", "path": "/verify"}},
            {"path": "/a", "service": "u", "auth": ["session"], "cache": {}},
        ],
        sessions={"store": str(tmp_path / "sessions.db")},
    )
    client = rig.connect(gateway)
    body = json.dumps({"username": "ada", "password": "right"}).encode()
    login = client.request("POST", "/login", ("Content-Type", "application/json"), body=body, within=LONG)
    own = next(line for line in login.all("set-cookie") if line.startswith(b"__Host-session="))
    cookie = f"Cookie: {own.partition(b';')[0].decode()}; evil=1"
    assert json.loads(get(client, "gw", "Connection: Cookie", cookie).body)["cookie"] == ""
    assert json.loads(get(client, "gw", cookie).body)["cookie"] == "evil=1"
