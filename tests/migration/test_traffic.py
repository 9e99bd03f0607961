"""Access logs: formats, lines that are no requests, ids in paths, busy routes, and routes that are used together."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.migration import traffic as bounds
from passerelle.migration.access_log import LoggedRequest, LogSummary, read_log
from passerelle.migration.folding import MOST_FIRST, MOST_NODES, PathTree
from passerelle.migration.found_routes import FoundRoute, SourceError
from passerelle.migration.survey import add_traffic, from_logs
from passerelle.migration.traffic import Traffic
from passerelle.routing.paths import Pattern

COMMON = '192.0.2.7 - ada [10/Oct/2000:13:55:36 -0700] "GET /user/1?q=%zz HTTP/1.1" 200 2326'
COMBINED = COMMON + ' "http://x/\\"" "Mozilla/5.0 (\\"x\\")"'
OURS = {"time": "2000-10-10T20:55:36.000Z", "client": "192.0.2.7", "method": "GET", "target": "/user/1", "status": 200}


def log(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return path


def test_the_formats_have_the_same_requests(tmp_path: Path) -> None:
    path = log(tmp_path / "a.log", COMMON, COMBINED, json.dumps(OURS))
    summary = LogSummary()
    found = list(read_log(path, summary))
    assert {(request.at, request.method, request.path, request.status) for request in found} == {
        (971211336.0, b"GET", b"/user/1", 200)
    }
    assert (summary.lines, summary.requests, summary.unreadable.total()) == (3, 3, 0)
    (tmp_path / "b.log.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_log(tmp_path / "b.log.gz", LogSummary())) == found


def test_a_client_is_an_address_with_a_user_agent_or_a_consumer(tmp_path: Path) -> None:
    lines = [
        OURS,
        {**OURS, "user_agent": "curl"},
        {**OURS, "consumer": "ada"},
        {**OURS, "client": "192.0.2.8", "consumer": "ada"},
    ]
    found = [request.client for request in read_log(log(tmp_path / "a.log", *map(json.dumps, lines)), LogSummary())]
    assert len(set(found)) == 3 and found[2] == found[3]


def test_lines_that_are_no_requests_are_counted_and_the_first_are_listed(tmp_path: Path) -> None:
    good = '1.1.1.1 - - [10/Oct/2000:13:55:36 -0700] "{}" 200 1'
    lines: list[str | bytes] = [
        b"\xff\xfe garbage",
        "",
        '{"time": ',
        '{"time": 1}',
        json.dumps({**OURS, "status": "200"}),
        json.dumps({**OURS, "time": "yesterday"}),
        b"x" * 200_000,
        good.format("\\x16\\x03"),
        good.format("HELLO /x HTTP/1.1"),
        good.format("GET /%zz HTTP/1.1"),
        good.format("GET /a/../.%00 HTTP/1.1"),
        COMMON.replace("Oct", "Okt"),
        '1.1.1.1 - - [10/Oct/2000:13:55:36 -0700] "' + '\\"' * 20_000,
        COMMON,
    ]
    path = log(tmp_path / "a.log", *lines)
    summary = LogSummary()
    assert len(list(read_log(path, summary))) == 1
    assert summary.lines == len(lines)
    assert dict(summary.unreadable) == {
        "neither JSON nor the common or combined format": 2,
        "empty": 1,
        "invalid JSON": 1,
        "JSON without time, method, target and status": 1,
        "JSON with another type of time, method, target or status": 1,
        "no time": 2,
        "longer than 64 KiB": 1,
        "no request line": 1,
        "no known method": 1,
        "a path that the gateway refuses": 2,
    }
    assert summary.examples[0] == f"{path}:1: neither JSON nor the common or combined format"
    assert len(summary.examples) == 5


@given(st.binary(max_size=300))
def test_any_octets_are_requests_or_are_counted(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "octets.log"
    path.write_bytes(data)
    summary = LogSummary()
    found = list(read_log(path, summary))
    assert len(found) + summary.unreadable.total() == summary.lines


def test_a_log_that_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    cut = tmp_path / "cut.log.gz"
    cut.write_bytes(gzip.compress(COMMON.encode() * 1000)[:-20])
    for path, why in [(tmp_path / "none.log", "cannot read "), (cut, f"{cut}:1: the compressed data is damaged")]:
        with pytest.raises(SourceError, match="^" + why):
            list(read_log(path, LogSummary()))


def folded(*paths: str) -> list[str]:
    tree = PathTree()
    for path in paths:
        tree.add(b"GET", path.encode())
    return sorted(route.path for route, _ in tree.routes())


@pytest.mark.parametrize(
    ("paths", "routes"),
    [
        (["/users/1", "/users/2", "/users/me"], ["/users/me", "/users/{user_id}"]),
        (["/a/3f2504e0-4f89-11d3-9a0c-0305e82c3301/b"], ["/a/{a_id}/b"]),
        (["/categories/7/items/8"], ["/categories/{category_id}/items/{item_id}"]),
        (["/order/2024-01-31", "/order/a@b.example", "/order/SKU-4711"], ["/order/{order_id}"]),
        (["/blob/d41d8cd98f00b204e9800998ecf8427e"], ["/blob/{blob_id}"]),
        (["/address/1/2"], ["/address/{address_id}/{id}"]),
        (["/static/a.css", "/static/b.js", "/robots.txt"], ["/robots.txt", "/static/{path*}"]),
        (["/", "/user/", "/user"], ["/", "/user", "/user/"]),
        ([f"/blog/{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(90)], ["/blog/{blog_id}"]),
        ([f"/blog/{chr(97 + n % 26)}{chr(97 + n // 26)}/comments" for n in range(90)], ["/blog/{blog_id}/comments"]),
        (["/v1/users", "/decade"], ["/decade", "/v1/users"]),
    ],
)
def test_ids_in_paths_become_parameters(paths: list[str], routes: list[str]) -> None:
    assert folded(*paths) == routes


def test_a_tree_of_hostile_paths_is_bounded() -> None:
    tree = PathTree()
    for number in range(9_000):
        word = "".join(chr(97 + int(digit)) for digit in str(number))
        tree.add(b"GET", f"/{word}/{word}".encode())
        tree.add(b"GET", f"/a/{'/'.join(word)}/{word}".encode())
    tree.add(b"GET", b"/x" * 500)
    found = [route.path for route, _ in tree.routes()]
    assert len(found) < 2 * MOST_NODES
    assert len({Pattern.parse(path).segments[0].text for path in found}) <= MOST_FIRST + 1
    assert tree.not_kept > 0
    assert "/" + "x/" * 64 + "{path*}" not in found


def request(at: float, client: int, path: str, status: int = 200, method: str = "GET") -> LoggedRequest:
    return LoggedRequest(at, client, method.encode(), path.encode(), status)


ROUTES = [FoundRoute("/a", ("GET",)), FoundRoute("/b/{id}"), FoundRoute("/c", host="c.example")]


def test_routes_are_together_in_the_visits_of_a_client() -> None:
    traffic = Traffic(ROUTES)
    for client in range(4):
        traffic.add(request(0.0, client, "/a"))
        traffic.add(request(5.0, client, "/b/1"))
        traffic.add(request(6.0, client, "/b/2"))
    traffic.add(request(100.0, 0, "/a"))  # a visit of its own
    traffic.add(request(101.0, 7, "/c"))
    traffic.add(request(0.0, 9, "/unknown"))
    traffic.add(request(0.0, 9, "/wp-login", 404))
    pairs = traffic.finish()
    assert dict(traffic.requests) == {0: 5, 1: 8, 2: 1}
    assert dict(traffic.visits) == {0: 5, 1: 4, 2: 1}
    assert [(pair.first, pair.second, pair.visits, pair.share) for pair in pairs] == [(0, 1, 4, 1.0)]
    assert (traffic.unmatched, traffic.not_found) == (1, 1)


def test_the_memory_of_visits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_CLIENTS", 100)
    monkeypatch.setattr(bounds, "MOST_PAIRS", 50)
    routes = [FoundRoute(f"/r{number}") for number in range(100)]
    traffic = Traffic(routes)
    for client in range(1000):
        for number in range(5):
            traffic.add(request(float(client), client, f"/r{(client * 7 + number * 13) % 100}"))
            assert len(traffic._clients) <= 100
    pairs = traffic.finish()
    assert len(pairs) == 50
    assert sum(pair.visits for pair in pairs) + traffic.further_pairs == 1000 * 10
    # One that never pauses has many visits, and each has a bounded number of routes.
    traffic = Traffic(routes)
    for number in range(1000):
        traffic.add(request(number / 10, 1, f"/r{number % 100}"))
    traffic.finish()
    assert max(traffic.visits.values()) > 1


def test_a_survey_of_logs_has_the_busiest_routes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [COMMON.replace("/user/1", f"/user/{number}") for number in range(20)]
    lines += [COMMON.replace("/user/1", "/about"), COMMON.replace("GET /user/1", "POST /user")]
    path = log(tmp_path / "a.log", *lines, COMMON.replace("/user/1", "/wp-admin").replace(" 200 ", " 404 "))
    survey = from_logs([path])
    add_traffic(survey, [path])
    described = survey.to_json()
    assert [(each["path"], each["methods"], each["requests"]) for each in described["routes"]] == [
        ("/user/{user_id}", ["GET"], 20),
        ("/user", ["POST"], 1),
        ("/about", ["GET"], 1),
    ]
    assert described["routes"][0]["together"][0] == {"route": "POST /user", "visits": 1, "share": 1.0}
    assert described["routes"][1]["shadow"]["safe"] is False
    assert (described["log"]["lines"], described["log"]["not_found"]) == (23, 1)

    monkeypatch.setattr("passerelle.migration.survey.MOST_LOGGED", 2)
    survey = from_logs([path])
    add_traffic(survey, [path])
    assert (len(survey.routes), survey.left_out) == (2, 1)
