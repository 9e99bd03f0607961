"""Rate limits: the arithmetic, the bounded table, the fields."""

from __future__ import annotations

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.errors import Kind
from passerelle.http1.head import RequestHead
from passerelle.security.guard import GuardedCall, RequestRefused
from passerelle.security.identity import Identity
from passerelle.security.ratelimit.gcra import (
    LONGEST_KEY,
    SECOND,
    BucketTable,
    Rate,
    RateLimits,
    RouteRateLimit,
    SingleRateLimit,
    by_consumer,
    by_header,
    by_key,
    decide,
)

RATES = st.builds(
    Rate, st.integers(1, 1000), st.sampled_from([SECOND, 60 * SECOND, 86400 * SECOND]), st.integers(1, 50)
)
START = 10**18


def asked(address: bytes = b"203.0.113.5", *fields: tuple[bytes, bytes]) -> GuardedCall:
    return GuardedCall(b"GET", b"/", address, RequestHead(b"".join(b"%b: %b\r\n" % field for field in fields), 100))


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


def by_address(request: GuardedCall) -> bytes:
    return request.address


# ---- the arithmetic


def test_a_burst_then_the_rate() -> None:
    rate = Rate(3, 60 * SECOND, 3)
    full = 0
    for left in (2, 1, 0):
        decision = decide(rate, full, START)
        assert (decision.admitted, decision.left) == (True, left)
        full = decision.full
    refused = decide(rate, full, START)
    assert not refused.admitted
    assert refused.retry == 20 * SECOND
    assert not decide(rate, full, START + 20 * SECOND - 1).admitted
    assert decide(rate, full, START + 20 * SECOND).admitted


@given(RATES, st.lists(st.integers(0, 2 * SECOND), max_size=60), st.integers(1, 5))
def test_no_window_ever_admits_more_than_the_burst_and_the_rate(rate: Rate, gaps: list[int], cost: int) -> None:
    """In every interval: at most burst + rate x time, exactly (integers, no rounding)."""
    cost = min(cost, rate.burst)
    now, full, admitted = START, 0, []
    for gap in gaps:
        now += gap
        decision = decide(rate, full, now, cost)
        full = decision.full
        if decision.admitted:
            admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            spent = (last - first + 1) * cost * rate.period
            assert spent <= rate.burst * rate.period + (admitted[last] - admitted[first]) * rate.count


@given(RATES, st.integers(0, 10**6), st.integers(1, 5))
def test_a_client_is_admitted_after_retry_after_and_not_a_nanosecond_sooner(rate: Rate, extra: int, cost: int) -> None:
    cost = min(cost, rate.burst)
    full = 0
    while (decision := decide(rate, full, START, cost)).admitted:
        full = decision.full
    assert decision.retry > 0
    assert not decide(rate, full, START + decision.retry - 1, cost).admitted
    assert decide(rate, full, START + decision.retry + extra, cost).admitted


@given(RATES, st.lists(st.integers(0, SECOND), max_size=40))
def test_remaining_requests_and_reset_are_exact(rate: Rate, gaps: list[int]) -> None:
    """``left`` more requests are admitted at once and no more, and after ``reset`` the bucket is full."""
    now, full = START, 0
    for gap in gaps:
        now += gap
        full = decide(rate, full, now).full
    decision = decide(rate, full, now)
    left, state = decision.left, decision.full
    while (following := decide(rate, state, now)).admitted:
        left, state = left - 1, following.full
    assert left == 0
    rested = decide(rate, decision.full, now + decision.reset)
    assert rested.admitted and rested.left == rate.burst - 1


@given(RATES, st.integers(0, SECOND))
def test_a_refused_request_costs_nothing(rate: Rate, gap: int) -> None:
    full = 0
    while (decision := decide(rate, full, START)).admitted:
        full = decision.full
    again = decide(rate, decision.full, START + gap)
    assert again == decide(rate, full, START + gap)


@given(RATES, st.integers(1, 8))
def test_workers_together_admit_no_more_than_one_alone(rate: Rate, workers: int) -> None:
    part = rate.share(workers)
    assert part.count * rate.period * workers == rate.count * part.period
    assert part.burst * workers < rate.burst + workers
    assert part.burst >= 1


@given(st.integers(1, 10**7), st.integers(1, 86400), st.integers(1, 1000))
def test_lowest_terms_are_the_same_rate_in_whole_microseconds(count: int, seconds: int, burst: int) -> None:
    rate = Rate.of(count, seconds, burst)
    assert rate.count * seconds * SECOND == rate.period * count
    assert (rate.period % 1000, rate.burst) == (0, burst)
    assert rate.count <= count


# ---- the table


def test_the_table_is_bounded_and_a_busy_client_outlives_a_flood() -> None:
    clock, table = Clock(), BucketTable(1000)
    limits = RateLimits([RouteRateLimit("l", Rate(3, 60 * SECOND, 3), by_address, table=table)], lambda: None, clock)
    for _ in range(3):
        limits(asked(b"victim"))
    for number in range(50_000):
        clock.now += 1000
        limits(asked(b"%d" % number))
        assert len(table) <= 1000
    # Every other client was evicted before its bucket was full again (20 s after its only request).
    assert sum(table.get(b"%d" % number) > 0 for number in range(50_000)) == 999
    assert clock.now < START + 20 * SECOND
    with pytest.raises(RequestRefused):
        limits(asked(b"victim"))


