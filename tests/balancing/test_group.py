"""Groups of zones: shares by weight, priority and health; the status is that of the best child."""

import random
from collections import Counter

import pytest

from passerelle.balancing.group import Child, Group
from passerelle.balancing.instance import Instance, Status, acquire, set_status
from passerelle.balancing.policies import LeastLoaded, PickerNode, PowerOfTwo, RoundRobin

PICKS = 20_000


def zone(name: str, number: int) -> RoundRobin:
    return RoundRobin([Instance(f"{name}{n}", zone=name) for n in range(number)], random=lambda: 0.0)


def parts(node: PickerNode, picks: int = PICKS) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for _ in range(picks):
        chosen = node.pick()
        assert chosen is not None
        counts[chosen.zone] += 1
    return {name: count / picks for name, count in counts.items()}


def test_two_groups_of_five_take_turns() -> None:
    """Two policies of five instances each take turns: ten requests reach all ten instances."""
    users, more = zone("a", 5), zone("b", 5)
    both = Group([(users, 1.0), (more, 1.0)], random=random.Random(1).random)
    names = [chosen.name for _ in range(20) if (chosen := both.pick()) is not None]
    assert Counter(names[:10]) == Counter(names[10:]) == Counter([f"{z}{n}" for z in "ab" for n in range(5)])


def test_shares_by_weight() -> None:
    # a schedule is exact to a turn or two, so the tolerance is small
    assert parts(Group([(zone("a", 4), 3.0), (zone("b", 4), 1.0)])) == pytest.approx({"a": 0.75, "b": 0.25}, abs=0.001)


@pytest.mark.parametrize(
    ("up", "share"),
    [(4, 1.0), (3, 1.0), (2, 0.7), (1, 0.35), (0, 0.0)],  # the table in the docstring of the module
)
def test_priority_spills_as_health_falls(up: int, share: float) -> None:
    first, second = zone("a", 4), zone("b", 4)
    node = Group([Child(first, priority=0), Child(second, priority=1)])
    for instance in first.members[up:]:
        set_status(instance, Status.DOWN)
    got = parts(node)
    assert got.get("a", 0.0) == pytest.approx(share, abs=0.001)
    assert got.get("b", 0.0) == pytest.approx(1 - share, abs=0.001)
    # and back
    for instance in first.members:
        set_status(instance, Status.UP)
    assert parts(node, 100) == {"a": 1.0}


def test_weights_within_a_priority_follow_health() -> None:
    half, whole = zone("a", 4), zone("b", 4)
    for instance in half.members[:2]:
        set_status(instance, Status.DOWN)
    node = Group([(half, 1.0), (whole, 1.0)])
    assert parts(node) == pytest.approx({"a": 0.7 / 1.7, "b": 1 / 1.7}, abs=0.001)


def test_nothing_is_refused_while_one_instance_is_up() -> None:
    zones = [zone(name, 4) for name in "abc"]
    node = Group([Child(z, priority=n) for n, z in enumerate(zones)])
    for z in zones:
        for instance in z.members:
            set_status(instance, Status.DOWN)
    assert node.pick() is None
    assert node.status is Status.DOWN
    set_status(zones[2].members[3], Status.UP)
    assert node.pick() is zones[2].members[3]
    assert node.status is Status.UP
    set_status(zones[0].members[0], Status.UP)
    assert sum(node.shares.values()) == pytest.approx(1)
    assert parts(node) == pytest.approx({"a": 0.5, "c": 0.5}, abs=0.001)


def test_another_instance_is_found_in_a_zone_without_a_share() -> None:
    near, far = zone("a", 1), zone("b", 1)
    node = Group([Child(near, name="a"), Child(far, priority=1, name="b")])
    tried = node.pick()
    assert tried is near.members[0]
    for key in (None, b"key"):
        assert node.pick((tried,), key) is far.members[0]
        assert node.pick((tried, far.members[0]), key) is None


def test_the_status_is_that_of_the_best_child_and_changes_reach_the_root() -> None:
    inner = [zone("a", 1), zone("b", 1)]
    root = Group([(Group([(inner[0], 1.0)]), 1.0), (Group([(inner[1], 1.0)]), 1.0)])
    a, b = (z.members[0] for z in inner)
    assert (root.status, root.size, root.up, set(root.members)) == (Status.UP, 2, 2, {a, b})
    set_status(a, Status.DOWN)
    assert {root.pick() for _ in range(4)} == {b}
    set_status(b, Status.EJECTED)
    assert root.status is Status.EJECTED
    assert root.pick() is None
    set_status(b, Status.DRAINING)
    assert (root.status, root.size, root.up) == (Status.DRAINING, 1, 0)
    inner[0].replace([Instance("new", zone="a")])
    assert {root.pick() for _ in range(4)} == set(inner[0].members)


def test_children_can_be_replaced() -> None:
    a, b, c = zone("a", 1), zone("b", 1), zone("c", 1)
    node = Group([(a, 1.0), (b, 1.0)])
    node.replace([(b, 1.0), (c, 3.0)])
    assert (a.parent, b.parent, c.parent) == (None, node, node)
    assert parts(node) == pytest.approx({"b": 0.25, "c": 0.75}, abs=0.001)
    assert [child.node for child in node.children] == [b, c]


def test_keys_stay_in_their_zone_and_few_move() -> None:
    nodes = [zone(name, 4) for name in "abcd"]
    children = [Child(node, weight, 0, name) for node, weight, name in zip(nodes, (1, 1, 1, 3), "abcd", strict=True)]
    node = Group(children)
    keys = [b"user-%d" % number for number in range(6000)]

    def where() -> list[str]:
        return [chosen.zone for key in keys if (chosen := node.pick(key=key)) is not None]

    before = where()
    assert where() == before
    counts = Counter(before)
    # 5 standard deviations of a binomial part
    assert counts["d"] / 6000 == pytest.approx(0.5, abs=5 * (0.25 / 6000) ** 0.5)
    node.replace(reversed(children))
    assert where() == before
    node.replace(children[1:])
    after = where()
    assert all(new == old for new, old in zip(after, before, strict=True) if old != "a")


def test_each_child_keeps_its_own_policy() -> None:
    """Zones with different policies under one root: all counters are correct."""
    node = Group(
        [
            (LeastLoaded([Instance(f"a{n}", zone="a") for n in range(3)]), 1.0),
            (PowerOfTwo([Instance(f"b{n}", zone="b") for n in range(3)]), 1.0),
        ]
    )
    for _ in range(60):
        chosen = node.pick()
        assert chosen is not None
        acquire(chosen)
    assert sum(instance.in_flight for instance in node.members) == 60
    assert {instance.in_flight for instance in node.members if instance.zone == "a"} == {10}


def test_nearest_zone_first() -> None:
    zones = {"fr/paris/1": zone("near", 2), "fr/lyon/1": zone("far", 2), "de/berlin/1": zone("abroad", 2)}
    node = Group([Child(z, priority=number, name=name) for number, (name, z) in enumerate(zones.items())])
    assert parts(node, 100) == {"near": 1.0}
    for instance in zones["fr/paris/1"].members:
        set_status(instance, Status.DOWN)
    assert parts(node, 100) == {"far": 1.0}
