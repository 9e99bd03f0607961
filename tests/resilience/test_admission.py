"""The counters of the admission queue, and the adaptive limit against a model of a server."""

import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from passerelle.resilience.adaptive_limit import AdaptiveLimit
from passerelle.resilience.admission import Admission, AdmissionQueue, retry_after


def test_run_wait_refuse() -> None:
    queue = AdmissionQueue(2, 1)
    assert [queue.enter() for _ in range(4)] == [Admission.RUN, Admission.RUN, Admission.WAIT, Admission.REFUSE]
    assert queue.leave() is True  # the waiting request runs
    assert (queue.running, queue.waiting) == (2, 0)
    assert queue.leave() is False
    assert queue.leave() is False
    with pytest.raises(RuntimeError, match="left"):
        queue.leave()
    with pytest.raises(RuntimeError, match="abandoned"):
        queue.abandon()
    with pytest.raises(ValueError, match="limit of at least 1"):
        AdmissionQueue(0, 1)
    with pytest.raises(ValueError, match="max_waiting of at least 0"):
        AdmissionQueue(1, -1)


class Queues(RuleBasedStateMachine):
    """The counters are correct, no request waits while there is room, and no request overtakes."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = AdmissionQueue(3, 4)
        self.running = self.waiting = 0

    def promoted(self, moved: bool) -> None:
        if moved:
            self.waiting -= 1
            self.running += 1

    @rule()
    def enter(self) -> None:
        admission = self.queue.enter()
        if admission is Admission.RUN:
            assert self.waiting == 0
            self.running += 1
        elif admission is Admission.WAIT:
            self.waiting += 1
        else:
            assert self.running >= self.queue.limit
            assert self.waiting == 4

    @precondition(lambda self: self.running)
    @rule()
    def leave(self) -> None:
        self.running -= 1
        self.promoted(self.queue.leave())

    @precondition(lambda self: self.waiting)
    @rule()
    def abandon(self) -> None:
        self.waiting -= 1
        self.queue.abandon()

    @rule(limit=st.integers(1, 6))
    def change(self, limit: int) -> None:
        self.queue.limit = limit
        while self.queue.promote():
            self.promoted(True)

    @invariant()
    def counts(self) -> None:
        assert (self.queue.running, self.queue.waiting) == (self.running, self.waiting)
        assert not (self.waiting and self.running < self.queue.limit)


Queues.TestCase.settings = settings(max_examples=100, deadline=None, derandomize=True)
TestQueues = Queues.TestCase


@pytest.mark.parametrize(
    ("waiting", "limit", "seconds", "expected"),
    [(0, 10, 0.1, 1), (255, 256, 5.0, 5), (100, 10, 1.0, 11), (10_000, 1, 10.0, 30)],
)
def test_retry_after_is_the_duration_of_the_queue(waiting: int, limit: int, seconds: float, expected: int) -> None:
    assert retry_after(waiting, limit, seconds) == expected


def drive(
    limit: AdaptiveLimit,
    capacity: Callable[[float], int],
    seconds: float,
    *,
    offered: int = 10_000,
    service: float = 0.05,
    seed: int = 1,
) -> list[tuple[float, int, float]]:
    """Simulate a server that works on ``capacity(now)`` requests at once, in steps of 10 ms.

    Return (time, limit, requests served) for each step. By Little's law, the latency of a request is ``service`` times
    the ratio of the requests in flight to the capacity, at least 1. A few percent of noise are added.
    """
    chance = random.Random(seed)
    now = 0.0
    seen = []
    while now < seconds:
        now += 0.01
        in_flight = min(limit.limit, offered)
        working = capacity(now)
        latency = service * max(1.0, in_flight / working)
        served = in_flight * 0.01 / latency
        for _ in range(max(1, round(served))):
            limit.observe(latency * chance.uniform(0.9, 1.1), in_flight, True, now)
        seen.append((now, limit.limit, served))
    return seen


@pytest.mark.parametrize("working", [5, 40, 300])
def test_the_limit_finds_the_capacity_and_uses_it(working: int) -> None:
    """From 20 to any capacity: full throughput, and a latency of at most 2.5 times the base (a queue of 1.5).

    The square root is a large part of a small limit, so the bound is a few requests higher.
    """
    seen = drive(AdaptiveLimit(), lambda now: working, 60.0)
    late = [(limit, served) for now, limit, served in seen if now > 30]
    assert max(limit for limit, _ in late) <= 2.5 * working + 4
    whole = working * 0.01 / 0.05
    assert sum(served for _, served in late) / len(late) >= 0.95 * whole


def test_the_limit_follows_a_capacity_that_shrinks_and_grows() -> None:
    seen = drive(AdaptiveLimit(), lambda now: 100 if now < 40 or now > 80 else 20, 140.0)
    limits = {round(now): limit for now, limit, _ in seen}
    assert limits[39] >= 100
    assert limits[79] <= 2.5 * 20 + 2
    assert limits[139] >= 100


def test_the_limit_does_not_grow_while_it_is_not_used() -> None:
    limit = AdaptiveLimit()
    drive(limit, lambda now: 10_000, 30.0, offered=5)
    assert limit.limit <= 20


def test_the_base_follows_a_service_that_becomes_slower_for_good() -> None:
    """Three times the latency at the same capacity: after a measurement of the base the limit is as before."""
    limit = AdaptiveLimit(every=100)
    drive(limit, lambda now: 40, 30.0)
    before = limit.limit
    drive(limit, lambda now: 40, 60.0, service=0.15)
    # drive() restarts the clock, so that the current window ends later
    assert limit.base == pytest.approx(0.15, rel=0.15)
    assert limit.limit >= 0.8 * before


def test_refusals_cut_the_limit_at_once_and_only_once_a_window() -> None:
    limit = AdaptiveLimit(100)
    for _ in range(50):
        limit.observe(0.1, 100, False, 1.0)
    assert limit.limit == 90
    for _ in range(10):
        limit.observe(0.1, 1, True, 2.0)
    limit.observe(0.1, 100, False, 3.0)
    limit.observe(0.1, 100, False, 3.0)
    assert limit.limit == pytest.approx(81, abs=2)


def test_a_request_of_a_client_that_left_is_no_sample() -> None:
    limit = AdaptiveLimit()
    for _ in range(100):
        limit.observe(0.0, 20, None, 1.0)
    assert limit.limit == 20
    assert limit.base == float("inf")


def test_the_limit_stays_within_its_bounds() -> None:
    limit = AdaptiveLimit(4, least=2, most=8)
    drive(limit, lambda now: 10_000, 10.0)
    assert limit.limit == 8
    for number in range(200):
        limit.observe(0.1, 8, False, 10.0 + number)
        for _ in range(10):
            limit.observe(5.0, 8, True, 10.5 + number)
        assert limit.limit >= 2
    assert limit.limit <= 4


@pytest.mark.parametrize(
    "wrong", [{"initial": 0}, {"least": 0}, {"initial": 2000}, {"tolerance": 0.5}, {"every": 0}, {"least": 30}]
)
def test_wrong_settings(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="adaptive limit"):
        AdaptiveLimit(**wrong)


def test_no_request_overtakes_after_the_limit_was_raised() -> None:
    queue = AdmissionQueue(1, 2)
    assert [queue.enter(), queue.enter()] == [Admission.RUN, Admission.WAIT]
    queue.limit = 3
    assert queue.enter() is Admission.WAIT
    assert [queue.promote(), queue.promote(), queue.promote()] == [True, True, False]