def test_what_is_full_again_goes_first_and_is_no_eviction() -> None:
    clock, table = Clock(), BucketTable(100)
    limits = RateLimits([RouteRateLimit("l", Rate(1, SECOND, 1), by_address, table=table)], lambda: None, clock)
    for number in range(10_000):
        clock.now += SECOND // 50  # at any time, about 50 of 100 have debts
        limits(asked(b"%d" % number))
    assert len(table) == 100
    # Every client that still had a debt was kept.
    assert all(table.get(b"%d" % number) > clock.now for number in range(9_951, 10_000))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=100))
def test_the_table_keeps_what_was_put_last(steps: list[tuple[int, int]]) -> None:
    table = BucketTable(10)
    for key, full in steps:
        table.put(b"%d" % key, full, 0)
        assert table.get(b"%d" % key) == full
        assert len(table) <= 10


# ---- keys


def test_keys() -> None:
    request = asked(b"203.0.113.5", (b"x-tenant", b"t" * 500))
    assert by_header(b"x-tenant")(request) == b"t" * LONGEST_KEY
    assert by_header(b"x-other")(request) == b""
    request.identity = Identity("alice", (), "key", key="k1")
    assert (by_consumer(request), by_key(request)) == (b"alice", b"k1")
    request.identity = Identity("bob", (), "jwt")
    assert (by_consumer(request), by_key(request)) == (b"bob", b"bob")


# ---- the guard


def guard(*limits: RouteRateLimit, clock: Clock | None = None) -> tuple[RateLimits, list[int], Clock]:
    counted: list[int] = []
    clock = clock or Clock()
    return RateLimits(limits, lambda: counted.append(1), clock), counted, clock


def fields(request: GuardedCall) -> dict[str, bytes]:
    lines = [line.partition(b": ") for line in request.response_fields.split(b"\r\n") if line]
    return {name.decode(): value for name, _, value in lines}


def test_the_fields_are_structured_fields_and_true() -> None:
    per_second = RouteRateLimit("2/s by address", Rate(2, SECOND, 4), by_address)
    per_day = RouteRateLimit("10/d by address", Rate(10, 86400 * SECOND, 10), by_address)
    limits, _, _ = guard(per_second, per_day)
    request = asked()
    limits(request)
    said = fields(request)
    policy = http_sf.parse(said["RateLimit-Policy"], tltype="list")
    state = http_sf.parse(said["RateLimit"], tltype="list")
    assert policy == [("2/s by address", {"q": 4, "w": 2}), ("10/d by address", {"q": 10, "w": 86400})]
    assert state == [("2/s by address", {"r": 3, "t": 1}), ("10/d by address", {"r": 9, "t": 8640})]


def test_all_limits_must_admit_before_any_counts() -> None:
    clock = Clock()
    small = RouteRateLimit("small", Rate(1, SECOND, 1), by_address)
    large = RouteRateLimit("large", Rate(5, 86400 * SECOND, 5), by_address)
    limits, _, _ = guard(small, large, clock=clock)
    limits(asked())
    for _ in range(20):
        with pytest.raises(RequestRefused) as refused:
            limits(asked())
        assert refused.value.kind is Kind.RATE_LIMITED
        assert refused.value.fields == [(b"Retry-After", b"1")]
    for _ in range(4):  # the refused ones do not count against the large limit
        clock.now += SECOND
        limits(asked())
    clock.now += SECOND
    with pytest.raises(RequestRefused) as refused:
        limits(asked())
    assert int(refused.value.fields[0][1]) == 86400 // 5 - 5


def test_a_dry_run_limit_counts_and_sends_no_headers() -> None:
    limits, counted, _ = guard(RouteRateLimit("dry", Rate(1, SECOND, 1), by_address, dry_run=True))
    for _ in range(5):
        request = asked()
        limits(request)
        assert request.response_fields == b""
    assert len(counted) == 4


def test_clients_have_buckets_of_their_own() -> None:
    limits, _, _ = guard(RouteRateLimit("l", Rate(1, SECOND, 1), by_address))
    for number in range(100):
        limits(asked(b"%d" % number))
    for number in range(100):
        with pytest.raises(RequestRefused):
            limits(asked(b"%d" % number))


STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2 * SECOND)), max_size=60)


@given(RATES, st.integers(1, 50), STEPS)
def test_one_limit_alone_decides_and_reports_as_several_do(rate: Rate, cost: int, steps: list[tuple[int, int]]) -> None:
    clock, cost = Clock(), min(cost, rate.burst)
    several = RateLimits([RouteRateLimit("l", rate, by_address, cost=cost)], lambda: None, clock)
    alone = SingleRateLimit(RouteRateLimit("l", rate, by_address, cost=cost), clock)
    for client, later in steps:
        clock.now += later
        told = []
        for each in (several, alone):
            request = asked(b"%d" % client)
            try:
                each(request)
            except RequestRefused as refused:
                told.append((request.response_fields, refused.kind, refused.detail, refused.fields))
            else:
                told.append((request.response_fields, None, "", []))
        assert told[0] == told[1]
