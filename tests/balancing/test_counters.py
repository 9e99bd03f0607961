"""Counters equal the requests in flight, whatever happens to the members meanwhile."""

import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from passerelle.balancing.group import Child, Group
from passerelle.balancing.instance import (
    Instance,
    InstanceConfig,
    Roster,
    Status,
    acquire,
    release,
    set_status,
    set_weight,
)
from passerelle.balancing.peak_ewma import PeakEwma
from passerelle.balancing.policies import LeastLoaded, Policy, PowerOfTwo, RoundRobin, Weighted
from passerelle.balancing.ring_hash import BoundedHash

POLICIES = [RoundRobin, Weighted, LeastLoaded, PowerOfTwo, BoundedHash]
NAMES = [f"i{number}" for number in range(6)]


class Traffic(RuleBasedStateMachine):
    """Random requests over a random tree, while instances join, leave, return, fail and change their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.open: list[Instance] = []
        self.total: Counter[Instance] = Counter()
        self.failed: Counter[Instance] = Counter()
        self.listed: dict[str, InstanceConfig] = {}

    @initialize(
        first=st.sampled_from(POLICIES), second=st.sampled_from(POLICIES), ewma=st.booleans(), seed=st.integers(0, 1000)
    )
    def build(self, first: type[Policy], second: type[Policy], ewma: bool, seed: int) -> None:
        self.ewma = ewma
        chance = random.Random(seed).random
        metric = PeakEwma(lambda: self.now) if ewma else None
        self.zones = {zone: cls(metric=metric, random=chance) for zone, cls in (("a", first), ("b", second))}
        self.node = Group([Child(self.zones["a"], 3, 0, "a"), Child(self.zones["b"], 1, seed % 2, "b")], random=chance)
        self.roster = Roster()

    def relist(self) -> None:
        instances = self.roster.replace(self.listed.values())
        for zone, policy in self.zones.items():
            policy.replace(instance for instance in instances if instance.zone == zone)

    @rule(name=st.sampled_from(NAMES), zone=st.sampled_from("ab"), weight=st.sampled_from([0.5, 1.0, 3.0]))
    def add(self, name: str, zone: str, weight: float) -> None:
        self.listed[name] = InstanceConfig(name, f"10.0.0.{name}", weight, zone)
        self.relist()

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        self.listed.pop(name, None)
        self.relist()

    @rule(name=st.sampled_from(NAMES), status=st.sampled_from(Status))
    def turn(self, name: str, status: Status) -> None:
        for instance in self.roster.instances:
            if instance.name == name:
                set_status(instance, status)

    @rule(name=st.sampled_from(NAMES), share=st.sampled_from([0.1, 0.5, 1.0]))
    def start_slowly(self, name: str, share: float) -> None:
        for instance in self.roster.instances:
            if instance.name == name:
                set_weight(instance, share=share)

    @rule(number=st.integers(1, 6), key=st.none() | st.binary(max_size=4), tried=st.integers(0, 3))
    def send(self, number: int, key: bytes | None, tried: int) -> None:
        exclude = tuple(self.roster.instances[:tried])
        for _ in range(number):
            chosen = self.node.pick(exclude, key)
            able = [instance for instance in self.roster.instances if instance.up and instance not in exclude]
            if chosen is None:
                assert able == []
                return
            assert chosen in able
            self.node.acquire(chosen)
            self.open.append(chosen)
            self.total[chosen] += 1

    @precondition(lambda self: self.open)
    @rule(data=st.data(), ok=st.sampled_from([True, False, None]), seconds=st.floats(0, 100))
    def finish(self, data: st.DataObject, ok: bool | None, seconds: float) -> None:
        instance = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.now += seconds / 10
        self.node.release(instance, ok, seconds)
        if ok is False:
            self.failed[instance] += 1

    @rule()
    def forget(self) -> None:
        assert all(instance.in_flight == 0 for instance in self.roster.forget_idle())

    @invariant()
    def counters_are_true(self) -> None:
        really = Counter(self.open)
        for instance in {*self.total, *self.roster.instances, *self.roster.leaving}:
            assert instance.in_flight == really[instance]
            assert instance.total == self.total[instance]
            assert instance.failures == self.failed[instance]
            if not self.ewma and instance.owner is not None:
                assert instance.load == instance.in_flight * (1.0 / (instance.weight * instance.share))

    @invariant()
    def least_loaded_is_least(self) -> None:
        for policy in self.zones.values():
            chosen = policy.pick() if isinstance(policy, LeastLoaded) else None
            if chosen is not None:
                assert chosen.load == min(instance.load for instance in policy.members if instance.up)

    @invariant()
    def hashing_knows_the_total(self) -> None:
        for policy in self.zones.values():
            if isinstance(policy, BoundedHash):
                policy.pick()
                assert policy._in_flight == sum(instance.in_flight for instance in policy.members)

    @invariant()
    def status_is_the_best(self) -> None:
        best = max((instance.status for instance in self.roster.instances), default=Status.DOWN)
        assert self.node.status is best
        assert self.node.up == sum(instance.up for instance in self.roster.instances)


Traffic.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
TestTraffic = Traffic.TestCase


def test_release_without_acquire_is_refused() -> None:
    instance = Instance("a")
    acquire(instance)
    release(instance, True, 0.1)
    with pytest.raises(RuntimeError, match="more often than acquired"):
        release(instance, True, 0.1)
    assert instance.in_flight == 0


def test_an_instance_that_returns_keeps_its_count() -> None:
    roster = Roster()
    node = LeastLoaded()
    both = [InstanceConfig("u1", "h:1"), InstanceConfig("u2", "h:2")]
    node.replace(roster.replace(both))
    u2 = roster.instances[1]
    acquire(u2)
    acquire(u2)
    node.replace(roster.replace(both[:1]))
    assert roster.leaving == [u2]
    assert u2.status is Status.DRAINING
    release(u2, True, 0.1)  # a stream ends while its instance is removed
    assert roster.forget_idle() == []
    node.replace(roster.replace(both))
    assert roster.instances[1] is u2
    assert (u2.in_flight, u2.up, roster.leaving) == (1, True, [])
    assert node.pick() is roster.instances[0]
    release(u2, True, 0.1)
    assert {node.pick() for _ in range(2)} == set(roster.instances)


def test_a_new_instance_takes_the_next_requests_after_a_reload() -> None:
    """Ten requests are in flight on u1 and u2, then u3 joins without any: u3 gets the next requests."""
    roster = Roster()
    node = LeastLoaded(roster.replace([InstanceConfig("u1", "h:1"), InstanceConfig("u2", "h:2")]))
    for _ in range(10):
        chosen = node.pick()
        assert chosen is not None
        node.acquire(chosen)
    node.replace(
        roster.replace([InstanceConfig("u1", "h:1"), InstanceConfig("u2", "h:2"), InstanceConfig("u3", "h:3")])
    )
    names = []
    for _ in range(4):
        chosen = node.pick()
        assert chosen is not None
        node.acquire(chosen)
        names.append(chosen.name)
    assert names == ["u3"] * 4
    assert [instance.in_flight for instance in roster.instances] == [5, 5, 4]


def test_refused_connections_do_not_count() -> None:
    """u2 refuses connections during 20 requests; each failure is settled and retried at the other instance."""
    node = LeastLoaded([Instance("u1"), Instance("u2")])
    u1, u2 = node.members
    refused = 0
    for _ in range(20):
        first = node.pick()
        assert first is not None
        node.acquire(first)
        if first is u2:
            node.release(u2, False, 0.0)
            refused += 1
            second = node.pick((u2,))
            assert second is u1
            node.acquire(u1)
        node.release(u1, True, 0.01)
    assert (u1.in_flight, u2.in_flight) == (0, 0)
    assert u2.failures == u2.streak == refused >= 10
    assert u1.total == 20


def test_same_name_on_another_port_is_another_instance() -> None:
    roster = Roster(Status.DOWN)
    (old,) = roster.replace([InstanceConfig("user-1", "127.0.0.1:5001")])
    (new,) = roster.replace([InstanceConfig("user-1", "127.0.0.1:5002")])
    assert new is not old
    assert new.status is Status.DOWN
    assert roster.forget_idle() == [old]
    assert roster.forget_idle() == []


def test_an_instance_moves_to_a_new_node() -> None:
    members = [Instance(str(number)) for number in range(3)]
    old = BoundedHash(members)
    acquire(members[0])
    new = LeastLoaded(members)
    old.replace([])
    assert all(instance.owner is new for instance in members)
    picked = set()
    for _ in range(2):
        chosen = new.pick()
        assert chosen is not None
        acquire(chosen)
        picked.add(chosen)
    assert picked == set(members[1:])


def test_the_streak_counts_failures_in_a_row() -> None:
    instance = Instance("a")
    streaks = []
    for ok in (False, False, None, False, True, False):
        acquire(instance)
        release(instance, ok, 0.1)
        streaks.append(instance.streak)
    assert streaks == [1, 2, 2, 3, 0, 1]
    set_status(instance, Status.DOWN)
    set_status(instance, Status.UP)
    assert instance.streak == 0


@pytest.mark.parametrize("weight", [0, -1, float("inf"), float("nan")])
def test_weights_are_positive_and_finite(weight: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Instance("a", weight=weight)
    with pytest.raises(ValueError, match="positive"):
        set_weight(Instance("a"), weight=weight)
    with pytest.raises(ValueError):
        set_weight(Instance("a"), share=weight)
    with pytest.raises(ValueError, match="at most 1"):
        set_weight(Instance("a"), share=1.5)
    with pytest.raises(ValueError, match="positive"):
        Group([(PowerOfTwo(), weight)])
