"""The sides of a split: the shares of users, and who moves when they change."""

from __future__ import annotations

import functools
from collections import Counter
from math import sqrt
from typing import Final

import pytest

from passerelle.crossing.sides import Sides, check_weights, position

STEPS: Final = (10, 50, 250, 500, 1000)


@functools.cache
def users() -> list[int]:
    return [position(b"salt", b"user-%d" % number) for number in range(100_000)]


def on_new_side(share: int) -> set[int]:
    sides = Sides({"old": 1000 - share, "new": share})
    return {place for place in users() if sides.of(place) == 1}


def test_shares_are_as_configured_and_a_growing_share_moves_no_user_back() -> None:
    before: set[int] = set()
    for share in STEPS:
        now = on_new_side(share)
        part = share / 1000
        assert abs(len(now) / len(users()) - part) <= 4 * sqrt(part * (1 - part) / len(users()))
        assert before <= now
        before = now
    assert len(before) == len(users())


def test_nobody_is_on_a_side_without_weight() -> None:
    assert on_new_side(0) == set()
    assert Sides({"old": 1000}).of(2**64 - 1) == 0
    assert [Sides({"old": 0, "new": 1000}).of(place) for place in (0, 2**64 - 1)] == [1, 1]


@pytest.mark.parametrize("grown", ["b", "c"])
def test_with_two_new_sides_the_growth_of_one_takes_users_from_the_old_side_alone(grown: str) -> None:
    weights = {"a": 700, "b": 200, "c": 100}
    before, after = Sides(weights), Sides({**weights, "a": 600, grown: weights[grown] + 100})
    moves = {(before.names[before.of(place)], after.names[after.of(place)]) for place in users()[:5000]}
    assert {move for move in moves if move[0] != move[1]} == {("a", grown)}
    counts = Counter(before.of(place) for place in users())
    assert all(abs(counts[number] / len(users()) - share) < 0.005 for number, share in enumerate((0.7, 0.2, 0.1)))


def test_positions_are_the_same_in_every_process_and_differ_by_salt() -> None:
    assert position(b"salt", b"user-1") == 0x4C2136C9348B0684
    assert position(b"salt", b"user-1") != position(b"other", b"user-1")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 900, "b": 99}, "found the weights 900 + 99 = 999; their sum must be 1000"),
        ({"a": 1001, "b": -1}, "found a=1001; a weight is a whole number from 0 to 1000, in per mille"),
        ({}, "found the weights  = 0; their sum must be 1000"),
    ],
)
def test_weights_must_be_per_mille_of_the_whole(weights: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match="found") as caught:
        check_weights(weights)
    assert str(caught.value) == message
