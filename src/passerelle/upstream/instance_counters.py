"""Counters of the instances of one service for metrics, read from what the balancer counts anyway.

An instance that is gone is listed for a while, so that its last counts are scraped. The same name at another address is
the same series, and continues: a process that was replaced, for example. Discovery decides how many names there are,
so the number of series is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from passerelle.balancing.instance import Instance

KEPT_SECONDS = 300.0  # how long the counts of an instance that is gone are listed
MOST_GONE = 100  # instances that are gone, of one service
MOST_LISTED = 500  # instances of one service; further ones are only counted

Counters = dict[str, Any]


class InstanceCounters:
    """The counts of instances that are gone, by name. ``now`` is in seconds of a monotonic clock."""

    __slots__ = ("_gone",)

    def __init__(self) -> None:
        self._gone: dict[str, tuple[float, Counters]] = {}

    def add_gone(self, instances: Iterable[Instance], now: float) -> None:
        """Keep the counts of ``instances``, which were removed. Instances without requests have none."""
        for instance in instances:
            if instance.total:
                _, before = self._gone.pop(instance.name, (0.0, {}))
                counters = _counters(instance)
                del counters["in_flight"], counters["states"]
                self._gone[instance.name] = now, _sum(before, counters)  # at the end: the newest
        while len(self._gone) > MOST_GONE + MOST_LISTED:  # also if no snapshot is ever taken
            del self._gone[next(iter(self._gone))]

    def snapshot(self, current: Iterable[Instance], leaving: Iterable[Instance], now: float) -> dict[str, Any]:
        """Return the counts by name, as JSON values, and how many instances are not listed."""
        current = list(current)
        listed = current[:MOST_LISTED]
        self._forget({instance.name for instance in listed}, now)
        found: dict[str, Counters] = {name: counters for name, (_, counters) in self._gone.items()}
        for instance in [*listed, *list(leaving)[:MOST_LISTED]]:
            found[instance.name] = _sum(found.get(instance.name, {}), _counters(instance))
        return {"listed": found, "unlisted": len(current) - len(listed)}

    def _forget(self, current: set[str], now: float) -> None:
        """Forget the oldest counts, and those that are too old, unless an instance continues them."""
        gone = [name for name in self._gone if name not in current]
        excess = len(gone) - MOST_GONE
        for number, name in enumerate(gone):
            if number < excess or now - self._gone[name][0] > KEPT_SECONDS:
                del self._gone[name]


def _counters(instance: Instance) -> Counters:
    return {
        "requests": instance.total,
        "ended": instance.total - instance.in_flight,
        "seconds": instance.seconds,
        "queued": instance.queued_seconds,
        "connecting": instance.connecting_seconds,
        "failures": dict(instance.failed),
        "in_flight": instance.in_flight,
        "states": {instance.status.name.lower(): 1},
    }


def _sum(first: Counters, second: Counters) -> Counters:
    result = dict(first)
    for key, value in second.items():
        known = result.get(key)
        if known is None:
            result[key] = value
        else:
            result[key] = _sum(known, value) if isinstance(value, dict) else known + value
    return result
