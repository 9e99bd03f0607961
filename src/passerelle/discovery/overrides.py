"""What was changed at run time of a service's targets, over what the configuration and its sources say.

Each change is of one instance, and holds until they say something else of that instance than when it was made.
"""

from __future__ import annotations

from collections.abc import Iterable

from passerelle.upstream.members import InstanceSpec

Place = tuple[str, int, str]
"""Host, port and zone: what makes a target the one that it is."""


def place_of(spec: InstanceSpec) -> Place:
    """Where ``spec`` is."""
    return spec.host, spec.port, spec.zone


class Adjusted:
    """The changes of one service. ``said`` is each time what the configuration and its sources say now."""

    def __init__(self) -> None:
        self.added: dict[Place, InstanceSpec] = {}
        self.removed: dict[Place, float] = {}  # with the weight that was said of it
        self._weights: dict[Place, tuple[float, float]] = {}  # the one that was said, and the one in its place

    def add(self, spec: InstanceSpec, said: Iterable[InstanceSpec]) -> None:
        """One more; or one of ``said`` that was removed is back."""
        place = place_of(spec)
        if place in map(place_of, said):
            self.removed.pop(place, None)
            self.weigh(place, spec.weight, said)
        else:
            self.added[place] = spec

    def remove(self, place: Place, said: Iterable[InstanceSpec]) -> None:
        """One less."""
        self.added.pop(place, None)
        self._weights.pop(place, None)
        self.removed.update((place, spec.weight) for spec in said if place_of(spec) == place)

    def weigh(self, place: Place, weight: float, said: Iterable[InstanceSpec]) -> None:
        """Another weight."""
        if place in self.added:
            self.added[place] = self.added[place]._replace(weight=weight)
        self._weights.update((place, (spec.weight, weight)) for spec in said if place_of(spec) == place)

    def over(self, said: Iterable[InstanceSpec]) -> list[InstanceSpec]:
        """``said`` with the changes that hold."""
        specs = {place_of(spec): spec for spec in said}
        for place, spec in list(specs.items()):
            before, instead = self._weights.get(place, (None, 0.0))
            if self.removed.get(place) == spec.weight:
                del specs[place]
            elif before == spec.weight:
                specs[place] = spec._replace(weight=instead)
        return [*specs.values(), *(spec for place, spec in self.added.items() if place not in specs)]

    def settle(self, said: Iterable[InstanceSpec]) -> None:
        """Forget the changes that no longer hold."""
        now = {place_of(spec): spec.weight for spec in said}
        self.added = {place: spec for place, spec in self.added.items() if place not in now}
        self.removed = {place: weight for place, weight in self.removed.items() if now.get(place) == weight}
        self._weights = {place: both for place, both in self._weights.items() if now.get(place) == both[0]}
