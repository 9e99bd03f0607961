"""The adaptive limit in front of a queue: requests that come at random, and work that is of any length."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passerelle.balancing.adaptive import AdaptiveLimit

MEAN = 0.05  # seconds of work a request
Work = Callable[[random.Random], float]
WORK: dict[str, Work] = {
    "alike": lambda chance: MEAN * chance.uniform(0.9, 1.1),
    "exponential": lambda chance: chance.expovariate(1 / MEAN),
    "a long tail": lambda chance: MEAN * chance.lognormvariate(-1.125, 1.5),
    "two routes": lambda chance: MEAN * (5 if chance.random() < 0.1 else 5 / 9),
}


class Run(NamedTuple):
    served: float  # part of what the service could do at most
    refused: float  # part of those that came
    limits: list[int]  # after a third of the time
    median: float  # of the latency of those served, in seconds


def run(limit: AdaptiveLimit, workers: int, work: Work, load: float, *, waiting: int = 256, until: float = 40.0) -> Run:
    """A service of ``workers`` that work on one request each; requests come at ``load`` times what it can do."""
    chance = random.Random(7)
    rate = load * workers / MEAN
    events: list[tuple[float, int, float]] = [(0.0, 0, -1.0)]  # when, number, since when it runs (negative: it comes)
    free = [0.0] * workers  # when each worker is free again
    queue: deque[float] = deque()
    running = served = came = refused = number = 0
    limits, latencies = [], []
    while True:
        now, _, since = heapq.heappop(events)
        if now > until:
            break
        number += 1
        if since < 0:
            came += 1
            heapq.heappush(events, (now + chance.expovariate(rate), number, -1.0))
            if len(queue) < waiting:
                queue.append(now)
            else:
                refused += 1
        else:
            limit.observe(now - since, running, True, now)
            running -= 1
            served += 1
            latencies.append(now - since)
        while queue and running < limit.limit:
            queue.popleft()
            running += 1
            done = max(heapq.heappop(free), now) + work(chance)
            heapq.heappush(free, done)
            number += 1
            heapq.heappush(events, (done, number, now))
        if now > until / 3:
            limits.append(limit.limit)
    return Run(served * MEAN / workers / until, refused / came, limits, sorted(latencies)[len(latencies) // 2])


@pytest.mark.parametrize("workers", [4, 40])
@pytest.mark.parametrize("kind", WORK)
def test_under_three_times_the_load_the_service_keeps_busy_and_its_queue_short(kind: str, workers: int) -> None:
    """All but 8 % of what it can do, from the start on. Unlimited, its queue would grow as long as this lasts."""
    seen = run(AdaptiveLimit(), workers, WORK[kind], 3.0)
    assert seen.served >= 0.92
    assert max(seen.limits) <= 3 * workers + 10
    assert seen.median <= 3 * MEAN
    assert seen.refused == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.parametrize("workers", [4, 40])
@pytest.mark.parametrize("kind", WORK)
def test_where_there_is_room_next_to_nothing_is_refused(kind: str, workers: int) -> None:
    """Half the load: work that takes long by nature is not mistaken for a queue."""
    seen = run(AdaptiveLimit(), workers, WORK[kind], 0.5)
    assert seen.refused <= 0.02
    assert min(seen.limits) >= workers / 4


class Heard(NamedTuple):
    seconds: float
    in_flight: int
    ok: bool | None
    after: float


heard = st.builds(
    Heard,
    st.floats(0.0, 100.0),
    st.integers(1, 2000),
    st.sampled_from([True, True, True, False, None]),
    st.floats(0.0, 2.0),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(heard, min_size=50, max_size=400), st.integers(1, 20), st.integers(20, 400), st.integers(1, 30))
def test_whatever_it_hears_it_stays_within_its_bounds(events: list[Heard], least: int, most: int, every: int) -> None:
    limit = AdaptiveLimit(20, least=least, most=most, every=every)
    now = 0.0
    for event in events:
        now += event.after
        limit.observe(event.seconds, event.in_flight, event.ok, now)
        assert least <= limit.limit <= most
        assert limit.base >= 0.0


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_what_is_not_used_is_not_changed_by_latency(seed: int) -> None:
    """Half of the limit is free: however slow requests are, it is not because of how many there are."""
    limit = AdaptiveLimit(20)
    chance = random.Random(seed)
    for number in range(500):
        limit.observe(chance.lognormvariate(-3, 2), 9, True, number * 0.05)
        assert limit.limit in (20, 5)  # it was not quartered twice, and is as before after that
    assert limit.limit == 20
