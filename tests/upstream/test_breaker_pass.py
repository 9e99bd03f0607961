"""The permission of a circuit breaker for one request."""

from __future__ import annotations

from time import perf_counter

import pytest

from passerelle.resilience.circuit_breaker import BreakerSettings, BreakerState, CircuitBreaker
from passerelle.upstream.breaker_pass import BreakerPass

SETTINGS = BreakerSettings(minimum=2, open_for=5.0, probes=1)


def entered(breaker: CircuitBreaker, now: float | None = None) -> BreakerPass:
    """A pass that the breaker has granted."""
    breaker_pass = BreakerPass(breaker)
    assert breaker_pass.enter(perf_counter() if now is None else now)
    return breaker_pass


def opened() -> CircuitBreaker:
    """A breaker that two failures have opened."""
    breaker = CircuitBreaker(SETTINGS)
    for _ in range(2):
        entered(breaker).leave(False)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_an_open_breaker_refuses_and_names_the_time_left() -> None:
    refused = BreakerPass(opened())
    now = perf_counter()
    assert not refused.enter(now)
    assert 1 <= refused.retry_after(now) <= 5
    assert refused.retry_after(now + 60) == 1


def test_a_refused_request_reports_nothing() -> None:
    breaker = opened()
    refused = BreakerPass(breaker)
    assert not refused.enter(perf_counter())
    later = perf_counter() + 6
    refused.leave(True)  # would close a half-open breaker of one probe
    probe = entered(breaker, later)
    refused.leave(True)
    assert breaker.state is BreakerState.HALF_OPEN
    probe.leave(True)
    assert breaker.state is BreakerState.CLOSED


def test_the_outcome_is_reported_once() -> None:
    breaker = CircuitBreaker(SETTINGS)
    once = entered(breaker)
    once.leave(False)
    once.leave(False)
    assert breaker.state is BreakerState.CLOSED
    entered(breaker).leave(False)
    assert breaker.state is BreakerState.OPEN


@pytest.mark.parametrize(("ok", "state"), [(True, BreakerState.CLOSED), (False, BreakerState.OPEN)])
def test_a_probe_decides(ok: bool, state: BreakerState) -> None:
    breaker = opened()
    entered(breaker, perf_counter() + 6).leave(ok)
    assert breaker.state is state


def test_a_neutral_outcome_gives_the_place_of_a_probe_back() -> None:
    breaker = opened()
    later = perf_counter() + 6
    probe = entered(breaker, later)
    assert not BreakerPass(breaker).enter(later)
    probe.leave(None)
    assert breaker.state is BreakerState.HALF_OPEN
    assert BreakerPass(breaker).enter(later)
