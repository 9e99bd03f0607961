"""The states of the circuit breaker, and requests that end in another period than they started in."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from passerelle.resilience.circuit_breaker import BreakerSettings, BreakerState, CircuitBreaker
from passerelle.resilience.sliding_window import SlidingWindow


def send(breaker: CircuitBreaker, now: float, *outcomes: bool | None) -> None:
    for ok in outcomes:
        ticket = breaker.acquire(now)
        assert ticket is not None
        breaker.release(ticket, ok, now)


def opened(now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    send(breaker, now, *[False] * 20)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_the_breaker_opens_at_half_of_at_least_twenty() -> None:
    breaker = CircuitBreaker()
    send(breaker, 0.0, *[False] * 19)
    assert breaker.state is BreakerState.CLOSED
    send(breaker, 0.0, False)
    assert breaker.state is BreakerState.OPEN
    breaker = CircuitBreaker()
    send(breaker, 0.0, *[True] * 30, *[False] * 29)
    assert breaker.state is BreakerState.CLOSED
    send(breaker, 0.0, False)
    assert breaker.state is BreakerState.OPEN


def test_old_failures_do_not_count() -> None:
    breaker = CircuitBreaker()
    for second in range(200):
        send(breaker, float(second), False)  # never 20 in 11 s
    assert breaker.state is BreakerState.CLOSED


def test_an_open_breaker_admits_nothing_for_its_time() -> None:
    breaker = opened()
    assert breaker.acquire(4.99) is None
    assert breaker.retry_after(1.0) == pytest.approx(4.0)
    assert breaker.acquire(5.0) is not None
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.retry_after(5.0) == 0.0


def test_a_half_open_breaker_admits_three_and_closes_when_they_succeed() -> None:
    breaker = opened()
    tickets = [breaker.acquire(5.0) for _ in range(4)]
    assert tickets[3] is None
    for ticket in tickets[:2]:
        assert ticket is not None
        breaker.release(ticket, True, 5.1)
    assert breaker.acquire(5.1) is None  # no more than three until the decision
    assert breaker.state is BreakerState.HALF_OPEN
    assert tickets[2] is not None
    breaker.release(tickets[2], True, 5.2)
    assert breaker.state is BreakerState.CLOSED
    send(breaker, 5.3, *[False] * 19)
    assert breaker.state is BreakerState.CLOSED  # the window is empty again


def test_a_failed_probe_opens_the_breaker_for_longer_each_time() -> None:
    breaker = opened()
    now = 0.0
    for length in (5, 10, 20, 40, 60, 60):
        assert breaker.retry_after(now) == pytest.approx(length)
        now += length
        send(breaker, now, False)
        assert breaker.state is BreakerState.OPEN
    now += 60
    send(breaker, now, True, True, True)
    send(breaker, now, *[False] * 20)
    assert breaker.retry_after(now) == pytest.approx(5)


def test_a_client_that_leaves_frees_the_place_of_its_probe() -> None:
    breaker = opened()
    tickets = [breaker.acquire(5.0) for _ in range(3)]
    assert tickets[0] is not None
    breaker.release(tickets[0], None, 5.1)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.acquire(5.1) is not None
    assert breaker.acquire(5.1) is None


def test_requests_from_another_period_do_not_count() -> None:
    breaker = CircuitBreaker()
    slow = [breaker.acquire(0.0) for _ in range(40)]
    send(breaker, 1.0, *[False] * 20)
    for ticket in slow[:20]:
        assert ticket is not None
        breaker.release(ticket, True, 2.0)
    assert breaker.state is BreakerState.OPEN
    probe = breaker.acquire(6.0)
    for ticket in slow[20:]:
        assert ticket is not None
        breaker.release(ticket, False, 6.5)
    assert breaker.state is BreakerState.HALF_OPEN
    assert probe is not None
    breaker.release(probe, True, 7.0)
    send(breaker, 7.0, True, True)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize(
    "settings_",
    [{"threshold": 0.0}, {"threshold": 1.1}, {"minimum": 0}, {"probes": 0}, {"open_for": 0.0}, {"open_for": 61.0}],
)
def test_settings_out_of_range(settings_: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a circuit breaker"):
        BreakerSettings(**settings_)  # type: ignore[arg-type]


class Random(RuleBasedStateMachine):
    """No sequence of events blocks the breaker, and a half-open one never admits more than its probes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = CircuitBreaker(BreakerSettings(minimum=3, probes=2))
        self.open: list[tuple[int, BreakerState]] = []

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def acquire(self) -> None:
        before = self.breaker.state
        ticket = self.breaker.acquire(self.now)
        if ticket is not None:
            self.open.append((ticket, self.breaker.state))
        else:
            assert before is not BreakerState.CLOSED

    @precondition(lambda self: self.open)
    @rule(data=st.data(), ok=st.sampled_from([True, False, None]))
    def release(self, data: st.DataObject, ok: bool | None) -> None:
        ticket, _ = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.breaker.release(ticket, ok, self.now)

    @invariant()
    def probes_are_bounded(self) -> None:
        if self.breaker.state is BreakerState.HALF_OPEN:
            newest = max(ticket for ticket, _ in self.open) if self.open else None
            probes = [ticket for ticket, state in self.open if state is BreakerState.HALF_OPEN and ticket == newest]
            assert len(probes) <= 2

    def teardown(self) -> None:
        """After all requests have ended, successes always close the breaker again."""
        for ticket, _ in self.open:
            self.breaker.release(ticket, None, self.now)
        self.now += 60
        for _ in range(2):
            send(self.breaker, self.now, True)
        assert self.breaker.state is BreakerState.CLOSED


Random.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
TestRandom = Random.TestCase


def test_window_is_a_sum_over_the_last_seconds() -> None:
    window = SlidingWindow(10.0, 10)
    for second in range(30):
        window.add(second + 0.5, 1, second)
        # the bucket being filled and ten complete ones
        last = range(max(0, second - 10), second + 1)
        assert (window.first, window.second) == (len(last), sum(last))
    window.advance(35.0)
    assert window.first == 5
    window.advance(1e9)
    assert (window.first, window.second) == (0, 0)


def test_window_survives_a_clock_that_goes_back() -> None:
    window = SlidingWindow(10.0)
    window.add(100.0, 5)
    window.add(50.0, 5)
    assert window.first == 10
    window.advance(112.0)
    assert window.first == 0


@pytest.mark.parametrize(("seconds", "parts"), [(0.0, 10), (-1.0, 10), (1.0, 0)])
def test_window_needs_a_length(seconds: float, parts: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        SlidingWindow(seconds, parts)
