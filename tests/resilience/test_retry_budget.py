"""Retry budget, backoff and Retry-After."""

import random
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passerelle.resilience.retry_budget import RetryBudget, backoff, parse_date, retry_after

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110


def test_the_budget_is_a_fifth_of_the_requests() -> None:
    budget = RetryBudget()
    for number in range(5000):
        budget.record_requests(number / 1000)  # 1000 a second for 5 s
    assert budget.available == 1000
    assert sum(budget.withdraw(5.0) for _ in range(5000)) == 1000
    assert budget.available == 0


def test_the_budget_is_at_least_three_a_second() -> None:
    budget = RetryBudget()
    got = 0
    for tick in range(1000):  # 10 requests a second for 100 s, each with a retry
        budget.record_requests(tick / 10)
        got += budget.withdraw(tick / 10)
    assert 250 <= got <= 330


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 60), st.integers(0, 60)), max_size=20),
    ratio=st.sampled_from([0.0, 0.2, 1.0]),
    floor=st.sampled_from([0.0, 3.0]),
)
def test_never_over_the_budget_in_any_window(steps: list[tuple[float, int, int]], ratio: float, floor: float) -> None:
    budget = RetryBudget(ratio, floor)
    now = 0.0
    requests: list[float] = []
    retries: list[float] = []
    for pause, sent, wanted in steps:
        now += pause
        for _ in range(sent):
            budget.record_requests(now)
            requests.append(now)
        for _ in range(wanted):
            if budget.withdraw(now):
                retries.append(now)
                recent = sum(at > now - 5 for at in retries)
                # requests count for up to 5.5 s
                assert recent <= max(ratio * sum(at > now - 5.5001 for at in requests), floor * 5)


def test_a_retry_storm_is_limited_to_the_ratio() -> None:
    """All requests fail and would be retried twice: 20 % more load instead of 200 %."""
    budget = RetryBudget()
    attempts = 0
    for number in range(60_000):
        now = number / 1000
        budget.record_requests(now)
        attempts += 1
        attempts += sum(budget.withdraw(now) for _ in range(2))
    assert attempts / 60_000 <= 1.25


@pytest.mark.parametrize(("ratio", "floor", "window"), [(-0.1, 3, 10), (0.2, -1, 10), (0.2, 3, 0)])
def test_budgets_are_not_negative(ratio: float, floor: float, window: float) -> None:
    with pytest.raises(ValueError):
        RetryBudget(ratio, floor, window)


def test_full_jitter() -> None:
    chance = random.Random(1).random
    for attempt, ceiling in ((1, 0.025), (2, 0.05), (3, 0.1), (6, 0.8), (7, 1.0), (5000, 1.0)):
        waits = [backoff(attempt, chance, left=10.0) for _ in range(2000)]
        assert all(wait is not None and 0 <= wait < ceiling for wait in waits)
        # uniform: mean is half the ceiling, standard deviation of the mean 0.0065 of it; 5 of them
        assert sum(wait or 0.0 for wait in waits) / 2000 == pytest.approx(ceiling / 2, abs=ceiling * 0.033)


def test_no_delay_beyond_the_deadline() -> None:
    assert backoff(1, lambda: 0.5, left=0.02) == 0.0125
    assert backoff(1, lambda: 0.5, left=0.0125) is None
    assert backoff(1, lambda: 0.5, left=1.0, retry_after=0.5) == 0.5125
    assert backoff(1, lambda: 0.5, left=1.0, retry_after=1.0) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0", 0.0),
        (b"12", 12.0),
        (b"007", 7.0),
        (b"61", 60.0),
        (b"9" * 11, 60.0),
        (b"9" * 100_000, 60.0),
        (b"Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        (b"Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        (b"Sun Nov  6 08:49:47 1994", 10.0),
        (b"Sun, 06 Nov 1994 08:49:27 GMT", 0.0),
        (b"Mon, 06 Nov 2034 08:49:37 GMT", 60.0),
        (b"", None),
        (b"-1", None),
        (b"1.5", None),
        (b"+1", None),
        (b"1 ", None),
        (b"\xd9\xa1", None),
        (b"soon", None),
        (b"Sun, 06 Nov 1994 08:49:37", None),
        (b"Sun, 06 Nov 1994 08:49:37 CET", None),
        (b"Sun, 32 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 31 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 00 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 24:00:00 GMT", None),
        (b"Sun, 06 Nov 0000 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:37 GMT\n", None),
    ],
)
def test_retry_after(value: bytes, expected: float | None) -> None:
    assert retry_after(value, NOW) == expected


def test_two_digit_years_are_at_most_fifty_years_ahead() -> None:
    now = parse_date(b"Sat, 01 Jan 2028 00:00:00 GMT", 0.0)
    assert now is not None
    assert parse_date(b"Saturday, 01-Jan-77 00:00:00 GMT", now) == parse_date(b"Fri, 01 Jan 2077 00:00:00 GMT", now)
    assert parse_date(b"Saturday, 01-Jan-79 00:00:00 GMT", now) == parse_date(b"Mon, 01 Jan 1979 00:00:00 GMT", now)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 4_000_000_000))
def test_dates_agree_with_the_standard_library(seconds: int) -> None:
    assert parse_date(formatdate(seconds, usegmt=True).encode(), NOW) == seconds


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.binary(max_size=40) | st.from_regex(rb"(?:Sun|Monday), \d\d[- ]\w{3}[- ]\d{2,4} [\d:]{8} GMT", fullmatch=True)
)
def test_retry_after_accepts_any_bytes(value: bytes) -> None:
    got = retry_after(value, NOW)
    assert got is None or 0 <= got <= 60
