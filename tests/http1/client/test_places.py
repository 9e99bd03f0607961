"""Places that clients share, and the queue in which they take turns."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from passerelle.http1.client.places import FairQueue, SharedPlaces, share_of

A, B, C = b"192.0.2.1", b"192.0.2.2", b"192.0.2.3"


def queue(limit: int, *items: tuple[bytes | None, str]) -> FairQueue[str]:
    made: FairQueue[str] = FairQueue(limit)
    for client, item in items:
        made.add(client, item)
    return made


def drain(waiting: FairQueue[str]) -> list[str]:
    order = []
    while (found := waiting.pop()) is not None:
        order.append(found[1])
    return order


def test_clients_are_served_in_turn() -> None:
    waiting = queue(10, (A, "a1"), (A, "a2"), (A, "a3"), (B, "b1"), (None, "n1"), (B, "b2"))
    assert drain(waiting) == ["a1", "b1", "n1", "a2", "b2", "a3"]
    assert (waiting.waiting, waiting.by_client) == (0, {})


def test_a_client_that_is_not_admitted_waits_while_others_are_served() -> None:
    waiting = queue(10, (A, "a1"), (B, "b1"))
    assert waiting.pop(lambda client: client != A) == (B, "b1")
    assert waiting.pop(lambda client: client != A) is None
    assert drain(waiting) == ["a1"]


def test_the_last_item_of_the_largest_client_makes_room() -> None:
    waiting = queue(4, (A, "a1"), (A, "a2"), (A, "a3"), (B, "b1"))
    assert waiting.is_full
    assert waiting.displace(A) is None
    assert waiting.displace(C) == "a3"
    assert waiting.displace(B) is None  # one more would give it as many as the largest has left
    assert drain(waiting) == ["a1", "b1", "a2"]


def test_an_item_can_be_removed_once() -> None:
    waiting = queue(4, (A, "a1"), (B, "b1"))
    assert waiting.remove("b1")
    assert not waiting.remove("b1")
    assert drain(waiting) == ["a1"]


@given(st.lists(st.sampled_from([A, B, C, None]), max_size=60))
def test_no_client_waits_for_more_than_one_turn_of_the_others(clients: list[bytes | None]) -> None:
    waiting: FairQueue[int] = FairQueue(100)
    for number, client in enumerate(clients):
        waiting.add(client, number)
    served: Counter[bytes | None] = Counter()
    total = Counter(clients)
    while (found := waiting.pop()) is not None:
        served[found[0]] += 1
        behind = [served[client] for client in total if served[client] < total[client]]
        assert all(served[found[0]] <= count + 1 for count in behind)
    assert served == total
    assert waiting.by_client == {}


def test_one_client_gets_a_share_and_the_others_the_rest() -> None:
    places = SharedPlaces(4, share_of(4, 0.5))
    for _ in range(2):
        assert not places.is_full_for(A)
        places.take(A)
    assert places.is_full_for(A) and not places.is_full_for(B)
    places.take(B)
    places.take(None)
    assert places.is_full_for(C) and places.is_full_for(None)
    places.give_back(A)
    assert not places.is_full_for(A)
    for client in (A, B, None):
        places.give_back(client)
    assert (places.taken, places._by_client) == (0, {})


def test_a_share_is_at_least_one_place() -> None:
    assert [share_of(*case) for case in ((0, 0.5), (1, 0.1), (5, 0.5), (8, 1.0))] == [1, 1, 3, 8]
