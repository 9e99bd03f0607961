"""The field Server-Timing: known values, hostile ones, and bounded sums."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.observability.server_timing import MOST_NAMES, OTHER, ServerTimings, parse
from tests.support.cpu import cpu_timer


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"db;dur=96.5", [("db", 0.0965)]),
        (b"db;dur=96, app;dur=4.25", [("db", 0.096), ("app", 0.00425)]),
        (b'DB;desc="a, b; dur=7";dur=2', [("db", 0.002)]),
        (b'db;dur="53"', [("db", 0.053)]),
        (b"db ; dur = 53 , x", [("db", 0.053)]),
        (b"miss, db;dur=1", [("db", 0.001)]),
        (b"db;dur=-1", []),
        (b"db;dur=1e9", []),
        (b"db;dur=nan", []),
        (b"db;dur=inf", []),
        (b"", []),
        (b",,,", []),
        (b"\xff\xfe;dur=1", []),
        (b"a;dur=1, b\x00;dur=2", [("a", 0.001)]),
        (b"x" * 33 + b";dur=1", []),
    ],
)
def test_names_and_durations(value: bytes, expected: list[tuple[str, float]]) -> None:
    assert parse(value) == [(name, pytest.approx(seconds)) for name, seconds in expected]


@given(st.binary(max_size=5000))
def test_any_octets_give_few_names(value: bytes) -> None:
    found = parse(value)
    assert len(found) <= 16
    assert all(0 <= seconds < 1e7 and 1 <= len(name) <= 32 for name, seconds in found)


@pytest.mark.parametrize("value", [b'a;x="' * 5000, b"a;" * 5000, b"a" * 100_000, b'a;x="\\' * 5000, b" " * 100_000])
def test_a_hostile_value_takes_no_time(value: bytes) -> None:
    with cpu_timer() as spent:
        parse(value)
        assert spent() < 0.05


def test_sums_are_bounded() -> None:
    timings = ServerTimings()
    for number in range(1000):
        timings.add(b"n%d;dur=1000" % number, 2.0)
    timings.add(b"miss", 5.0)
    assert (timings.responses, timings.seconds) == (1000, 2000.0)
    assert len(timings.parts) == MOST_NAMES + 1
    assert timings.parts[OTHER] == pytest.approx(1000 - MOST_NAMES)
