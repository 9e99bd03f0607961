"""Splits as rollouts see them: each by its name, or those of a service with versions together under its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields

from passerelle.config.models.config import Config
from passerelle.crossing.latency import LatencyHistogram
from passerelle.supervisor.splits import OnChange, SideCounts, Splits


class SplitGroups:
    """The splits of ``config()``. A name is that of a split, or of a service with two versions for all of its splits.

    The methods are those of :class:`passerelle.supervisor.splits.Splits`.
    """

    def __init__(self, splits: Splits, config: Callable[[], Config]) -> None:
        self._splits = splits
        self._config = config
        self.on_change: list[OnChange] = []
        splits.on_change.append(self._on_change)

    @property
    def _groups(self) -> dict[str, tuple[str, ...]]:
        return {name: pair.splits for name, pair in self._config().versions.items() if pair.new and pair.splits}

    def _members(self, name: str) -> tuple[str, ...]:
        return self._groups.get(name, (name,))

    def routes(self) -> list[str]:
        """Return all names."""
        groups = self._groups
        grouped = {split for members in groups.values() for split in members}
        known = self._splits.routes()
        return [*(name for name in known if name not in grouped), *(n for n in groups if groups[n][0] in known)]

    def weights(self, name: str) -> dict[str, int]:
        """Return the weights in force."""
        return self._splits.weights(self._members(name)[0])

    def file_weights(self, name: str) -> dict[str, int]:
        """Return the weights that the file gives."""
        return self._splits.file_weights(self._members(name)[0])

    def is_applied(self, name: str, weights: Mapping[str, int]) -> bool:
        """Return whether all splits of the name have these weights."""
        return all(self._splits.weights(member) == weights for member in self._members(name))

    async def set(self, name: str, weights: Mapping[str, int], *, actor: str, reason: str) -> None:
        """Change the weights of all splits of the name."""
        for member in self._members(name):
            await self._splits.set(member, weights, actor=actor, reason=reason)

    def restore(self, name: str, weights: Mapping[str, int]) -> None:
        """Put weights of an earlier run in force, before workers start."""
        for member in self._members(name):
            self._splits.restore(member, weights)

    async def set_slow_after(self, name: str, seconds: float | None) -> None:
        """Set the time from which requests count as slow."""
        for member in self._members(name):
            await self._splits.set_slow_after(member, seconds)

    def hold(self, name: str, text: str | None) -> None:
        """Refuse changes by others with ``text``; None allows them again."""
        for member in self._members(name):
            if text is None:
                self._splits.held.pop(member, None)
            else:
                self._splits.held[member] = text

    async def read(self) -> None:
        """Read the counts of all workers."""
        await self._splits.read()

    def counts(self, name: str) -> dict[str, SideCounts]:
        """Return the counts of each side, over all splits of the name."""
        found: dict[str, SideCounts] = {}
        for member in self._members(name):
            for side, counts in self._splits.counts(member).items():
                found[side] = _sum(found[side], counts) if side in found else counts
        return found

    def _on_change(self, route: str, weights: Mapping[str, int], actor: str, reason: str) -> None:
        name = next((name for name, members in self._groups.items() if route in members), route)
        for listener in self.on_change:
            listener(name, weights, actor, reason)


def _sum(one: SideCounts, two: SideCounts) -> SideCounts:
    numbers = {
        each.name: getattr(one, each.name) + getattr(two, each.name)
        for each in fields(SideCounts)
        if each.name != "latency"
    }
    latency = LatencyHistogram(one.latency)
    latency.merge(LatencyHistogram(two.latency))
    return SideCounts(**numbers, latency=tuple(latency.counts))
