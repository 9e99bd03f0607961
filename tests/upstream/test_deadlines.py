"""Items that share a queue of deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from passerelle.upstream.deadlines import DeadlineQueue


class Item:
    def __init__(self, expired: list[Item]) -> None:
        self._expired = expired

    def on_deadline(self) -> None:
        self._expired.append(self)


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=20), st.floats(0, 30))
def test_exactly_the_items_that_are_due_expire_in_order(steps: list[tuple[float, bool]], wait: float) -> None:
    expired: list[Item] = []
    deadlines = DeadlineQueue(5.0)
    now = 0.0
    left: dict[Item, float] = {}
    for gap, discarded in steps:
        now += gap
        item = Item(expired)
        deadlines.add(item, now)
        left[item] = now
        if discarded:
            deadlines.entries.pop(item)
            left.pop(item)
    now += wait
    deadlines.expire(now)
    assert expired == [item for item, since in left.items() if now - since >= 5.0]
    assert list(deadlines.entries) == [item for item, since in left.items() if now - since < 5.0]


def test_an_item_that_expires_may_add_another() -> None:
    deadlines = DeadlineQueue(1.0)
    expired: list[Item] = []

    class Again(Item):
        def on_deadline(self) -> None:
            super().on_deadline()
            deadlines.add(Item(expired), 10.0)

    deadlines.add(Again(expired), 0.0)
    deadlines.expire(10.0)
    assert len(expired) == 1
    assert len(deadlines.entries) == 1


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10), st.booleans()), max_size=20), st.floats(0, 10))
def test_items_that_are_added_late_expire_in_time(steps: list[tuple[float, float, bool]], wait: float) -> None:
    """Each item waits for something else before it is added, and some are due at the next check."""
    expired: list[Item] = []
    deadlines = DeadlineQueue(5.0)
    now = 0.0
    left: dict[Item, float] = {}
    for gap, waited, discarded in steps:
        now += gap
        item = Item(expired)
        deadlines.add(item, now - waited)
        left[item] = now - waited
        if discarded:
            deadlines.entries.pop(item)
            left.pop(item)
        deadlines.expire(now)
        due = [item for item, since in left.items() if now - since >= 5.0]
        assert set(expired) >= set(due)
    now += wait
    deadlines.expire(now)
    assert set(expired) >= {item for item, since in left.items() if now - since >= 5.0}
    assert set(deadlines.entries) == {item for item, since in left.items() if now - since < 5.0}


def test_an_item_that_expires_may_add_a_late_one() -> None:
    deadlines = DeadlineQueue(1.0)
    expired: list[Item] = []

    class Again(Item):
        def on_deadline(self) -> None:
            super().on_deadline()
            deadlines.add(Item(expired), 5.0)

    deadlines.add(Again(expired), 0.0)
    deadlines.add(Item(expired), 9.5)
    deadlines.expire(10.0)
    deadlines.expire(10.05)
    assert len(expired) == 2
    assert list(deadlines.entries.values()) == [9.5]
