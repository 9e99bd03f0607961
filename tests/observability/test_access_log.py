"""Lines of the access log: valid JSON for any octets, no secrets, complete batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from passerelle.errors import TABLE, Failure, Kind
from passerelle.observability.access_log import BATCH_LINES, LINE_BYTES, AccessLog

FIELDS = [
    *("time", "request_id", "client", "method", "host", "user_agent", "target"),
    *("status", "attempts", "instance", "route", "service", "cache"),
    *("bytes_in", "bytes_out", "duration_us", "upstream_us"),
]


class Bench:
    """Access log whose clock, timer and sink the test controls."""

    def __init__(self, route: str = "/user/{user_id}", service: str | None = "user") -> None:
        self.now = 1764036543.25
        self.batches: list[list[bytes]] = []
        self.sizes: list[int] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.log = AccessLog(self.put, lambda delay, call: self.timers.append((delay, call)), lambda: self.now)
        self.route = self.log.route(route, service)

    def put(self, lines: list[bytes], size: int) -> None:
        self.batches.append(lines)
        self.sizes.append(size)

    def add(self, target: bytes = b"/user/1", failure: Failure | None = None, **other: Any) -> None:
        values: dict[str, Any] = {
            "request_id": b"0123456789abcdef",
            "client": b"192.0.2.7",
            "method": b"GET",
            "target": target,
            "host": b"api.example.com:8080",
            "user_agent": b"curl/8.5",
            "status": 200,
            "bytes_in": 5,
            "bytes_out": 120,
            "seconds": 0.0012345,
            "upstream_seconds": 0.001,
            "attempts": 1,
            "instance": "user-1",
        }
        self.route.add(**(values | other), failure=failure)

    def line(self, *arguments: Any, **other: Any) -> bytes:
        self.batches.clear()
        self.add(*arguments, **other)
        self.log.flush()
        ((line,),) = self.batches
        return line

    def entry(self, *arguments: Any, **other: Any) -> dict[str, Any]:
        entry: dict[str, Any] = json.loads(self.line(*arguments, **other))
        return entry


def test_a_line_has_all_fields() -> None:
    entry = Bench().entry()
    assert list(entry) == FIELDS
    assert entry == {
        "time": "2025-11-25T02:09:03.250Z",
        "request_id": "0123456789abcdef",
        "client": "192.0.2.7",
        "method": "GET",
        "target": "/user/1",
        "host": "api.example.com:8080",
        "user_agent": "curl/8.5",
        "status": 200,
        "bytes_in": 5,
        "bytes_out": 120,
        "duration_us": 1234,
        "upstream_us": 1000,
        "attempts": 1,
        "instance": "user-1",
        "route": "/user/{user_id}",
        "service": "user",
        "cache": None,
    }


def test_without_service_and_instance_there_is_null() -> None:
    entry = Bench("unmatched", None).entry(instance=None)
    assert (entry["service"], entry["instance"]) == (None, None)


def test_the_result_of_the_cache_is_logged() -> None:
    assert Bench().entry(cache="hit")["cache"] == "hit"


@pytest.mark.parametrize("kind", list(Kind))
def test_a_failure_has_its_side_and_reason(kind: Kind) -> None:
    entry = Bench().entry(failure=Failure(kind, 'Connect call failed "x"'), status=TABLE[kind][0])
    assert list(entry) == [*FIELDS, "failure", "side", "why"]
    assert (entry["failure"], entry["side"], entry["why"]) == (
        kind.value,
        TABLE[kind][1].value,
        'Connect call failed "x"',
    )
    assert Bench().entry(failure=Failure(kind))["why"] == TABLE[kind][2]


octets = st.binary(max_size=60)


@given(octets, octets, octets, octets, octets)
@example(b'"', b"\\", b"\n", b"\x00", b"\xff")
@example("é".encode(), b"a\tb", b"\x7f", b"%b%d%", b"\r\n")
def test_any_octets_make_one_line_of_json_that_gives_them_back(
    request_id: bytes, client: bytes, method: bytes, host: bytes, user_agent: bytes
) -> None:
    sent = {"request_id": request_id, "client": client, "method": method, "host": host, "user_agent": user_agent}
    line = Bench().line(**sent)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    entry = json.loads(line)
    assert {name: entry[name].encode("latin-1") for name in sent} == sent


@given(st.binary(max_size=5000), st.binary(max_size=5000), st.binary(max_size=300))
def test_any_target_makes_a_line_of_bounded_length(target: bytes, user_agent: bytes, host: bytes) -> None:
    failure = Failure(Kind.BAD_REQUEST, target.decode("latin-1"))
    line = Bench().line(target=target, user_agent=user_agent, host=host, failure=failure)
    assert len(line) <= LINE_BYTES
    entry = json.loads(line)
    assert list(entry) == [*FIELDS, "failure", "side", "why"]
    if b"?" not in target and b"@" not in target:
        logged = entry["target"]
        whole = (
            logged.removesuffix("\u2026") if len(logged.encode("utf-8")) > len(target) or "\u2026" in logged else logged
        )
        assert target.startswith(whole.encode("latin-1"))


@given(st.binary(max_size=200).filter(lambda target: b"?" not in target and b"@" not in target))
def test_a_target_without_query_comes_back(target: bytes) -> None:
    assert Bench().entry(target)["target"].encode("latin-1") == target


@given(st.text(max_size=40), st.none() | st.text(max_size=40), st.none() | st.text(max_size=40))
@example("/100%/{x}", "%d", "%b")
def test_configured_names_may_hold_anything(route: str, service: str | None, instance: str | None) -> None:
    entry = Bench(route, service).entry(instance=instance)
    assert (entry["route"], entry["service"]) == (route, service)
    assert entry["instance"] == instance


def test_a_long_value_is_cut_and_marked() -> None:
    entry = Bench().entry(b"/" + b"a" * 30_000, user_agent=b"\xff" * 30_000)
    assert entry["target"] == "/" + "a" * 1535 + "\u2026"
    assert entry["user_agent"] == "\xff" * 64 + "\u2026"
    entry = Bench().entry(b"/?q=" + b"a" * 3000)
    assert entry["target"].startswith("/?q=aaa")
    assert entry["target"].endswith("a\u2026")


@given(st.integers(0, 400), st.sampled_from(["\U0001f600", "\ud83d", "\ude00", "\u20ac", "a"]))
def test_a_text_that_is_cut_anywhere_is_still_text(length: int, character: str) -> None:
    text = "x" * (length % 7) + character * length
    kept = text.encode("utf-8", "replace").decode()
    found = json.loads(
        Bench().line(failure=Failure(Kind.UNAUTHENTICATED, text), consumer=text).decode("utf-8", "strict")
    )
    for value in (found["why"] if text else "", found.get("consumer", "")):
        value.encode()  # no half of a surrogate pair
        assert kept.startswith(value.removesuffix("\u2026"))


SECRET = b"s3cr3t-Value"


@pytest.mark.parametrize(
    "target",
    [
        b"/cb?code=%b&state=1",
        b"/x?access_token=%b",
        b"/x?a=1&apiKey=%b",
        b"/x?api-key=%b",
        b"/x?API_KEY=%b&b=2",
        b"/x?key=%b",
        b"/x?newPassword=%b",
        b"/x?user[pass]=%b",
        b"/x?a=1;pwd=%b;b=2",
        b"/x?X-Amz-Signature=%b&X-Amz-Date=1",
        b"/x?sig=%b",
        b"/x?client_secret=%b&client_id=me",
        b"/x?%%74oken=%b",
        b"/x?sessionid=%b",
        b"/x?a?token=%b",
        b"/x?token=%b=&token=%b",
        b'/x?token=%b"\xff',
        b"http://user:%b@example.com/x",
        b"//user:%b@example.com/x?y=1",
        b"http://user:%b@example.com",
    ],
)
def test_secrets_in_a_target_are_not_logged(target: bytes) -> None:
    target = target.replace(b"%b", SECRET).replace(b"%%", b"%")
    line = Bench().line(target)
    assert SECRET not in line
    assert b"[redacted]" in line
    json.loads(line)


@pytest.mark.parametrize(
    "target",
    [b"/x?monkey=1&page=2", b"/x?q=token", b"/x?keyword=a&zipcode=75001", b"/x?token", b"/users/@me?a=1", b"/x?%"],
)
def test_what_is_not_secret_is_logged_as_it_came(target: bytes) -> None:
    assert Bench().entry(target)["target"].encode("latin-1") == target


names = st.sampled_from(["token", "key", "password", "client_secret", "page", "q", "X-Amz-Signature", "%6bey", ""])


@given(st.lists(st.tuples(names, st.sampled_from("&;"), st.booleans()), max_size=12))
def test_no_value_of_a_secret_name_is_logged_wherever_it_stands(parts: list[tuple[str, str, bool]]) -> None:
    query = ""
    for name, separator, valued in parts:
        telling = name not in ("page", "q", "")
        value = ("=" + (SECRET.decode() if telling else "open")) if valued else ""
        query += name + value + separator
    logged = Bench().entry(b"/x?" + query.encode())["target"]
    assert SECRET.decode() not in logged
    assert logged.count("open") == query.count("open")


@given(octets, octets, octets, octets, octets, st.integers(0, 2**40), st.floats(0, 1000))
@example(b"1", b"192.0.2.7", b"/x?token=a", b"api.example.com", b"curl", 120, 0.0)
def test_the_line_of_a_hit_is_the_line_of_a_request_with_the_same_values(
    request_id: bytes, client: bytes, target: bytes, host: bytes, user_agent: bytes, size: int, seconds: float
) -> None:
    bench = Bench()
    bench.route.add_hit(request_id, client, target, host, user_agent, 404, size, seconds)
    values = {"request_id": request_id, "client": client, "host": host, "user_agent": user_agent, "status": 404}
    parts = {"bytes_in": 0, "bytes_out": size, "seconds": seconds, "upstream_seconds": 0.0}
    bench.add(target, attempts=0, instance=None, cache="hit", **values, **parts)
    bench.log.flush()
    ((hit, line),) = bench.batches
    assert hit == line


def test_large_batch_of_hits_leaves_at_once() -> None:
    bench = Bench()
    while not bench.batches:
        bench.route.add_hit(b"1", b"192.0.2.7", b"/user/1", b"api.example.com", b"curl", 200, 120, 0.0)
    assert len(bench.batches[0]) == BATCH_LINES
    assert len(bench.timers) == 1


def test_time_is_of_the_millisecond_even_when_the_clock_is_set_back() -> None:
    bench = Bench()
    bench.now = 1764036543.2509
    assert bench.entry()["time"] == "2025-11-25T02:09:03.250Z"
    bench.now = 1764036543.2511
    assert bench.entry()["time"] == "2025-11-25T02:09:03.251Z"
    bench.now = 1764036542.0
    assert bench.entry()["time"] == "2025-11-25T02:09:02.000Z"


@given(st.lists(st.integers(0, 4_000_000_000_000), min_size=1, max_size=5))
def test_every_clock_reading_gives_its_own_time(milliseconds: list[int]) -> None:
    bench = Bench()
    for value in milliseconds:
        bench.now = (value + 0.5) / 1000
        expected = datetime.fromtimestamp(value // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{value % 1000:03d}Z"
        assert bench.entry()["time"] == expected


def test_lines_leave_in_batches_by_one_timer() -> None:
    bench = Bench()
    for _ in range(3):
        bench.add()
    assert bench.batches == []
    ((delay, flush),) = bench.timers
    assert delay == pytest.approx(0.1)
    flush()
    assert [len(batch) for batch in bench.batches] == [3]
    assert bench.sizes == [sum(map(len, bench.batches[0]))]
    bench.add()
    assert len(bench.timers) == 2


def test_a_large_batch_leaves_at_once() -> None:
    bench = Bench()
    while not bench.batches:
        bench.add()
    assert len(bench.batches[0]) == BATCH_LINES
    assert len(bench.timers) == 1


def test_nothing_collected_hands_on_nothing() -> None:
    bench = Bench()
    bench.log.flush()
    assert bench.batches == []


def test_instances_that_come_and_go_do_not_pile_up() -> None:
    bench = Bench()
    for number in range(10_000):
        bench.add(instance=f"user-{number}")
    bench.log.flush()
    assert len(bench.route._what) <= 4096


def test_clients_that_come_and_go_do_not_pile_up() -> None:
    bench = Bench()
    for number in range(10_000):
        bench.add(client=b"10.0.%d.%d" % divmod(number, 256), user_agent=b"a" * 5000 + b"%d" % number)
    bench.log.flush()
    assert bench.log._who == {}
    for number in range(10_000):
        bench.add(client=b"10.0.%d.%d" % divmod(number, 256))
    bench.log.flush()
    assert 0 < len(bench.log._who) <= 4096
    assert bench.entry(instance="user-9999")["instance"] == "user-9999"
