"""The shares, order and cost of each policy. Random numbers are seeded; comments give the reasons for bounds."""

import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passerelle.balancing.edf_scheduler import EdfScheduler
from passerelle.balancing.instance import Instance, Status, acquire, release, set_status, set_weight
from passerelle.balancing.peak_ewma import PeakEwma
from passerelle.balancing.policies import LeastLoaded, Policy, PowerOfTwo, RoundRobin, Weighted
from passerelle.balancing.ring_hash import BoundedHash

ALL = [RoundRobin, Weighted, LeastLoaded, PowerOfTwo, BoundedHash]
PICKS = 30_000


def instances(number: int, weights: tuple[float, ...] = (1.0,)) -> list[Instance]:
    return [Instance(f"i{n}", f"h:{n}", weights[n % len(weights)]) for n in range(number)]


def shares(node: Policy, picks: int = PICKS) -> dict[str, float]:
    """Return the shares in ``picks`` requests, each of which ends before the next one begins."""
    counts: Counter[str] = Counter()
    for _ in range(picks):
        chosen = node.pick()
        assert chosen is not None
        acquire(chosen)
        counts[chosen.name] += 1
        release(chosen, True, 0.01)
    return {instance.name: counts[instance.name] / picks for instance in node.members}


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("number", [1, 2, 3, 10, 100])
def test_equal_instances_get_equal_shares_when_idle(cls: type[Policy], number: int) -> None:
    got = shares(cls(instances(number), random=random.Random(1).random))
    if cls is BoundedHash:
        # 40 points per instance: standard deviation 16 %, the maximum of 100 is below 4 of them
        assert all(share * number == pytest.approx(1, abs=0.65) for share in got.values())
    else:
        # picks are multinomial at worst: 5 standard deviations
        epsilon = 5 * (number / PICKS) ** 0.5
        assert all(share * number == pytest.approx(1, abs=epsilon) for share in got.values())


@pytest.mark.parametrize("cls", [Weighted, PowerOfTwo])
def test_weights_are_respected_when_idle(cls: type[Policy]) -> None:
    got = shares(cls(instances(6, (1.0, 2.0, 7.0)), random=random.Random(2).random))
    for name, weight in zip(got, (1, 2, 7) * 2, strict=True):
        # 5 standard deviations of a binomial share
        expected = weight / 20
        assert got[name] == pytest.approx(expected, abs=5 * (expected / PICKS) ** 0.5)


@pytest.mark.parametrize("cls", [LeastLoaded, PowerOfTwo])
def test_weights_are_respected_when_all_are_busy(cls: type[Policy]) -> None:
    node = cls(instances(6, (1.0, 2.0, 5.0)), random=random.Random(3).random)
    for _ in range(1600):
        chosen = node.pick()
        assert chosen is not None
        acquire(chosen)
    # p2c is within a constant (a few requests) of the share, whatever the number of requests
    for instance in node.members:
        assert instance.in_flight == pytest.approx(100 * instance.weight, abs=1 if cls is LeastLoaded else 8)


def test_round_robin_takes_turns_and_continues_after_changes() -> None:
    node = RoundRobin(instances(5), random=lambda: 0.0)

    def names(number: int) -> str:
        return "".join(chosen.name[1] for _ in range(number) if (chosen := node.pick()) is not None)

    assert names(7) == "0123401"
    set_status(node.members[3], Status.DOWN)
    assert names(4) == "2401"
    set_status(node.members[3], Status.UP)
    assert names(3) == "234"
    node.replace([*node.members[1:], Instance("i9")])
    assert names(6) == "912349"


def test_round_robin_skips_tried_instances() -> None:
    node = RoundRobin(instances(3), random=lambda: 0.0)
    a, b, c = node.members
    assert node.pick((a, b)) is c
    assert node.pick((a,)) is b
    assert node.pick((a, b, c)) is None


def test_workers_start_at_different_instances() -> None:
    for cls in (RoundRobin, Weighted, LeastLoaded):
        firsts = {cls(instances(10), random=random.Random(seed).random).pick().name for seed in range(50)}  # type: ignore[union-attr]
        assert len(firsts) == 10, cls


