"""Routes told apart by more than host, path and method, in a running gateway: who serves, and what is shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, head
from tests.support.gateways import Rig, Running
from tests.support.upstream import Upstream, answering, ok

FRESH = b"Cache-Control: max-age=60"
JSON = "application/json"


class Sides:
    """A gateway with services ``a`` and ``b``; the routes are given."""

    def __init__(self, rig: Rig, routes: list[dict[str, Any]], **top: Any) -> None:
        self.a: Upstream = rig.upstream(answering(ok(b"a", FRESH)))
        self.b: Upstream = rig.upstream(answering(ok(b"b", FRESH)))
        self.services = {"a": {"targets": [self.a.url]}, "b": {"targets": [self.b.url]}}
        self.running: Running = rig.gateway(self.services, routes, **top)
        self.client: Client = rig.connect(self.running)

    def get(self, target: str, *fields: tuple[str, str], method: str = "GET", body: bytes | None = None) -> bytes:
        """Return the body of a response with 200, else its status."""
        answer = self.client.request(method, target, *fields, body=body)
        return answer.body if answer.status == 200 else str(answer.status).encode()


V2 = ("X-Version", "2")
# Each is on a path of its own: conditions of service b, requests that meet them, and requests that do not.
SPELLINGS: list[
    tuple[dict[str, Any], list[tuple[str, list[tuple[str, str]]]], list[tuple[str, list[tuple[str, str]]]]]
] = [
    (
        {"headers": {"X-Version": "2"}},
        [("", [V2]), ("", [("x-VERSION", "2")]), ("", [("X-Version", "  2 ")])],
        [("", []), ("", [("X-Version", "20")]), ("", [V2, V2]), ("", [("X_Version", "2")]), ("?X-Version=2", [])],
    ),
    ({"headers": {"X-Version": ["2", "3, 4"]}}, [("", [("X-Version", "3"), ("X-Version", "4")])], [("", [V2, V2])]),
    ({"headers": {"X-Beta": {"present": True}}}, [("", [("X-Beta", "")])], [("", [("X-Betas", "1")])]),
    ({"headers": {"X-Beta": {"present": False}}}, [("", [])], [("", [("X-Beta", "")])]),
    ({"headers": {"X-Beta": {"not": "1"}}}, [("", []), ("", [("X-Beta", "2")])], [("", [("X-Beta", "1")])]),
    (
        {"headers": {"User-Agent": {"pattern": ".*Mobile.*"}}},
        [("", [("User-Agent", "x Mobile y")]), ("", [("User-Agent", "M" * 6000 + "Mobile")])],
        [("", [("User-Agent", "Mobil" * 1000)])],
    ),
    (
        {"headers": {"User-Agent": {"pattern": "(?i)(curl|WGET)/.*"}}},
        [("", [("User-Agent", "CURL/8")]), ("", [("User-Agent", "wGet/1")])],
        [("", [("User-Agent", "curls/8")])],
    ),
    ({"headers": {"Accept": {"prefix": ["image/", "video/"]}}}, [("", [("Accept", "video/mp4")])], [("", [])]),
    (
        {"query": {"v": "2"}},
        [("?v=2", []), ("?a&v=2&v=1", []), ("?%76=%32", []), ("?x=%zz&v=2", [])],
        [("?v=1&v=2", []), ("?v", []), ("?w=2", []), ("?xv=2", []), ("?v=2;a", []), ("", []), ("?", [])],
    ),
    ({"query": {"a b": "ü/&"}}, [("?a+b=%C3%BC%2F%26", []), ("?a%20b=%c3%bc/%26", [])], [("?a+b=%FC/&", [])]),
    ({"query": {"debug": {"present": True}}}, [("?debug", []), ("?debug=", [])], [("?debugger", [])]),
    (
        {"cookies": {"beta": "1"}},
        [("", [("Cookie", "beta=1")]), ("", [("Cookie", "a=b"), ("Cookie", "beta=1; beta=2")])],
        [("", [("Cookie", "beta=2; beta=1")]), ("", [("Cookie", "xbeta=1; BETA=1; a=beta=1")]), ("", [])],
    ),
    (
        {"cookies": {"beta": {"pattern": "[0-9]+"}}},
        [("", [("Cookie", "; ".join(["c=d"] * 1500) + ";beta=7")])],
        [("", [("Cookie", "beta" + ";beta" * 1500)]), ("", [("Cookie", "=1; beta; ;;")])],
    ),
    (
        {"content_type": [JSON, "text/*"]},
        [("", [("Content-Type", "Application/JSON; charset=utf-8")]), ("", [("Content-Type", "text/csv")])],
        [("", [("Content-Type", "application/jsonp")]), ("", [("Content-Type", "texts/csv")]), ("", [])],
    ),
    (
        {"content_type": {"not": JSON}},
        [("", []), ("", [("Content-Type", "text/csv")])],
        [("", [("Content-Type", JSON)])],
    ),
    (
        {"clients": ["10.0.0.0/8", "2001:db8::/32"]},
        [("", [("X-Forwarded-For", "10.1.2.3")]), ("", [("X-Forwarded-For", "10.9.9.9, 2001:db8::1")])],
        [("", [("X-Forwarded-For", "10.1.2.3, 192.0.2.1")]), ("", [("X-Forwarded-For", "10.1.2.3, no")]), ("", [])],
    ),
    ({"clients": {"not": "127.0.0.0/8"}}, [("", [("X-Forwarded-For", "10.1.2.3")])], [("", [])]),
    (
        {"headers": {"X-Version": "2"}, "query": {"v": "2"}, "cookies": {"beta": "1"}},
        [("?v=2", [V2, ("Cookie", "beta=1")])],
        [("", [V2, ("Cookie", "beta=1")]), ("?v=2", [("Cookie", "beta=1")]), ("?v=2", [V2])],
    ),
]


@pytest.fixture
def spellings(rig: Rig) -> Sides:
    routes: list[dict[str, Any]] = []
    for number, (match, _, _) in enumerate(SPELLINGS):
        routes += [{"path": f"/{number}", "service": "b", "match": match}, {"path": f"/{number}", "service": "a"}]
    return Sides(rig, routes, trusted_proxies=["127.0.0.1"])


def test_conditions_over_many_spellings(spellings: Sides) -> None:
    for number, (match, meeting, others) in enumerate(SPELLINGS):
        for target, fields in meeting:
            assert spellings.get(f"/{number}{target}", *fields) == b"b", (match, target, fields[:3])
        for target, fields in others:
            assert spellings.get(f"/{number}{target}", *fields) == b"a", (match, target, fields[:3])


def test_conditions_on_the_whole_path_see_its_canonical_form(rig: Rig) -> None:
    scripts = {"path": {"pattern": ".*[.](php|bak)(/.*)?"}}
    routes: list[dict[str, Any]] = [
        {"path": "/{rest*}", "service": "a"},
        {"path": "/{rest*}", "service": "b", "match": scripts},
        {"path": "/{rest*}", "service": "b", "match": {"path": {"prefix": "/%C3%BC"}}, "priority": 1},
        {"path": "/own/{rest*}", "service": "a", "encoded_slashes": "keep"},
    ]
    sides = Sides(rig, routes)
    for target in (
        "/x.php",
        "/a/b/c.bak",
        "/x.php/y",
        "/%78.ph%70?q=1",
        "//a//.//x%2ephp",
        "/a/%2e%2e/x.php",
        "/%c3%bc/x",
    ):
        assert sides.get(target) == b"b", target
    for target in ("/", "/x.phps", "/x.PHP", "/a?x.php", "/own/x.php", "/own/a%2Fx.php", "/x%2520.php/../y"):
        assert sides.get(target) == b"a", target
    assert sides.get("/a%2Fx.php") == b"400"


def test_a_preflight_for_a_path_goes_to_the_route_of_that_path(rig: Rig) -> None:
    cors = {"origins": ["https://a.example"]}
    routes: list[dict[str, Any]] = [
        {"path": "/{rest*}", "service": "a"},
        {"path": "/{rest*}", "service": "b", "match": {"path": {"pattern": ".*[.]json"}}, "cors": cors},
    ]
    sides = Sides(rig, routes)
    fields = (("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET"))
    assert sides.client.request("OPTIONS", "/x.json", *fields).status == 204
    assert sides.get("/x.txt", *fields, method="OPTIONS") == b"a"


def test_the_most_specific_route_whose_conditions_hold_serves(rig: Rig) -> None:
    sides = Sides(
        rig,
        [
            {"path": "/{rest*}", "service": "a"},
            {"path": "/x/{id:int}", "service": "b", "match": {"headers": {"X-Version": "2"}}},
            {"path": "/x/{id}", "service": "a", "methods": ["GET"], "match": {"query": {"q": "1"}}},
            {
                "path": "/only",
                "service": "b",
                "methods": ["PUT"],
                "match": {"headers": {"X-Version": "2"}},
                "host": "gw",
            },
            {"path": "/only", "service": "b", "methods": ["POST"], "host": "gw"},
            {"path": "/none", "host": "only.example", "service": "a"},
        ],
    )
    assert sides.get("/x/5", V2) == b"b"
    assert sides.get("/x/5") == b"a"
    assert sides.get("/x/five", V2) == b"a"
    assert sides.get("/only", V2, method="PUT", body=b"") == b"b"
    assert sides.get("/only", method="PUT", body=b"") == b"a"  # the route for any host is less specific


def test_only_routes_whose_conditions_hold_are_in_allow(rig: Rig) -> None:
    sides = Sides(
        rig,
        [
            {"path": "/x", "service": "b", "methods": ["PUT"], "match": {"headers": {"X-Version": "2"}}},
            {"path": "/x", "service": "a", "methods": ["POST"]},
            {"path": "/y", "service": "a", "match": {"headers": {"X-Version": "2"}}},
        ],
    )
    refused = sides.client.request("GET", "/x")
    assert (refused.status, refused.get("allow")) == (405, b"POST")
    refused = sides.client.request("GET", "/x", V2)
    assert (refused.status, refused.get("allow")) == (405, b"POST, PUT")
    assert sides.client.request("GET", "/y").status == 404
    assert sides.client.request("GET", "/y", V2).status == 200


def test_a_parameter_may_be_compared_without_letter_case(rig: Rig) -> None:
    sides = Sides(rig, [{"path": "/x/{id:(?i)[a-f]{2}|new}", "service": "a"}, {"path": "/x/{rest*}", "service": "b"}])
    assert [sides.get(f"/x/{value}") for value in ("aF", "NEW", "New", "ag", "AFF")] == [b"a", b"a", b"a", b"b", b"b"]


def test_a_priority_decides_where_conditions_do_not(rig: Rig) -> None:
    match = {"headers": {"X-Version": "2"}, "query": {"q": "1"}}
    sides = Sides(
        rig,
        [
            {"path": "/x", "service": "b", "match": {"cookies": {"beta": "1"}}, "priority": 1},
            {"path": "/x", "service": "a", "match": match},
            {"path": "/x", "service": "a", "methods": ["GET"]},
        ],
    )
    assert sides.get("/x?q=1", V2, ("Cookie", "beta=1")) == b"b"


def test_responses_of_routes_to_one_uri_are_stored_apart(rig: Rig) -> None:
    cached = {"path": "/x", "cache": {}}
    sides = Sides(
        rig,
        [{**cached, "service": "a"}, {**cached, "service": "b", "match": {"headers": {"X-Version": "2"}}}],
    )
    for _ in range(3):  # the second could be served before routing
        assert sides.get("/x") == b"a"
        assert sides.get("/x", V2) == b"b"
    assert (len(sides.a.requests), len(sides.b.requests)) == (1, 1)
    # The resource is one (RFC 9111 §4.4), whichever route an unsafe request takes.
    assert sides.get("/x", method="POST", body=b"") == b"a"
    assert (sides.get("/x"), sides.get("/x", V2)) == (b"a", b"b")
    assert (len(sides.a.requests), len(sides.b.requests)) == (3, 2)
    assert sides.get("/x", V2, method="POST", body=b"") == b"b"
    assert (sides.get("/x"), sides.get("/x", V2)) == (b"a", b"b")
    assert (len(sides.a.requests), len(sides.b.requests)) == (4, 4)


def test_a_less_specific_route_shares_nothing_either(rig: Rig) -> None:
    sides = Sides(
        rig,
        [
            {"path": "/{rest*}", "service": "a", "cache": {}},
            {"path": "/x/{id:int}", "service": "b", "cache": {}, "match": {"cookies": {"beta": "1"}}},
            {"path": "/x/5", "service": "b", "cache": {}, "match": {"clients": "192.0.2.0/24"}},
        ],
        trusted_proxies=["127.0.0.1"],
    )
    beta, near = ("Cookie", "beta=1"), ("X-Forwarded-For", "192.0.2.1")
    for _ in range(2):
        assert sides.get("/x/5") == b"a"
        assert sides.get("/x/5", beta) == b"b"
        assert sides.get("/x/5", near) == b"b"


def test_a_route_with_conditions_and_a_split(rig: Rig) -> None:
    match, split = {"headers": {"X-Version": "2"}}, {"weights": {"b": 1000}, "by": "header:X-User"}
    routes: list[dict[str, Any]] = [
        {"path": "/x", "service": "a", "cache": {}},
        {"path": "/x", "service": "a", "cache": {}, "match": match, "split": split},
    ]
    sides = Sides(rig, routes)
    for _ in range(2):
        assert (sides.get("/x"), sides.get("/x", V2)) == (b"a", b"b")
    assert (len(sides.a.requests), len(sides.b.requests)) == (1, 1)
    sides.get("/x", method="POST", body=b"")
    assert (sides.get("/x"), sides.get("/x", V2)) == (b"a", b"b")
    assert (len(sides.a.requests), len(sides.b.requests)) == (3, 2)


def test_compositions_are_told_apart_too(rig: Rig) -> None:
    json_a, json_b = rig.upstream(answering(ok(b'"a"', FRESH))), rig.upstream(answering(ok(b'"b"', FRESH)))
    services = {"a": {"targets": [json_a.url]}, "b": {"targets": [json_b.url]}}

    def route(name: str, **more: Any) -> dict[str, Any]:
        part = {"service": name, "path": "/p", "cache": {}}
        return {"path": "/c", "compose": {"part": part}, "cache": {}, **more}

    client = rig.connect(rig.gateway(services, [route("a"), route("b", match={"query": {"v": "2"}})]))
    for _ in range(2):
        assert json.loads(client.request("GET", "/c").body) == {"part": "a"}
        assert json.loads(client.request("GET", "/c?v=2").body) == {"part": "b"}
    assert (len(json_a.requests), len(json_b.requests)) == (1, 1)


def test_limits_logs_and_metrics_are_those_of_the_route(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    limit = {"rate": "1/h", "by": "address"}
    routes: list[dict[str, Any]] = [
        {"path": "/x", "service": "a"},
        {"path": "/x", "service": "b", "match": {"headers": {"X-Api-Key": "s3cret"}}, "rate_limit": limit},
    ]
    sides = Sides(rig, routes, access_log=str(log))
    key = ("X-Api-Key", "s3cret")
    assert [sides.get("/x", key), sides.get("/x", key), sides.get("/x")] == [b"b", b"429", b"a"]
    names = set(sides.running.snapshot()["routes"])
    (label,) = [name for name in names if name.startswith("/x[header:x-api-key~")]
    assert "/x" in names and "s3cret" not in label
    sides.running.stop()
    routed = [json.loads(line)["route"] for line in log.read_text().splitlines()]
    assert routed == [label, label, "/x"]


def test_a_reload_adds_changes_and_removes_conditions(rig: Rig) -> None:
    plain: list[dict[str, Any]] = [{"path": "/x", "service": "a", "cache": {}}]
    by: list[dict[str, Any]] = [{"path": "/x", "service": "b", "cache": {}, "match": {"headers": {"X-Version": "2"}}}]
    sides = Sides(rig, plain)
    assert sides.get("/x", V2) == sides.get("/x", V2) == b"a"
    sides.running.reload(sides.services, plain + by)
    assert (sides.get("/x"), sides.get("/x", V2), sides.get("/x", V2)) == (b"a", b"b", b"b")
    other = [{**by[0], "match": {"headers": {"X-Version": "3"}}}]
    sides.running.reload(sides.services, plain + other)
    assert (sides.get("/x"), sides.get("/x", V2), sides.get("/x", ("X-Version", "3"))) == (b"a", b"a", b"b")
    sides.running.reload(sides.services, plain)
    assert (sides.get("/x"), sides.get("/x", ("X-Version", "3"))) == (b"a", b"a")


def test_preflights_are_for_the_fields_that_they_announce(rig: Rig) -> None:
    cors = {"cors": {"origins": ["https://a.example"], "headers": "*"}}
    sides = Sides(
        rig,
        [
            {"path": "/x", "service": "a", **cors},
            {"path": "/x", "service": "b", "match": {"headers": {"X-Version": "2"}}, **cors},
            {"path": "/y", "service": "b", "match": {"headers": {"X-Version": "2"}}, **cors},
        ],
    )
    fields = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")]
    asked = ("Access-Control-Request-Headers", "x-version")
    for target in ("/x", "/y"):
        answer = sides.client.request("OPTIONS", target, *fields, asked)
        assert (answer.status, answer.get("access-control-allow-origin")) == (204, b"https://a.example")
    assert sides.client.request("OPTIONS", "/y", *fields).status == 404
    assert not sides.a.requests and not sides.b.requests


def test_encoded_slashes_are_kept_by_the_route_that_serves(rig: Rig) -> None:
    sides = Sides(
        rig,
        [
            {"path": "/x/{id}", "service": "a"},
            {"path": "/x/{id}", "service": "b", "encoded_slashes": "keep", "match": {"headers": {"X-Version": "2"}}},
        ],
    )
    assert sides.get("/x/a%2Fb", V2) == b"b"
    assert sides.get("/x/a%2Fb") == b"400"
    assert sides.get("/x/ab", V2) == b"b"


def test_the_server_as_a_whole_and_http_1_0(rig: Rig) -> None:
    sides = Sides(
        rig,
        [{"path": "/", "service": "a"}, {"path": "/", "service": "b", "match": {"headers": {"X-Version": "2"}}}],
    )
    assert sides.client.request("OPTIONS", "*", V2).body == b"b"
    assert sides.client.request("OPTIONS", "*").body == b"a"
    sides.client.send(head("GET", "/", V2).replace(b"HTTP/1.1\r\nHost: gw", b"HTTP/1.0"))
    assert sides.client.read_response().body == b"b"
