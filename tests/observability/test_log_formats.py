"""Formats of the access log: their fields, and that no client can write a line or a field of its own."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.config.models.access_log import FIELDS, parse_format
from passerelle.errors import Failure, Kind
from passerelle.observability.access_log import LINE_BYTES, AccessLog
from passerelle.observability.log_formats import Convert, converter, converting

PLAIN: dict[str, Any] = {
    "request_id": b"0123",
    "client": b"192.0.2.7",
    "method": b"GET",
    "target": b"/user/1",
    "host": b"api.example.com",
    "user_agent": b"curl/8.5",
    "status": 200,
    "bytes_in": 5,
    "bytes_out": 120,
    "seconds": 0.0012345,
    "upstream_seconds": 0.001,
    "attempts": 1,
    "instance": "user-1",
}


def line(route: str = "/user/{id}", *, errors_only: bool = False, **other: Any) -> bytes:
    """Return the JSON line of a request, or nothing."""
    batches: list[bytes] = []
    log = AccessLog(lambda lines, size: batches.extend(lines), lambda delay, call: None, lambda: 1764036543.25)
    log.route(route, "user", errors_only=errors_only).add(**(PLAIN | other))
    log.flush()
    return b"".join(batches).rstrip(b"\n")


def made(name: str, **other: Any) -> str:
    convert = converter(name)
    assert convert is not None
    return convert(line(**other)).decode()


def test_combined_is_what_tools_read() -> None:
    assert made("combined", consumer="mobile") == (
        '192.0.2.7 - mobile [25/Nov/2025:02:09:03 +0000] "GET /user/1 HTTP/1.1" 200 120 "-" "curl/8.5"'
    )
    assert made("combined", user_agent=b"").endswith(
        '- [25/Nov/2025:02:09:03 +0000] "GET /user/1 HTTP/1.1" 200 120 "-" "-"'
    )


def test_a_template_has_every_field() -> None:
    text = "|".join(f"{name}={{{name}}}" for name in FIELDS)
    assert parse_format(text) == text
    found = made(
        text, failure=Failure(Kind.TIMEOUT), extra=b',"hedge":"won","trace_id":"ab"', consumer="c", cache="miss"
    )
    values = dict(word.split("=", 1) for word in found.split("|"))
    assert list(values) == list(FIELDS)
    assert "-" not in values.values()
    assert (values["duration_ms"], values["time_clf"]) == ("1.234", "25/Nov/2025:02:09:03 +0000")
    assert made("{{{status}}} {hedge}") == "{200} -"


def test_a_line_is_short_enough_for_a_pipe() -> None:
    assert len(made("{target}" * 50, target=b"/" + b'"' * 1000)) == LINE_BYTES - 1


def test_the_readable_line_has_no_colours() -> None:
    assert re.fullmatch(r"\d\d:\d\d:\d\d 200 GET    /user/1 +1\.23 ms user-1", made("text"))


def test_json_needs_no_conversion() -> None:
    assert converter("json") is None


@pytest.mark.parametrize("name", ["combined", "text", '{client} {target} "{user_agent}" {host} {why}'])
@given(target=st.binary(max_size=80), agent=st.binary(max_size=80), host=st.binary(max_size=40))
def test_no_octets_of_a_client_begin_a_line_or_end_a_field(name: str, target: bytes, agent: bytes, host: bytes) -> None:
    found = made(
        name, target=target, user_agent=agent, host=host, failure=Failure(Kind.BAD_REQUEST, "no\nsuch \x1b[31m")
    )
    assert found.isprintable()
    plain = made(name, failure=Failure(Kind.BAD_REQUEST, "x"))
    if name != "text":
        assert found.isascii()
        assert found.count('"') == plain.count('"')
    if name.startswith("{"):
        outside = '"'.join(found.split('"')[::2])
        assert outside.count(" ") == '"'.join(plain.split('"')[::2]).count(" ")


def test_a_batch_is_converted_with_its_size() -> None:
    batches: list[tuple[list[bytes], int]] = []
    convert: Convert = Upper.convert
    converting(lambda lines, size: batches.append((lines, size)), convert)([b"ab\n", b"c\n"], 5)
    assert batches == [([b"AB!\n", b"C!\n"], 7)]


class Upper:
    """A format of another length than JSON."""

    @staticmethod
    def convert(found: bytes) -> bytes:
        return found.upper() + b"!"


@pytest.mark.parametrize(
    ("status", "failure", "logged"),
    [(200, None, False), (304, None, False), (404, None, True), (502, None, True), (200, Kind.TRUNCATED, True)],
)
def test_a_route_that_logs_errors_only(status: int, failure: Kind | None, logged: bool) -> None:
    found = line(errors_only=True, status=status, failure=None if failure is None else Failure(failure))
    assert bool(found) is logged
    if logged:
        assert found == line(status=status, failure=None if failure is None else Failure(failure))


def test_hits_of_a_route_that_logs_errors_only() -> None:
    batches: list[bytes] = []
    log = AccessLog(lambda lines, size: batches.extend(lines), lambda delay, call: None)
    route = log.route("/a", "user", errors_only=True)
    for status in (200, 404):
        route.add_hit(b"1", b"192.0.2.7", b"/a", b"h", b"curl", status, 5, 0.001)
    log.flush()
    (only,) = batches
    assert b'"status":404' in only


def test_fields_of_templates_are_those_of_the_line() -> None:
    extra = b',"hedge":"won","trace_id":"ab"'
    keys = re.findall(rb'"(\w+)":', line(failure=Failure(Kind.TIMEOUT), extra=extra, consumer="c"))
    assert {key.decode() for key in keys} | {"time_clf", "duration_ms"} == set(FIELDS)