@pytest.mark.parametrize("cls", ALL)
def test_nothing_to_pick(cls: type[Policy]) -> None:
    node = cls([])
    assert node.pick() is None
    assert (node.status, node.size, node.up, node.members) == (Status.DOWN, 0, 0, ())
    node.replace(instances(2))
    for instance in node.members:
        set_status(instance, Status.EJECTED)
    assert node.pick() is None
    assert (node.status, node.size, node.up) == (Status.EJECTED, 2, 0)
    set_status(node.members[0], Status.DRAINING)
    assert node.size == 1


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("weights", [(1.0,), (1.0, 3.0)])
def test_only_untried_instances_that_are_up_are_picked(cls: type[Policy], weights: tuple[float, ...]) -> None:
    chance = random.Random(4)
    node = cls(instances(8, weights), random=chance.random)
    for _ in range(300):
        for instance in node.members:
            set_status(instance, Status.UP if chance.random() < 0.4 else Status.DOWN)
        tried = tuple(chance.sample(node.members, 3))
        able = {instance for instance in node.members if instance.up} - set(tried)
        picked = {node.pick(tried, key) for key in (None, b"k")}
        assert picked <= able if able else picked == {None}


def test_p2c_draws_all_pairs_equally_often() -> None:
    """The busiest of n instances is never picked, the others equally often: pairs are uniform, without replacement."""
    for weights in ((1.0,), (1.0, 1.0000001)):  # the fast path and the weighted one
        node = PowerOfTwo(instances(5, weights), random=random.Random(5).random)
        for load, instance in enumerate(node.members):
            for _ in range(load * 2):
                acquire(instance)
        counts: Counter[str] = Counter()
        for _ in range(PICKS):
            chosen = node.pick()
            assert chosen is not None
            counts[chosen.name] += 1
        for rank, instance in enumerate(node.members):
            expected = 2 * (5 - 1 - rank) / (5 * 4)
            assert counts[instance.name] / PICKS == pytest.approx(expected, abs=5 * (0.25 / PICKS) ** 0.5)


@pytest.mark.parametrize("cls", [PowerOfTwo, LeastLoaded])
@pytest.mark.parametrize("number", [10, 1000])
def test_busiest_instance_stays_near_the_mean(cls: type[Policy], number: int) -> None:
    """Balls into bins: with 10 n balls and two choices, the maximum is log2 log2 n + O(1) over the mean."""
    node = cls(instances(number), random=random.Random(6).random)
    for _ in range(10 * number):
        chosen = node.pick()
        assert chosen is not None
        acquire(chosen)
    worst = max(instance.in_flight for instance in node.members)
    assert worst <= (10 if cls is LeastLoaded else 10 + 4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=12),
    picks=st.integers(1, 400),
    seed=st.integers(0, 100),
)
def test_weighted_turns_are_smooth(weights: list[float], picks: int, seed: int) -> None:
    """At any time each instance has its share to within one turn for the phase and one for rounding."""
    items: EdfScheduler[int] = EdfScheduler(random.Random(seed).random)
    items.replace(enumerate(weights))
    counts: Counter[int] = Counter()
    total = sum(weights)
    for _ in range(picks):
        turn = items.next()
        assert turn is not None
        counts[turn] += 1
    virtual = max((counts[item] - 1) / weight for item, weight in enumerate(weights) if counts[item])
    for item, weight in enumerate(weights):
        assert counts[item] >= virtual * weight - 2
        assert counts[item] <= picks * weight / total + len(weights) + 1


def test_weighted_has_no_bursts() -> None:
    node = Weighted(instances(3, (5.0, 1.0, 1.0)), random=random.Random(7).random)
    names = [chosen.name for _ in range(700) if (chosen := node.pick()) is not None]
    assert Counter(names) == pytest.approx({"i0": 500, "i1": 100, "i2": 100}, abs=1)
    # the light ones come every seventh pick, plus or minus one
    for light in ("i1", "i2"):
        places = [place for place, name in enumerate(names) if name == light]
        assert {b - a for a, b in pairwise(places)} <= {6, 7, 8}


def test_weighted_has_no_burst_after_a_recovery() -> None:
    node = Weighted(instances(4), random=random.Random(8).random)
    back = node.members[0]
    set_status(back, Status.DOWN)
    for _ in range(300):
        assert node.pick() is not back
    set_status(back, Status.UP)
    names = [chosen.name for _ in range(40) if (chosen := node.pick()) is not None]
    assert all(9 <= count <= 11 for count in Counter(names).values())


