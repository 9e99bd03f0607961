"""``forward_auth`` in a running gateway: requests to a service that authorizes, and the effects of its responses."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from passerelle.observability.prometheus import render
from passerelle.security.credentials.api_keys import KeyStore
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, Script, Upstream, answering, ok
from tests.support.wire import wait_until

LONG = 20.0


def refusing(status: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Guarded:
    """A gateway with a service and an authorization service."""

    def __init__(self, rig: Rig, judge: Script | bytes, auth: dict[str, Any] | None = None, **top: Any) -> None:
        self.rig = rig
        route = top.pop("route", {})
        self.judge = rig.upstream(answering(judge) if isinstance(judge, bytes) else judge)
        self.upstream = rig.upstream(answering(top.pop("answer", ok(b"in"))))
        self.gateway: Running = rig.gateway(
            {"u": {"targets": [self.upstream.url]}, "auth": {"targets": [self.judge.url]}},
            [
                {
                    "path": "/{rest*}",
                    "service": "u",
                    "forward_auth": {"service": "auth", "path": "/check", "timeout": "30s", **(auth or {})},
                    **route,
                }
            ],
            **top,
        )

    def request(self, method: str = "GET", path: str = "/a", *fields: tuple[str, str], body: bytes | None = None):
        return self.rig.connect(self.gateway).request(method, path, *fields, body=body, within=LONG)


def test_the_service_receives_target_method_and_client(rig: Rig) -> None:
    guarded = Guarded(rig, ok(), {"send_headers": ["Authorization", "X-Team"]})
    fields = [
        *(("Authorization", "Bearer t"), ("X-Team", "a"), ("x-team", "b"), ("Cookie", "c=1"), ("X-Other", "o")),
        *(("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Uri", "/public"), ("X-Forwarded-Method", "GET")),
        *(("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "https")),
    ]
    assert guarded.request("PUT", "/a/../b%41?q=1&r=%2F", *fields, body=b"body").body == b"in"
    (asked,) = guarded.judge.requests
    assert (asked.method, asked.target, asked.body) == (b"GET", b"/check", b"")
    assert asked.all("authorization") == [b"Bearer t"]
    assert asked.all("x-team") == [b"a", b"b"]
    assert asked.get("host") == b"gw"
    assert asked.get("x-forwarded-method") == b"PUT"
    assert asked.get("x-forwarded-uri") == b"/bA?q=1&r=%2F"
    assert asked.get("x-forwarded-host") == b"gw"
    assert asked.get("x-forwarded-proto") == b"http"
    assert asked.get("x-forwarded-for") == b"127.0.0.1"
    assert asked.get("x-request-id")
    assert not {"cookie", "x-other", "content-length", "transfer-encoding"} & set(asked.names())
    (request,) = guarded.upstream.requests
    assert (request.method, request.target, request.body) == (b"PUT", b"/bA?q=1&r=%2F", b"body")
    assert request.get("x-request-id") == asked.get("x-request-id")


def test_a_trusted_proxy_is_believed(rig: Rig) -> None:
    guarded = Guarded(rig, ok(), trusted_proxies=["127.0.0.0/8"])
    said = [("X-Forwarded-For", "9.9.9.9"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "shop.example")]
    assert guarded.request("GET", "/a", *said).status == 200
    (asked,) = guarded.judge.requests
    told = [asked.get(f"x-forwarded-{what}") for what in ("for", "proto", "host")]
    assert told == [b"9.9.9.9", b"https", b"shop.example"]


def test_its_response_headers_are_forwarded_and_cannot_be_forged(rig: Rig) -> None:
    answer = ok(b"", b"X-User: ann", b"x-role: a", b"X-Role: b", b"X-Private: p", b"Set-Cookie: a=1")
    guarded = Guarded(rig, answer, {"copy_headers": ["X-User", "X-Role", "X-Absent"]})
    forged = [
        *(("X-User", "root"), ("x-user", "root"), ("X_User", "root"), ("X-Role", "root"), ("X-Absent", "root")),
        *(("X-Absent", "root"), ("x_absent", "root"), ("X-Kept", "kept"), ("Connection", "x-user")),
    ]
    given = guarded.request("GET", "/a", *forged)
    assert given.body == b"in"
    assert not {"x-user", "x-role", "x-private", "set-cookie"} & set(given.names())
    (request,) = guarded.upstream.requests
    assert b"root" not in request.raw
    assert request.all("x-user") == [b"ann"]
    assert request.all("x-role") == [b"a", b"b"]
    assert not {"x-absent", "x_absent", "x_user", "x-private"} & set(request.names())
    assert request.get("x-kept") == b"kept"


@pytest.mark.parametrize("cache", [None, {"ttl": "1m"}])
def test_its_cookies_reach_the_client_where_they_are_named(rig: Rig, cache: dict[str, Any] | None) -> None:
    answer = ok(b"", b"X-User: ann", b"Set-Cookie: a=1; HttpOnly", b"set-cookie: b=2")
    asks = {"copy_headers": ["X-User", "Set-Cookie"], "cache": "1m"}
    route = {} if cache is None else {"cache": cache}
    guarded = Guarded(rig, answer, asks, route=route, answer=ok(b"in", b"Set-Cookie: own=3"))
    for number in (1, 2):
        given = guarded.request("GET", "/a", ("Set-Cookie", "c=4"))
        assert given.all("set-cookie")[-2:] == [b"a=1; HttpOnly", b"b=2"]
        assert given.all("set-cookie")[:-2] == [b"own=3"]
        assert len(guarded.judge.requests) == number  # what sets a cookie is for one request
    assert all("set-cookie" not in request.names() for request in guarded.upstream.requests)
    assert guarded.upstream.requests[0].get("x-user") == b"ann"


def test_its_fields_cannot_come_from_outside_on_another_route_to_the_service(rig: Rig) -> None:
    judge, service, other = (rig.upstream(answering(ok(b"{}", b"X-User: ann"))) for _ in range(3))
    asks = {"service": "auth", "path": "/check", "copy_headers": ["X-User"]}
    gateway = rig.gateway(
        {name: {"targets": [each.url]} for name, each in (("auth", judge), ("u", service), ("o", other))},
        [
            {"path": "/guarded", "service": "u", "forward_auth": asks},
            {"path": "/open", "service": "u"},
            {"path": "/whole", "compose": {"a": {"service": "u", "path": "/part"}}},
            {"path": "/other", "service": "o"},
        ],
    )
    forged = [*(("X-User", "root"), ("x-user", "root"), ("X_User", "root"), ("x_USER", "root")), ("X-Users", "kept")]
    for path in ("/open", "/whole", "/guarded", "/other"):
        assert rig.connect(gateway).request("GET", path, *forged).status == 200
    for request in service.requests:
        assert b"root" not in request.raw and request.get("x-users") == b"kept"
    assert [request.get("x-user") for request in service.requests] == [None, None, b"ann"]
    assert other.requests[0].all("x-user") == [b"root", b"root"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            refusing(
                b"401 Unauthorized", b'WWW-Authenticate: Bearer realm="x"', b"Content-Type: text/plain", body=b"no"
            ),
            {"www-authenticate": b'Bearer realm="x"', "content-type": b"text/plain"},
        ),
        (refusing(b"403 Forbidden", b"Cache-Control: max-age=3"), {"cache-control": b"max-age=3"}),
        (
            refusing(b"302 Found", b"Location: https://login.example/?next=/a", b"Set-Cookie: state=1"),
            {"location": b"https://login.example/?next=/a", "set-cookie": b"state=1"},
        ),
        (refusing(b"307 Temporary Redirect", b"Location: /login", b"X-Internal: secret"), {"location": b"/login"}),
    ],
)
def test_a_refusal_is_answered_to_the_client(rig: Rig, said: bytes, expected: dict[str, bytes]) -> None:
    guarded = Guarded(rig, said)
    answer = guarded.request()
    assert answer.status == int(said[9:12])
    assert {name: answer.get(name) for name in expected} == expected
    assert answer.get("cache-control") == expected.get("cache-control", b"no-store")
    assert answer.get("x-internal") is None
    assert answer.body == said.partition(b"\r\n\r\n")[2]
    assert guarded.request("HEAD").body == b""
    assert not guarded.upstream.requests


@pytest.mark.parametrize("said", [refusing(b"500 Oops"), refusing(b"404 Not Found"), refusing(b"304 Not Modified")])
@pytest.mark.parametrize("failure", ["closed", "open"])
def test_without_a_verdict_requests_are_refused_unless_configured_otherwise(
    rig: Rig, tmp_path: Path, said: bytes, failure: str
) -> None:
    log = tmp_path / "access.log"
    auth = {"failure": failure, "copy_headers": ["X-User"]}
    if said.startswith(b"HTTP/1.1 304"):
        said = said.replace(b"Content-Length: 0\r\n", b"")
    guarded = Guarded(rig, said, auth, access_log=str(log))
    answer = guarded.request("GET", "/a", ("X-User", "root"))
    guarded.gateway.stop()
    line = json.loads(log.read_text())
    if failure == "open":
        assert answer.status == 200
        assert b"root" not in guarded.upstream.requests[0].raw
        assert "why" not in line
    else:
        assert answer.status == 503
        assert answer.get("retry-after") is not None
        assert (line["failure"] if "failure" in line else line["error"]) == "unverifiable"
        assert "forward_auth" in line["why"]
        assert not guarded.upstream.requests


def test_a_service_that_is_gone_or_slow(rig: Rig) -> None:
    def silent(conn: Connection) -> None:
        conn.read_request()
        conn.rest(LONG)

    slow = Guarded(rig, silent, {"timeout": "200ms"})
    assert slow.request().status == 503
    gone = Guarded(rig, ok())
    gone.judge.refuse()
    assert gone.request().status == 503
    assert not slow.upstream.requests and not gone.upstream.requests


def verdicts(guarded: Guarded) -> dict[str, Any]:
    """The counters of the route, after checking that a scrape has the same."""
    snapshot = guarded.gateway.snapshot()
    counted: dict[str, Any] = snapshot["routes"]["/{rest*}"]["verdicts"]
    found = re.findall(
        r'^passerelle_forward_auth_verdicts_total{reason="(\w+)",route="/{rest\*}",verdict="(\w+)"} (\d+)',
        render(snapshot)[0].decode(),
        re.MULTILINE,
    )
    assert {(verdict, reason, float(number)) for reason, verdict, number in found} == {
        (verdict, reason, float(number)) for verdict, reasons in counted.items() for reason, number in reasons.items()
    }
    return counted


def test_verdicts_are_counted(rig: Rig) -> None:
    answers = {
        b"/in": ok(b"", b"Cache-Control: no-store"),
        b"/login": refusing(b"302 Found", b"Location: /login"),
        b"/who": refusing(b"401 Unauthorized"),
        b"/not": refusing(b"403 Forbidden"),
        b"/odd": refusing(b"500 Oops"),
        b"/kept": ok(),
    }

    def judge(conn: Connection) -> None:
        while True:
            conn.send(answers[conn.read_request().get("x-forwarded-uri") or b""])

    guarded = Guarded(rig, judge, {"cache": "600s"})
    for path in "/in", "/in", "/login", "/who", "/not", "/odd", "/kept", "/kept", "/kept":
        guarded.request("GET", path)
    assert verdicts(guarded) == {
        "allowed": {"2xx": 5},
        "denied": {"3xx": 1, "4xx": 2},
        "failed": {"bad_response": 1},
    }
    assert len(guarded.judge.requests) == 7, "what is remembered is counted, and not asked"


@pytest.mark.parametrize("failure", ["closed", "open"])
def test_questions_without_an_answer_are_counted_by_what_happened(rig: Rig, failure: str) -> None:
    def silent(conn: Connection) -> None:
        conn.read_request()
        conn.rest(LONG)

    slow = Guarded(rig, silent, {"timeout": "200ms", "failure": failure})
    gone = Guarded(rig, ok(), {"failure": failure})
    gone.judge.refuse()
    expected = 200 if failure == "open" else 503
    assert [each.request().status for each in (slow, gone)] == [expected] * 2
    assert verdicts(slow) == {"failed": {"timeout": 1}}
    assert verdicts(gone) == {"failed": {"connect_failed": 1}}


def test_a_route_without_forward_auth_counts_nothing(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    assert rig.connect(gateway).request().status == 200
    assert gateway.snapshot()["routes"]["/{rest*}"]["verdicts"] == {}


def test_an_upload_waits_and_is_whole(rig: Rig) -> None:
    release = threading.Event()

    def judge(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(ok())

    guarded = Guarded(rig, judge)
    body = b"x" * 100_000
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: guarded.request("POST", "/a", body=body))
        guarded.judge.wait_heads(1, LONG)
        assert not guarded.upstream.heads
        release.set()
        assert answer.result(LONG).status == 200
    assert guarded.upstream.requests[0].body == body


def test_verdicts_are_stored_by_the_headers_that_were_sent(rig: Rig) -> None:
    guarded = Guarded(rig, ok(b"", b"X-User: ann"), {"cache": "1m", "copy_headers": "X-User"})
    bearer = ("Authorization", "Bearer a")
    for _ in range(3):
        assert guarded.request("GET", "/a", bearer).status == 200
    assert len(guarded.judge.requests) == 1
    assert [request.get("x-user") for request in guarded.upstream.requests] == [b"ann"] * 3
    others: list[tuple[str, str, tuple[str, str]]] = [
        ("POST", "/a", bearer),
        ("GET", "/b", bearer),
        ("GET", "/a?x=1", bearer),
        ("GET", "/a", ("Authorization", "Bearer b")),
        ("GET", "/a", ("Cookie", "a=1")),
    ]
    for number, (method, path, field) in enumerate(others, 2):
        assert guarded.request(method, path, field).status == 200
        assert len(guarded.judge.requests) == number
    client = rig.connect(guarded.gateway)
    client.send(b"GET /a HTTP/1.1\r\nHost: other.example\r\nAuthorization: Bearer a\r\n\r\n")
    assert client.read_response("GET", LONG).status == 200
    assert guarded.judge.requests[-1].get("x-forwarded-host") == b"other.example"
    assert len(guarded.judge.requests) == len(others) + 2


def test_verdicts_are_stored_by_the_configured_key(rig: Rig) -> None:
    guarded = Guarded(rig, ok(), {"cache": "1m", "cache_by": ["header:Authorization", "method"]})
    for path in ("/a", "/b", "/c?d"):
        guarded.request("GET", path, ("Authorization", "Bearer a"), ("Cookie", path))
    assert len(guarded.judge.requests) == 1
    guarded.request("POST", "/a", ("Authorization", "Bearer a"))
    guarded.request("GET", "/a", ("Authorization", "Bearer b"))
    guarded.request("GET", "/a")
    assert len(guarded.judge.requests) == 4


@pytest.mark.parametrize(
    ("said", "questions"),
    [
        (ok(b"", b"Cache-Control: no-store"), 2),
        (ok(b"", b"Cache-Control: private, max-age=0"), 2),
        (ok(b"", b"Cache-Control: max-age=100"), 1),
        (refusing(b"403 Forbidden"), 1),
        (refusing(b"401 Unauthorized", b"Set-Cookie: state=1"), 2),
        (refusing(b"302 Found", b"Location: /login"), 2),
        (refusing(b"500 Oops"), 2),
    ],
)
def test_which_verdicts_are_stored(rig: Rig, said: bytes, questions: int) -> None:
    guarded = Guarded(rig, said, {"cache": "1m"})
    assert guarded.request().status == guarded.request().status
    assert len(guarded.judge.requests) == questions


def test_simultaneous_requests_share_one_verdict(rig: Rig) -> None:
    release = threading.Event()

    def judge(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(ok())

    guarded = Guarded(rig, judge, {"cache": "1m"})
    clients = [rig.connect(guarded.gateway) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(lambda c=client: c.request("GET", "/a", within=LONG)) for client in clients]
        wait_until(lambda: in_flight(guarded.gateway) == 8, "all of them wait", LONG)
        release.set()
        assert [answer.result(LONG).status for answer in answers] == [200] * 8
    assert len(guarded.judge.requests) == 1


def in_flight(gateway: Running) -> int:
    return sum(route["in_flight"] for route in gateway.snapshot()["routes"].values())


def test_a_client_that_leaves_ends_no_other_client_s_check(rig: Rig) -> None:
    release = threading.Event()

    def judge(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(ok())

    guarded = Guarded(rig, judge, {"cache": "1m"})
    first, second = rig.connect(guarded.gateway), rig.connect(guarded.gateway)
    first.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    guarded.judge.wait_heads(1, LONG)
    second.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: in_flight(guarded.gateway) == 2, "both wait", LONG)
    first.reset()
    wait_until(lambda: in_flight(guarded.gateway) == 1, "one is gone", LONG)
    release.set()
    assert second.read_response("GET", LONG).status == 200
    assert len(guarded.judge.requests) == 1


def test_the_consumer_that_it_names(rig: Rig, tmp_path: Path) -> None:
    def judge(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            name = (request.get("authorization") or b"").removeprefix(b"Bearer ")
            conn.send(ok(b"", *([b"X-User: " + name] if name else [])))

    log = tmp_path / "access.log"
    route = {"rate_limit": {"rate": "2/h", "by": "consumer"}}
    guarded = Guarded(rig, judge, {"consumer": "X-User"}, route=route, access_log=str(log))

    def as_user(name: str) -> int:
        return guarded.request("GET", "/a", ("Authorization", f"Bearer {name}"), ("X-Consumer", "root")).status

    assert [as_user("ann"), as_user("ann"), as_user("ann"), as_user("bob")] == [200, 200, 429, 200]
    assert guarded.request().status == 503
    assert [r.all("x-consumer") for r in guarded.upstream.requests] == [[b"ann"], [b"ann"], [b"bob"]]
    assert guarded.upstream.requests[0].all("x-consumer-auth") == [b"forward"]
    guarded.gateway.stop()
    assert [json.loads(line).get("consumer") for line in log.read_text().splitlines()][:4] == [
        *("ann", "ann", "ann", "bob"),
    ]


def test_stored_responses_are_not_shared_between_identities(rig: Rig) -> None:
    def judge(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            conn.send(ok(b"", b"X-User: " + (request.get("x-token") or b"")))

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            conn.send(ok(b"for " + (request.get("x-user") or b"all"), b"Cache-Control: max-age=60"))

    judged = rig.upstream(judge)
    upstream = rig.upstream(script)
    asks = {"service": "auth", "path": "/check", "send_headers": "X-Token"}
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}, "auth": {"targets": [judged.url]}},
        [
            {"path": "/rule", "service": "u", "cache": {}, "forward_auth": {**asks, "copy_headers": "X-User"}},
            {
                "path": "/each",
                "service": "u",
                "cache": {"identity": "consumer"},
                "forward_auth": {**asks, "copy_headers": "X-User"},
            },
            {"path": "/gate", "service": "u", "cache": {}, "forward_auth": asks},
            {
                "path": "/whole",
                "compose": {"a": {"service": "u", "path": "/a", "cache": {"identity": "consumer", "ttl": "1m"}}},
                "forward_auth": {**asks, "copy_headers": "X-User"},
            },
        ],
    )
    client = rig.connect(gateway)

    def get(path: str, token: str) -> bytes:
        return client.request("GET", path, ("X-Token", token)).body

    for path, bodies in (
        ("/rule", [b"for ann", b"for bob", b"for ann"]),
        ("/each", [b"for ann", b"for bob", b"for ann"]),
        ("/gate", [b"for all", b"for all", b"for all"]),
    ):
        assert [get(path, "ann"), get(path, "bob"), get(path, "ann")] == bodies
    assert [r.target for r in upstream.requests] == [b"/rule"] * 3 + [b"/each"] * 2 + [b"/gate"]
    for token in ("ann", "bob", "ann"):
        client.request("GET", "/whole", ("X-Token", token))
    told = [r.get("x-user") for r in upstream.requests if r.target == b"/a"]
    assert told[:2] == [b"ann", b"bob"]


def test_it_comes_after_authentication_and_sees_no_credential_of_the_gateway(rig: Rig, tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.db")
    key = store.create("app", ("read",), 0, None)[1]
    route = {"auth": ["key"]}
    auth = {"send_headers": ["X-API-Key", "X-Team"]}
    guarded = Guarded(rig, ok(), auth, route=route, keys={"store": str(tmp_path / "keys.db")})
    assert guarded.request().status == 401
    assert not guarded.judge.requests
    assert guarded.request("GET", "/a", ("X-API-Key", key), ("X-Team", "a")).status == 200
    (asked,) = guarded.judge.requests
    assert asked.all("x-consumer") == [b"app"]
    assert asked.all("x-team") == [b"a"]
    assert key.encode() not in asked.raw
    store.close()


def test_pages_of_other_origins_can_read_a_refusal(rig: Rig) -> None:
    guarded = Guarded(rig, refusing(b"401 Unauthorized"), route={"cors": {"origins": ["https://shop.example"]}})
    asked = [("Origin", "https://shop.example"), ("Access-Control-Request-Method", "PUT")]
    assert guarded.request("OPTIONS", "/a", *asked).status == 204
    assert not guarded.judge.requests
    answer = guarded.request("PUT", "/a", asked[0])
    assert (answer.status, answer.get("access-control-allow-origin")) == (401, b"https://shop.example")


def test_a_reload_checks_again(rig: Rig) -> None:
    guarded = Guarded(rig, ok(), {"cache": "1m"})
    other: Upstream = rig.upstream(answering(refusing(b"403 Forbidden")))
    assert guarded.request().status == 200
    guarded.gateway.reload(
        {"u": {"targets": [guarded.upstream.url]}, "other": {"targets": [other.url]}},
        [{"path": "/{rest*}", "service": "u", "forward_auth": {"service": "other", "path": "/check", "cache": "1m"}}],
    )
    assert guarded.request().status == 403
