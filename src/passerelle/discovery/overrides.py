"""What was changed at run time of a service's targets, over what the configuration and its sources say.

Each change is of one instance, and holds until they say something else of that instance than when it was made.
"""

from __future__ import annotations

from collections.abc import Iterable

from passerelle.upstream.members import InstanceSpec

TargetKey = tuple[str, int, str]
"""Host, port and zone: what makes a target the one that it is."""


def target_key(spec: InstanceSpec) -> TargetKey:
    """Where ``spec`` is."""
    return spec.host, spec.port, spec.zone


class Overrides:
    """The changes of one service. ``declared`` is each time what the configuration and its sources say now."""

    def __init__(self) -> None:
        self.added: dict[TargetKey, InstanceSpec] = {}
        self.removed: dict[TargetKey, float] = {}  # with the weight that was said of it
        self._weights: dict[TargetKey, tuple[float, float]] = {}  # the one that was said, and the one in its place

    def add(self, spec: InstanceSpec, declared: Iterable[InstanceSpec]) -> None:
        """One more; or one of ``declared`` that was removed is back."""
        place = target_key(spec)
        if place in map(target_key, declared):
            self.removed.pop(place, None)
            self.set_weight(place, spec.weight, declared)
        else:
            self.added[place] = spec

    def remove(self, place: TargetKey, declared: Iterable[InstanceSpec]) -> None:
        """One less."""
        self.added.pop(place, None)
        self._weights.pop(place, None)
        self.removed.update((place, spec.weight) for spec in declared if target_key(spec) == place)

    def set_weight(self, place: TargetKey, weight: float, declared: Iterable[InstanceSpec]) -> None:
        """Another weight."""
        if place in self.added:
            self.added[place] = self.added[place]._replace(weight=weight)
        self._weights.update((place, (spec.weight, weight)) for spec in declared if target_key(spec) == place)

    def apply_to(self, declared: Iterable[InstanceSpec]) -> list[InstanceSpec]:
        """``declared`` with the changes that hold."""
        specs = {target_key(spec): spec for spec in declared}
        for place, spec in list(specs.items()):
            before, instead = self._weights.get(place, (None, 0.0))
            if self.removed.get(place) == spec.weight:
                del specs[place]
            elif before == spec.weight:
                specs[place] = spec._replace(weight=instead)
        return [*specs.values(), *(spec for place, spec in self.added.items() if place not in specs)]

    def drop_obsolete(self, declared: Iterable[InstanceSpec]) -> None:
        """Forget the changes that no longer hold."""
        now = {target_key(spec): spec.weight for spec in declared}
        self.added = {place: spec for place, spec in self.added.items() if place not in now}
        self.removed = {place: weight for place, weight in self.removed.items() if now.get(place) == weight}
        self._weights = {place: both for place, both in self._weights.items() if now.get(place) == both[0]}