def test_a_changed_weight_counts_at_the_next_pick() -> None:
    for cls in (Weighted, PowerOfTwo):
        node = cls(instances(2), random=random.Random(9).random)
        shares(node, 100)
        set_weight(node.members[0], weight=4.0, share=0.25)
        assert shares(node)["i0"] == pytest.approx(0.5, abs=0.02)
        set_weight(node.members[0], share=0.75)
        assert shares(node)["i0"] == pytest.approx(0.75, abs=0.02)


class Counted(Instance):
    """An instance that counts how often a policy looks at it."""

    __slots__ = ()
    looks = 0

    @property
    def load(self) -> float:  # type: ignore[override]
        Counted.looks += 1
        return self.in_flight * self.unit

    @load.setter
    def load(self, value: float) -> None:
        pass

    @property
    def up(self) -> bool:  # type: ignore[override]
        Counted.looks += 1
        return self.status is Status.UP

    @up.setter
    def up(self, value: bool) -> None:
        pass


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("weights", [(1.0,), (1.0, 2.0)])
@pytest.mark.parametrize("tried", [0, 1])
def test_a_pick_looks_at_few_instances_whatever_their_number(
    cls: type[Policy], weights: tuple[float, ...], tried: int
) -> None:
    for number in (3, 1000):
        node = cls(
            [Counted(f"i{n}", f"h:{n}", weights[n % len(weights)]) for n in range(number)],
            random=random.Random(10).random,
        )
        exclude = node.members[:tried]
        node.pick()
        Counted.looks = 0
        for key in range(1000):
            chosen = node.pick(exclude, b"%d" % key)
            assert chosen is not None
            acquire(chosen)
            if key % 2:
                release(chosen, True, 0.1)
        # LeastLoaded looks again at an instance whose load has risen: once for each acquire
        assert Counted.looks / 1000 <= 8, (cls, number)


def test_least_loaded_keeps_its_heap_small() -> None:
    node = LeastLoaded(instances(10), random=random.Random(11).random)
    chance = random.Random(12)
    running: list[Instance] = []
    for _ in range(20_000):
        if (len(running) < 100 and chance.random() < 0.5) or not running:
            chosen = node.pick()
            assert chosen is not None
            acquire(chosen)
            running.append(chosen)
        else:
            release(running.pop(chance.randrange(len(running))), True, 0.1)
    assert len(node._heap) <= 64 + 4 * 10 + 1


@pytest.mark.parametrize("make", [LeastLoaded, PowerOfTwo])
def test_metric_and_policy_are_independent(make: Callable[..., Policy]) -> None:
    """Two policies with the other metric: two instances, one of them ten times slower."""
    now = 0.0
    node = make(instances(2), metric=PeakEwma(lambda: now), random=random.Random(13).random)
    slow, fast = node.members
    counts: Counter[str] = Counter()
    for _ in range(200):
        chosen = node.pick()
        assert chosen is not None
        acquire(chosen)
        now += 0.01
        release(chosen, True, 0.5 if chosen is slow else 0.05)
        counts[chosen.name] += 1
    assert counts[fast.name] >= 195


def test_least_loaded_counts_requests_that_other_nodes_picked() -> None:
    """A sticky session or another node may acquire what this policy did not pick."""
    node = LeastLoaded(instances(3), random=lambda: 0.0)
    a, b, c = node.members
    node.pick()
    for instance, number in ((a, 5), (b, 3), (c, 2)):
        for _ in range(number):
            acquire(instance)
    assert node.pick() is c


def test_replacing_a_list_by_an_equal_one_keeps_turns() -> None:
    for cls in (RoundRobin, LeastLoaded):
        node = cls(instances(3), random=lambda: 0.0)
        names = ""
        for _ in range(6):
            chosen = node.pick()
            assert chosen is not None
            names += chosen.name[1]
            node.replace(node.members)
        assert names == "012012", cls


def test_an_increased_weight_moves_the_next_turn() -> None:
    node = Weighted(instances(2), random=lambda: 0.5)
    set_weight(node.members[0], share=0.001)
    for _ in range(5):
        assert node.pick() is node.members[1]
    set_weight(node.members[0], share=1.0)
    assert node.members[0] in {node.pick(), node.pick(), node.pick()}
