"""Rollouts over simulated traffic: healthy ones end at 100 %, bad ones are rolled back, too few data wait."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from math import exp, log
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.crossing.evidence import Counts, FirstPerUser, SlowThreshold, is_worse, log_evidence, wilson
from passerelle.crossing.rollout import (
    ENDED,
    Plan,
    Sample,
    ShadowStep,
    State,
    Status,
    Step,
    abort,
    advance,
    pause,
    resume,
    share,
    skip,
    start,
)

MINUTE = 60.0
PLAN = Plan(tuple(Step(per_mille, 10 * MINUTE, 50) for per_mille in (10, 50, 250, 500, 1000)))
CANARY = Plan((Step(50, 1e9, 50), Step(1000, 0.0, 0)))  # stays at 5 %


def poisson(source: random.Random, mean: float) -> int:
    """Draw from a Poisson distribution (Knuth's method)."""
    limit, number, product = exp(-mean), 0, source.random()
    while product > limit:
        number += 1
        product *= source.random()
    return number


@dataclass
class World:
    """Traffic of ``rate`` requests a minute; each side has a share of failed and of slow requests."""

    seed: int
    rate: float = 600.0
    old_fails: float = 0.005
    new_fails: float = 0.005
    old_slow: float = 0.1
    new_slow: float = 0.1

    def run(self, plan: Plan, minutes: int = 240) -> tuple[State, int]:
        """Roll out; look each minute. Return the last state, and after how many minutes it was reached."""
        source = random.Random(self.seed)
        state = start(plan, 0.0)
        sample = Sample(0.0)
        for minute in range(1, minutes + 1):
            of_new = self.rate * share(plan, state) / 1000
            of_old = self.rate - of_new
            sample = Sample(
                minute * MINUTE,
                sample.old_requests + poisson(source, of_old) if of_old else sample.old_requests,
                sample.new_requests + poisson(source, of_new),
                Counts(
                    sample.failed.old + poisson(source, of_old * self.old_fails),
                    sample.failed.new + poisson(source, of_new * self.new_fails),
                ),
                Counts(
                    sample.slow.old + poisson(source, of_old * self.old_slow),
                    sample.slow.new + poisson(source, of_new * self.new_slow),
                ),
            )
            after = advance(plan, state, sample)
            if after.step != state.step:
                sample = Sample(sample.now)  # another share: the counts begin again
            state = after
            if state.status in ENDED:
                return state, minute
        return state, minutes


def test_of_a_thousand_rollouts_of_two_equal_sides_at_most_five_percent_are_stopped() -> None:
    ended = [World(seed, rate=120.0).run(PLAN)[0].status for seed in range(1000)]
    assert set(ended) <= {Status.DONE, Status.ROLLED_BACK}
    assert ended.count(Status.ROLLED_BACK) <= 50


def test_rollouts_without_a_defect_end_at_all_users() -> None:
    plan = replace(PLAN, alpha=0.001)
    assert [World(seed).run(plan)[0].status for seed in range(20)] == [Status.DONE] * 20


def test_ten_times_the_failures_are_found_at_three_requests_a_minute() -> None:
    """5 % of 60 requests a minute: the case in which thresholds and tests of means are wrong."""
    runs = [World(seed, rate=60.0, new_fails=0.05).run(CANARY) for seed in range(150)]
    assert {state.status for state, _ in runs} == {Status.ROLLED_BACK}
    assert {state.reason for state, _ in runs} <= {"more requests fail", "more requests are slow"}
    assert median(minutes for _, minutes in runs) <= 30


def test_three_times_the_latency_is_found() -> None:
    """With three times the latency, nearly all requests of the new side exceed one and a half medians of the old."""
    runs = [World(seed, new_slow=0.9).run(PLAN) for seed in range(50)]
    assert {(state.status, state.step, state.reason) for state, _ in runs} == {
        (Status.ROLLED_BACK, 0, "more requests are slow")
    }
    assert max(minutes for _, minutes in runs) <= 5


def test_a_rollback_has_its_evidence() -> None:
    sample = Sample(5.0, 900, 100, Counts(2, 10))
    state = advance(PLAN, start(PLAN, 0.0), sample)
    assert state.status is Status.ROLLED_BACK
    assert state.reason == "more requests fail"
    assert share(PLAN, state) == 0
    assert state.evidence["old"] == {"requests": 900, "events": 2}
    assert state.evidence["new"] == {"requests": 100, "events": 10}
    assert state.evidence["share"] == 0.1
    assert state.evidence["log_evidence"] > log(1 / 0.005)


def test_too_few_requests_wait() -> None:
    state = start(PLAN, 0.0)
    assert advance(PLAN, state, Sample(1e6, 5000, 49)) == state
    assert advance(PLAN, state, Sample(599.0, 5000, 500)) == state
    assert advance(PLAN, state, Sample(600.0, 5000, 50)).step == 1
    assert advance(PLAN, state, Sample(1e6)) == state


def test_a_few_requests_that_all_fail_end_the_rollout() -> None:
    """At half of the traffic, five failures alone are no strong evidence of the test; the absolute bound ends it."""
    plan = Plan((Step(500, 60.0, 50), Step(1000, 60.0, 50)))
    assert not is_worse(Counts(0, 5), 0.5, plan.alpha / 4)
    state = advance(plan, start(plan, 0.0), Sample(1.0, 5, 5, Counts(0, 5), failures=Counts(0, 5)))
    assert (state.status, state.reason) == (Status.ROLLED_BACK, "most requests fail")
    assert state.evidence["new"] == {"requests": 5, "events": 5}
    few = Sample(1.0, 5, 4, Counts(0, 4), failures=Counts(0, 4))
    assert advance(plan, start(plan, 0.0), few).status is Status.RUNNING


def test_one_user_who_retries_does_not_end_the_rollout_at_once() -> None:
    """In the second minute, the failures of one user end it: there may be no other."""
    plan = Plan((Step(500, 60.0, 50), Step(1000, 60.0, 50)))
    first = Sample(1.0, 20, 20, Counts(0, 1), failures=Counts(0, 15))
    assert advance(plan, start(plan, 0.0), first).status is Status.RUNNING
    second = replace(first, now=61.0, failed=Counts(0, 2))
    assert advance(plan, start(plan, 0.0), second).reason == "most requests fail"


def test_an_outage_of_both_sides_is_not_the_new_ones_fault() -> None:
    plan = Plan((Step(500, 60.0, 50), Step(1000, 60.0, 50)))
    assert (
        advance(plan, start(plan, 0.0), Sample(1.0, 40, 40, Counts(9, 9), failures=Counts(40, 40))).status
        is Status.RUNNING
    )


# ---- shadow


def test_the_shadow_step_ends_with_enough_equal_responses() -> None:
    plan = Plan(PLAN.steps, ShadowStep(1000, 0.001))
    state = start(plan, 0.0)
    assert (state.status, share(plan, state)) == (Status.SHADOW, 0)
    assert advance(plan, state, Sample(1.0, comparisons=999)) == state
    assert advance(plan, state, Sample(1.0, comparisons=1000)) == state, "1,000 equal ones do not show 0.1 % at 95 %"
    after = advance(plan, state, Sample(1.0, comparisons=4000))
    assert (after.status, after.step, share(plan, after)) == (Status.RUNNING, 0, 10)


def test_the_shadow_step_ends_the_rollout_when_responses_differ() -> None:
    plan = Plan(PLAN.steps, ShadowStep(1000, 0.001))
    state = advance(plan, start(plan, 0.0), Sample(1.0, comparisons=1000, differences=20))
    assert (state.status, state.reason, share(plan, state)) == (Status.ROLLED_BACK, "the responses differ", 0)
    assert state.evidence["differences"] == 20


# ---- what operators do


def test_a_pause_keeps_the_share_and_still_rolls_back() -> None:
    state = pause(start(PLAN, 0.0))
    assert share(PLAN, state) == 10
    assert advance(PLAN, state, Sample(1e6, 5000, 500)) == state
    assert advance(PLAN, state, Sample(1e6, 900, 100, Counts(2, 10))).status is Status.ROLLED_BACK
    resumed = resume(state, 100.0)
    assert (resumed.status, resumed.step, resumed.since) == (Status.RUNNING, 0, 100.0)
    assert resume(start(PLAN, 0.0), 5.0) == start(PLAN, 0.0)


def test_steps_can_be_skipped_to_the_end() -> None:
    state = start(Plan(PLAN.steps, ShadowStep()), 0.0)
    shares = []
    while state.status not in ENDED:
        state = skip(PLAN, state, 1.0)
        shares.append(share(PLAN, state))
    assert shares == [10, 50, 250, 500, 1000, 1000]
    assert skip(PLAN, state, 2.0) == state


def test_an_abort_returns_all_users() -> None:
    state = abort(skip(PLAN, start(PLAN, 0.0), 1.0), 2.0)
    assert (state.status, share(PLAN, state)) == (Status.ABORTED, 0)
    assert advance(PLAN, state, Sample(1e6, 5000, 500)) == state
    assert pause(state) == state == abort(state, 3.0)


SAMPLES = st.builds(
    Sample,
    st.floats(0, 1e6),
    st.integers(0, 5000),
    st.integers(0, 5000),
    st.builds(Counts, st.integers(0, 100), st.integers(0, 100)),
    st.builds(Counts, st.integers(0, 100), st.integers(0, 100)),
    st.integers(0, 5000),
    st.integers(0, 50),
)


@given(st.lists(SAMPLES | st.sampled_from(["pause", "resume", "skip", "abort"]), max_size=12))
def test_no_share_is_applied_that_the_plan_does_not_have(events: list[Sample | str]) -> None:
    """Whatever happens: the share grows along the plan, or the rollout ends with none."""
    plan = Plan(PLAN.steps, ShadowStep())
    planned = [0, *(step.per_mille for step in plan.steps)]
    state = start(plan, 0.0)
    for event in events:
        before = share(plan, state)
        if isinstance(event, Sample):
            after = advance(plan, state, event)
        else:
            after = {
                "pause": pause(state),
                "resume": resume(state, 1.0),
                "skip": skip(plan, state, 1.0),
                "abort": abort(state, 1.0),
            }[event]
        now = share(plan, after)
        assert now in planned
        if after.status in (Status.ROLLED_BACK, Status.ABORTED):
            assert now == 0
        else:
            assert now == before or planned.index(now) == planned.index(before) + 1
        assert State.from_json(after.to_json()) == after
        state = after


# ---- evidence


def test_evidence_without_events_or_without_one_side_is_none() -> None:
    assert log_evidence(Counts(), 0.1) == pytest.approx(0.0)
    assert log_evidence(Counts(5, 5), 0.0) == log_evidence(Counts(5, 5), 1.0) == 0.0


def test_the_evidence_is_a_martingale_if_the_new_side_is_not_worse() -> None:
    """Its expectation over the next event is its value: that is what makes looking often harmless."""
    for old, new, theta in ((0, 0, 0.05), (3, 1, 0.05), (10, 12, 0.5), (2, 30, 0.9)):
        now = exp(log_evidence(Counts(old, new), theta))
        following = theta * exp(log_evidence(Counts(old, new + 1), theta))
        following += (1 - theta) * exp(log_evidence(Counts(old + 1, new), theta))
        assert following == pytest.approx(now, rel=1e-9)


def test_many_events_do_not_overflow() -> None:
    assert log_evidence(Counts(0, 10**6), 0.01) > 1e5
    assert log_evidence(Counts(10**6, 0), 0.01) < -100


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)],
)
def test_the_interval_of_a_rate(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson(hits, trials) == pytest.approx((low, high), abs=1e-4)


def test_one_event_of_a_user_counts_in_a_minute() -> None:
    first = FirstPerUser(most=2)
    assert [first.is_first(user, now) for user, now in ((b"a", 0), (b"a", 59), (b"b", 1), (b"c", 2), (b"a", 60))] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_a_client_that_invents_users_counts_a_limited_number_of_times() -> None:
    first = FirstPerUser(per_address=3)
    users = [b"user-%d" % number for number in range(5)]
    assert [first.is_first(user, 0, b"192.0.2.1") for user in users] == [True, True, True, False, False]
    assert first.is_first(users[3], 0, b"192.0.2.2")
    assert all(first.is_first(b"unknown-%d" % number, 0) for number in range(5))
    assert first.is_first(users[4], 60, b"192.0.2.1")


def test_a_request_is_slow_by_the_median_of_the_old_side() -> None:
    threshold = SlowThreshold(factor=1.5, sample=3)
    assert not threshold.is_slow(100.0, of_old=False)
    assert not any(threshold.is_slow(seconds, of_old=True) for seconds in (0.1, 0.3, 0.2))
    assert threshold.seconds == pytest.approx(0.3)
    assert threshold.is_slow(0.31, of_old=False)
    assert not threshold.is_slow(0.29, of_old=True)
