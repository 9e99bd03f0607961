"""The time limit of one attempt."""

from __future__ import annotations

import gc
import weakref
from time import perf_counter

from passerelle.upstream.attempt_timer import AttemptTimer
from passerelle.upstream.deadlines import DeadlineQueue

LIMIT = 5.0


class Attempt:
    """A request that counts how often the time of its attempt has expired."""

    def __init__(self) -> None:
        self.expired = 0

    def on_attempt_deadline(self) -> None:
        self.expired += 1


def test_the_request_is_notified_once() -> None:
    deadlines, attempt = DeadlineQueue(LIMIT), Attempt()
    timer = AttemptTimer(deadlines)
    timer.arm(attempt)
    deadlines.expire(perf_counter() + LIMIT - 1)
    assert (attempt.expired, timer.request) == (0, attempt)
    deadlines.expire(perf_counter() + LIMIT + 1)
    assert (attempt.expired, timer.request) == (1, None)
    deadlines.expire(perf_counter() + 10 * LIMIT)
    assert attempt.expired == 1


def test_a_disarmed_timer_does_not_expire() -> None:
    deadlines, attempt = DeadlineQueue(LIMIT), Attempt()
    timer = AttemptTimer(deadlines)
    timer.disarm()
    timer.arm(attempt)
    timer.disarm()
    timer.disarm()
    deadlines.expire(perf_counter() + LIMIT + 1)
    assert (attempt.expired, timer.request, len(deadlines)) == (0, None, 0)


def test_a_restarted_timer_has_all_of_its_time() -> None:
    deadlines, attempt = DeadlineQueue(LIMIT), Attempt()
    timer, other = AttemptTimer(deadlines), AttemptTimer(deadlines)
    timer.arm(attempt)
    other.arm(attempt)
    deadlines.entries[timer] = perf_counter() - LIMIT  # as if the time had passed
    timer.arm(attempt)
    assert list(deadlines.entries) == [other, timer]
    deadlines.expire(perf_counter() + LIMIT - 1)
    assert attempt.expired == 0


def test_the_notified_request_may_arm_the_timer_again() -> None:
    deadlines = DeadlineQueue(LIMIT)
    timer = AttemptTimer(deadlines)

    class Again(Attempt):
        def on_attempt_deadline(self) -> None:
            super().on_attempt_deadline()
            timer.arm(self)

    attempt = Again()
    timer.arm(attempt)
    for count in (1, 2):
        deadlines.entries[timer] = perf_counter() - LIMIT  # as if the time had passed
        deadlines.expire(perf_counter())
        assert (attempt.expired, timer.request) == (count, attempt)


def test_the_request_itself_may_be_in_the_same_queue() -> None:
    """Its own deadline and that of its attempt are two entries."""

    class Request(Attempt):
        def on_deadline(self) -> None:
            raise AssertionError("the time of the request has not expired")

    deadlines, request = DeadlineQueue(LIMIT), Request()
    timer = AttemptTimer(deadlines)
    assert timer.limit == LIMIT
    deadlines.add(request, perf_counter() + LIMIT)
    timer.arm(request)
    deadlines.expire(perf_counter() + LIMIT)
    assert request.expired == 1
    assert list(deadlines.entries) == [request]


def test_a_stopped_timer_does_not_keep_its_request_alive() -> None:
    deadlines, attempt = DeadlineQueue(LIMIT), Attempt()
    timer = AttemptTimer(deadlines)
    alive = weakref.ref(attempt)
    timer.arm(attempt)
    timer.disarm()
    gc.disable()
    try:
        del attempt
        assert alive() is None
    finally:
        gc.enable()
