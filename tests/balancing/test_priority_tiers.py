"""Tiers: the first tier with an instance up takes all requests."""

from __future__ import annotations

import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passerelle.balancing.group import Child, Group
from passerelle.balancing.instance import Instance, Status, acquire, release, set_status
from passerelle.balancing.priority_tiers import PriorityTiers
from passerelle.balancing.registry import REGISTRY, make


def instance(name: str, tier: int) -> Instance:
    made = Instance(name)
    made.tier = tier
    return made


def node(*tiers: int, policy: str = "p2c") -> PriorityTiers:
    members = [instance(f"i{number}", tier) for number, tier in enumerate(tiers)]
    return PriorityTiers(partial(make, policy, random=random.Random(1).random), members)


@pytest.mark.parametrize("policy", REGISTRY)
def test_the_next_tier_is_used_when_the_first_one_is_down(policy: str) -> None:
    tiers = node(1, 0, 0, 2, policy=policy)
    second, first, other, last = tiers.members[2], tiers.members[0], tiers.members[1], tiers.members[3]
    assert [each.tier for each in tiers.members] == [0, 0, 1, 2]

    def picked() -> set[Instance | None]:
        return {tiers.pick((), b"%d" % number) for number in range(50)}

    assert picked() == {first, other}
    set_status(first, Status.DOWN)
    assert picked() == {other}
    set_status(other, Status.EJECTED)
    assert picked() == {second}
    set_status(second, Status.DRAINING)
    assert picked() == {last}
    set_status(last, Status.DOWN)
    assert picked() == {None}
    set_status(first, Status.UP)
    assert picked() == {first}


def test_a_request_that_has_tried_a_whole_tier_moves_to_the_next() -> None:
    tiers = node(0, 0, 1)
    first, other, second = tiers.members
    assert tiers.pick((first,)) is other
    assert tiers.pick((first, other)) is second
    assert tiers.pick((first, other, second)) is None


def test_another_list_keeps_the_counts() -> None:
    tiers = node(0, 1)
    first, second = tiers.members
    acquire(second)
    first.tier, second.tier = 1, 0
    tiers.replace([first, second])
    assert tiers.pick() is second and second.in_flight == 1
    second.tier = 5
    tiers.replace([second])
    assert tiers.pick() is second and first.owner is None
    release(second, True, 0.1)
    tiers.replace([])
    assert tiers.pick() is None and tiers.members == ()
    assert (tiers.size, tiers.up, tiers.status) == (0, 0, Status.DOWN)


def test_a_group_keeps_its_share_with_one_tier_up() -> None:
    tiers, other = node(0, 1), make("p2c", [Instance("other")])
    group = Group([Child(tiers, priority=0, name="a"), Child(other, priority=1, name="b")])
    set_status(tiers.members[0], Status.DOWN)
    assert {group.pick() for _ in range(50)} == {tiers.members[1]}
    set_status(tiers.members[1], Status.DOWN)
    assert {group.pick() for _ in range(50)} == {other.members[0]}


statuses = st.sampled_from(list(Status))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), statuses), max_size=8), st.sampled_from(sorted(REGISTRY)))
def test_the_pick_is_from_the_lowest_tier_that_is_up(seen: list[tuple[int, Status]], policy: str) -> None:
    members = [instance(f"i{number}", tier) for number, (tier, _) in enumerate(seen)]
    tiers = PriorityTiers(partial(make, policy), members)
    for member, (_, status) in zip(members, seen, strict=True):
        set_status(member, status)
    up = [member.tier for member in members if member.up]
    chosen = tiers.pick((), b"key")
    assert (chosen.tier if chosen is not None else None) == min(up, default=None)
    assert tiers.status == max((member.status for member in members), default=Status.DOWN)
    assert (tiers.up > 0) == bool(up)
