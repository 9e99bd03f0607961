"""Peak EWMA: the order is that of a direct implementation of the formula, without updates over time."""

import random
from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passerelle.balancing.instance import Instance, acquire, release, set_weight
from passerelle.balancing.peak_ewma import PeakEwma
from passerelle.balancing.policies import PowerOfTwo


class Plain:
    """The textbook form, in which the cost decays when it is read."""

    def __init__(self) -> None:
        self.cost = self.at = 0.0

    def observe(self, sample: float, now: float, decay: float) -> None:
        kept = exp((self.at - now) / decay)
        self.cost = sample if sample >= self.cost else self.cost * kept + sample * (1 - kept)
        self.at = now

    def read(self, now: float, decay: float, instance: Instance) -> float:
        return self.cost * exp((self.at - now) / decay) * (instance.in_flight + 1) / instance.weight


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.floats(0.001, 10), st.floats(0, 5), st.sampled_from([True, True, False])),
        max_size=60,
    )
)
def test_the_order_is_that_of_the_formula(steps: list[tuple[int, float, float, bool]]) -> None:
    now, decay = 1000.0, 10.0
    metric = PeakEwma(lambda: now, decay=decay, failure_cost=2.0)
    node = PowerOfTwo([Instance(str(n), weight=1 + n % 2) for n in range(4)], metric=metric)
    plain = [Plain() for _ in node.members]
    for instance, model in zip(node.members, plain, strict=True):
        acquire(instance)
        release(instance, True, 0.1)
        model.observe(0.1, now, decay)
    for number, seconds, pause, ok in steps:
        acquire(node.members[number])
        if number != 3:  # requests at the last instance never end
            now += pause
            release(node.members[number], ok, seconds)
            plain[number].observe(seconds if ok else max(seconds, 2.0), now, decay)
        now += pause
        for a, first in zip(node.members, plain, strict=True):
            for b, second in zip(node.members, plain, strict=True):
                ours = a.load - b.load
                theirs = first.read(now, decay, a) / second.read(now, decay, b)
                assert exp(ours) == pytest.approx(theirs, rel=1e-6)


def test_unknown_instances_take_one_request_each_first() -> None:
    now = 0.0
    node = PowerOfTwo([Instance("old"), Instance("new")], metric=PeakEwma(lambda: now), random=random.Random(1).random)
    old, new = node.members
    acquire(old)
    release(old, True, 0.05)
    assert node.pick() is new
    acquire(new)
    assert node.pick() is old
    release(new, True, 0.01)
    assert node.pick() is new


def test_peaks_count_at_once_and_decay() -> None:
    now = 0.0
    metric = PeakEwma(lambda: now, decay=10.0)
    node = PowerOfTwo([Instance("a"), Instance("b")], metric=metric, random=random.Random(2).random)
    a, b = node.members
    for instance in (a, b):
        acquire(instance)
        release(instance, True, 0.1)
    acquire(a)
    release(a, True, 3.0)  # one slow response
    assert node.pick() is b
    # b stays at 0.1 s; a has decayed to that after decay * ln(3.0 / 0.1) = 34 s
    for _ in range(330):
        now += 0.1
        acquire(b)
        release(b, True, 0.1)
        assert node.pick() is b
    for _ in range(20):
        now += 0.1
        acquire(b)
        release(b, True, 0.1)
    assert node.pick() is a


def test_an_instance_that_fails_fast_is_not_preferred() -> None:
    node = PowerOfTwo([Instance("good"), Instance("bad")], metric=PeakEwma(lambda: 0.0), random=random.Random(3).random)
    good, bad = node.members
    for instance, ok, seconds in ((good, True, 0.1), (bad, False, 0.001)):
        acquire(instance)
        release(instance, ok, seconds)
    assert node.pick() is good


def test_a_request_of_a_client_that_left_is_no_sample() -> None:
    (instance,) = PowerOfTwo([Instance("a")], metric=PeakEwma(lambda: 0.0)).members
    acquire(instance)
    release(instance, True, 0.5)
    load = instance.load
    acquire(instance)
    release(instance, None, 0.001)
    assert instance.load == load


def test_weight_divides_the_cost() -> None:
    node = PowerOfTwo([Instance("a"), Instance("b")], metric=PeakEwma(lambda: 0.0))
    a, b = node.members
    for instance in (a, b):
        acquire(instance)
        release(instance, True, 0.1)
    set_weight(a, weight=4.0)
    for _ in range(3):
        acquire(a)
    assert exp(a.load) == pytest.approx(exp(b.load))
