"""Time limits that share a queue."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from passerelle.upstream.deadlines import DeadlineQueue


class Item:
    def __init__(self, told: list[Item]) -> None:
        self._told = told

    def on_deadline(self) -> None:
        self._told.append(self)


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=20), st.floats(0, 30))
def test_exactly_those_whose_time_is_up_are_told_in_order(steps: list[tuple[float, bool]], wait: float) -> None:
    told: list[Item] = []
    deadlines = DeadlineQueue(5.0)
    now = 0.0
    left: dict[Item, float] = {}
    for gap, discarded in steps:
        now += gap
        item = Item(told)
        deadlines.add(item, now)
        left[item] = now
        if discarded:
            deadlines.entries.pop(item)
            left.pop(item)
    now += wait
    deadlines.expire(now)
    assert told == [item for item, since in left.items() if now - since >= 5.0]
    assert list(deadlines.entries) == [item for item, since in left.items() if now - since < 5.0]


def test_one_that_is_told_may_add_another() -> None:
    deadlines = DeadlineQueue(1.0)
    told: list[Item] = []

    class Again(Item):
        def on_deadline(self) -> None:
            super().on_deadline()
            deadlines.add(Item(told), 10.0)

    deadlines.add(Again(told), 0.0)
    deadlines.expire(10.0)
    assert len(told) == 1
    assert len(deadlines.entries) == 1


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10), st.booleans()), max_size=20), st.floats(0, 10))
def test_what_comes_late_is_told_in_time(steps: list[tuple[float, float, bool]], wait: float) -> None:
    """Each has waited for something else before it was added, and some are over by the next look."""
    told: list[Item] = []
    deadlines = DeadlineQueue(5.0)
    now = 0.0
    left: dict[Item, float] = {}
    for gap, waited, discarded in steps:
        now += gap
        item = Item(told)
        deadlines.add(item, now - waited)
        left[item] = now - waited
        if discarded:
            deadlines.entries.pop(item)
            left.pop(item)
        deadlines.expire(now)
        due = [item for item, since in left.items() if now - since >= 5.0]
        assert set(told) >= set(due)
    now += wait
    deadlines.expire(now)
    assert set(told) >= {item for item, since in left.items() if now - since >= 5.0}
    assert set(deadlines.entries) == {item for item, since in left.items() if now - since < 5.0}


def test_one_that_is_told_may_add_one_that_is_late_too() -> None:
    deadlines = DeadlineQueue(1.0)
    told: list[Item] = []

    class Again(Item):
        def on_deadline(self) -> None:
            super().on_deadline()
            deadlines.add(Item(told), 5.0)

    deadlines.add(Again(told), 0.0)
    deadlines.add(Item(told), 9.5)
    deadlines.expire(10.0)
    deadlines.expire(10.05)
    assert len(told) == 2
    assert list(deadlines.entries.values()) == [9.5]
