"""RFC 9111 §4.2: freshness lifetime and age, and the dates and numbers they are computed from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.caching.dates import format_date, parse_date
from passerelle.caching.freshness import HEURISTIC_CAP, freshness_lifetime, initial_age
from tests.caching.kit import NOW, date, response


@pytest.mark.parametrize(
    "value",
    [
        b"Fri, 15 Jan 2027 08:00:00 GMT",
        b"FRI, 15 jan 2027 08:00:00 gmt",
        b"Friday, 15-Jan-27 08:00:00 GMT",
        b"Fri Jan 15 08:00:00 2027",
    ],
)
def test_all_forms_of_a_date_are_read(value: bytes) -> None:
    assert parse_date(value, NOW) == NOW


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"0",
        b"-1",
        b"1800000000",
        b"Fri, 15 Jan 2027 08:00:00 UTC",
        b"Fri, 15 Jan 2027 08:00:00 AEST",
        b"Fri, 15 Jan 2027 08:00:00 +0000",
        b"Fri, 15 Jan 27 08:00:00 GMT",
        b"Fri 15 Jan 2027 08:00:00 GMT",
        b"Fri, 15  Jan  2027 08:00:00 GMT",
        b"Fri, 15-Jan-2027 08:00:00 GMT",
        b"Fri, 15 Jan 2027 08.00.00 GMT",
        b"Fri, 15 Jan 2027 8:00:00 GMT",
        b"Fri, 15 Foo 2027 08:00:00 GMT",
        b"Fri, 32 Jan 2027 08:00:00 GMT",
        b"Tue, 30 Feb 2027 08:00:00 GMT",
        b"Fri, 15 Jan 2027 24:00:00 GMT",
        b"Fri, 15 Jan 2027 08:60:00 GMT",
        b"Fri, 15 Jan 2027 08:00:61 GMT",
        b" Fri, 15 Jan 2027 08:00:00 GMT",
        b"Fri, \xd9\xa1\xd9\xa5 Jan 2027 08:00:00 GMT",
        b"Friday, 15-Jan-2027 08:00:00 GMT",
        b"Fri Jan 15 08:00:00 2027 GMT",
    ],
)
def test_nothing_else_is_a_date(value: bytes) -> None:
    assert parse_date(value, NOW) is None


def test_a_two_digit_year_is_at_most_fifty_years_ahead() -> None:
    assert parse_date(b"Thursday, 18-Aug-50 02:01:18 GMT", NOW) == parse_date(b"Thu, 18 Aug 2050 02:01:18 GMT", NOW)
    assert parse_date(b"Sunday, 06-Nov-94 08:49:37 GMT", NOW) == 784111777.0


def test_a_date_past_32_bits_and_one_without_seconds_left() -> None:
    assert parse_date(b"Sat, 20 Nov 2286 17:46:39 GMT", NOW) == 9999999999.0
    assert parse_date(b"Fri, 15 Jan 2027 08:00:60 GMT", NOW) == NOW + 60


@given(st.integers(min_value=0, max_value=2**33))
def test_a_date_survives_the_round_trip(when: int) -> None:
    assert parse_date(format_date(float(when)), NOW) == when


@given(st.binary(max_size=40))
def test_dates_never_raise(value: bytes) -> None:
    assert parse_date(value, NOW) is None or len(value) >= 24


def lifetime(*lines: str, status: int = 200, heuristic: bool = True) -> tuple[float, bool]:
    came = response(*lines, status=status)
    directives, targeted = came.directives((b"cdn-cache-control",))
    return tuple(freshness_lifetime(came, directives, targeted, heuristic))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Cache-Control: max-age=60"], (60, True)),
        (["Cache-Control: max-age=60, s-maxage=10"], (10, True)),
        (["Cache-Control: s-maxage=10", "Cache-Control: max-age=60"], (10, True)),
        (["Cache-Control: max-age=0, s-maxage=3600", f"Expires: {date(-10).decode()}"], (3600, True)),
        (["Cache-Control: max-age=60", f"Expires: {date(-10).decode()}"], (60, True)),
        (["Cache-Control: max-age=0", f"Expires: {date(60).decode()}"], (0, True)),
        (["Cache-Control: max-age=x", f"Expires: {date(60).decode()}"], (0, True)),
        (["Cache-Control: s-maxage=x, max-age=60"], (0, True)),
        ([f"Expires: {date(60).decode()}"], (60, True)),
        ([f"Expires: {date(-60).decode()}"], (-60, True)),
        (["Expires: 0"], (0, True)),
        (["Expires: never"], (0, True)),
        ([f"Expires: {date(60).decode()}", f"Expires: {date(61).decode()}"], (0, True)),
        ([f"Expires: {date(60).decode()}", f"Expires: {date(60).decode()}"], (60, True)),
        ([f"Date: {date(400).decode()}", f"Expires: {date(300).decode()}"], (-100, True)),
        (["Date: foo", f"Expires: {date(10).decode()}"], (10, True)),
        ([], (0, False)),
        ([f"Last-Modified: {date(-1000).decode()}"], (100, False)),
        ([f"Last-Modified: {date(-(10**8)).decode()}"], (HEURISTIC_CAP, False)),
        ([f"Last-Modified: {date(1000).decode()}"], (0, False)),
        (["Last-Modified: foo"], (0, False)),
    ],
)
def test_freshness_lifetime(lines: list[str], expected: tuple[float, bool]) -> None:
    assert lifetime(*lines) == expected


def test_heuristics_only_where_the_status_or_public_allows_them() -> None:
    modified = f"Last-Modified: {date(-1000).decode()}"
    for status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501):
        assert lifetime(modified, status=status) == (100, False)
    for status in (201, 202, 302, 307, 403, 500, 502, 503, 504, 599):
        assert lifetime(modified, status=status) == (0, False)
        assert lifetime(modified, "Cache-Control: public", status=status) == (100, False)
    assert lifetime(modified, heuristic=False) == (0, False)


@pytest.mark.parametrize(
    ("lines", "took", "age"),
    [
        ([], 0, 0),
        ([], 2, 2),
        (["Age: 30"], 0, 30),
        (["Age: 30"], 2, 32),
        ([f"Date: {date(-100).decode()}"], 0, 100),
        ([f"Date: {date(-100).decode()}", "Age: 30"], 2, 100),
        ([f"Date: {date(-10).decode()}", "Age: 30"], 2, 32),
        ([f"Date: {date(100).decode()}"], 0, 0),
        (["Age: 7200, 0"], 0, 7200),
        (["Age: 0, 7200"], 0, 0),
        (["Age: 7200", "Age: 0"], 0, 7200),
        (["Age: 0", "Age: 7200"], 0, 0),
        (["Age: 2147483648"], 0, 2**31),
        (["Age: 02147483648"], 0, 2**31),
        (["Age: 9999999999"], 0, 2**31),
        (["Age: 99999999999"], 0, 2**31),
        (["Age: 99999999999999999999999"], 0, 2**31),
        (["Age: -7200"], 0, 0),
        (["Age: 7200.0"], 0, 0),
        (["Age: abc"], 0, 0),
        (["Age: 7200;x=1"], 0, 0),
        (["Age:"], 0, 0),
    ],
)
def test_initial_age(lines: list[str], took: float, age: float) -> None:
    assert initial_age(response(*lines, took=took)) == age


def test_the_rest_of_a_second_is_not_age() -> None:
    came = response("Cache-Control: max-age=1", f"Date: {date().decode()}", at=NOW + 0.9)
    assert initial_age(came) == 0.0
