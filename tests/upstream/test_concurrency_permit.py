"""The place of one request under the concurrency limit of a service, and the queue for such places."""

from __future__ import annotations

import pytest

from passerelle.resilience.adaptive_limit import AdaptiveLimit
from passerelle.resilience.admission import Admission
from passerelle.upstream.concurrency_limiter import ConcurrencyLimiter
from passerelle.upstream.concurrency_permit import ConcurrencyPermit


class Samples(AdaptiveLimit):
    """A limit that also records what it observes."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, least=1)
        self.seen: list[tuple[bool | None, int]] = []

    def observe(self, seconds: float, in_flight: int, ok: bool | None, now: float) -> None:
        assert seconds >= 0
        self.seen.append((ok, in_flight))
        super().observe(seconds, in_flight, ok, now)


class Request:
    """A request that notes when it is admitted, and may end at once then."""

    def __init__(self, limiter: ConcurrencyLimiter, order: list[Request], *, ends_at_once: bool = False) -> None:
        self.permit = ConcurrencyPermit(limiter)
        self._order = order
        self._ends_at_once = ends_at_once

    def acquire(self) -> Admission:
        return self.permit.acquire(self)

    def client_key(self) -> bytes | None:
        return b"192.0.2.1"

    def on_displaced(self) -> None:
        raise AssertionError("all requests are of one client")

    def on_admitted(self) -> None:
        self.permit.admit()
        self._order.append(self)
        if self._ends_at_once:
            self.permit.release(True, 1)


def places(limit: int, max_waiting: int) -> tuple[ConcurrencyLimiter, Samples]:
    samples = Samples(limit)
    return ConcurrencyLimiter(samples, max_waiting), samples


def counts(limiter: ConcurrencyLimiter) -> tuple[int, int]:
    """The numbers of running and waiting requests."""
    now = limiter.snapshot()
    return now["running"], now["waiting"]


def test_requests_run_wait_and_are_refused() -> None:
    limiter, _ = places(1, 1)
    order: list[Request] = []
    first, second, third = (Request(limiter, order) for _ in range(3))
    assert [each.acquire() for each in (first, second, third)] == [Admission.RUN, Admission.WAIT, Admission.REFUSE]
    assert [each.permit.queued for each in (first, second, third)] == [False, True, False]
    assert third.permit.retry_after(2.0) == 4
    first.permit.release(True, 1)
    assert order == [second]
    assert not second.permit.queued
    third.permit.release(True, 1)  # it never had a place
    assert counts(limiter) == (1, 0)


def test_a_place_is_released_once() -> None:
    limiter, samples = places(2, 0)
    request = Request(limiter, [])
    request.acquire()
    request.permit.release(True, 1)
    request.permit.release(False, 1)
    assert samples.seen == [(True, 1)]
    assert counts(limiter) == (0, 0)


@pytest.mark.parametrize(
    ("ok", "attempts", "observed"),
    [(True, 1, True), (True, 2, None), (False, 1, False), (False, 2, False), (None, 1, None)],
)
def test_the_duration_of_several_attempts_is_no_sample(ok: bool | None, attempts: int, observed: bool | None) -> None:
    limiter, samples = places(2, 0)
    request = Request(limiter, [])
    request.acquire()
    request.permit.release(ok, attempts)
    assert samples.seen == [(observed, 1)]


def test_a_queued_request_can_leave() -> None:
    limiter, samples = places(1, 2)
    order: list[Request] = []
    first, second, third = (Request(limiter, order) for _ in range(3))
    for each in (first, second, third):
        each.acquire()
    second.permit.dequeue(second)
    assert not second.permit.queued
    assert counts(limiter) == (1, 1)
    first.permit.release(True, 1)
    assert order == [third]
    assert samples.seen == [(True, 1)]


def test_a_request_that_ends_when_it_is_admitted_makes_room_for_the_next_one() -> None:
    limiter, _ = places(1, 50)
    order: list[Request] = []
    running = Request(limiter, order)
    running.acquire()
    waiting = [Request(limiter, order, ends_at_once=True) for _ in range(50)]
    for each in waiting:
        assert each.acquire() is Admission.WAIT
    running.permit.release(True, 1)
    assert order == waiting
    assert counts(limiter) == (0, 0)


def test_a_request_can_leave_between_its_admission_and_the_notification() -> None:
    """A request that is notified first ends the second one, which has a place already."""
    limiter, _ = places(2, 3)
    order: list[Request] = []
    running = [Request(limiter, order) for _ in range(2)]
    for each in running:
        each.acquire()
    victim, last = Request(limiter, order), Request(limiter, order)

    class Ender(Request):
        def on_admitted(self) -> None:
            super().on_admitted()
            running[1].permit.release(True, 1)  # admits the victim, which is notified after this call
            victim.permit.dequeue(victim)

    ender = Ender(limiter, order)
    for each in (ender, victim, last):
        assert each.acquire() is Admission.WAIT
    running[0].permit.release(True, 1)
    assert order == [ender, last]
    assert counts(limiter) == (2, 0)
