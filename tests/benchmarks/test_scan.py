"""Scan over a hot set: passerelle's store keeps it, LRU does not, and both hold the same bytes."""

import pytest

from benchmarks.simulation.scan import MOST_LOST, STORES, Lru, entry, results_table, scan

SMALL = {"scanned": 20_000, "hot": 100, "room": 200}


@pytest.mark.parametrize("pace", [1, 4, 16, None])
def test_ours_keeps_its_hot_set_and_lru_loses_it(pace):
    ours, lru = (scan(name, pace, **SMALL) for name in STORES)
    assert ours.before == lru.before == 1.0
    assert ours.lost < MOST_LOST < lru.lost
    assert ours.during == sum(ours.course) / len(ours.course)


def test_the_same_again_gives_the_same():
    assert scan("LRU", 4, **SMALL) == scan("LRU", 4, **SMALL)


def test_lru_forgets_what_was_used_least_recently_and_holds_its_bound():
    size = entry(b"k0").measure()
    store = Lru(2 * size)
    assert store.put(entry(b"k0")) and store.put(entry(b"k1"))
    assert store.get(b"k0") is not None
    assert store.put(entry(b"k2"))
    assert store.get(b"k1") is None
    assert store.put(entry(b"k2"))  # replaces itself
    assert store.get(b"k0") is not None and store.get(b"k2") is not None
    assert not Lru(size - 1).put(entry(b"k0"))


def test_the_table_has_a_row_for_each():
    results = [scan(name, None, **SMALL) for name in STORES]
    assert results_table(results).count("\n") == 3
