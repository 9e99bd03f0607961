"""Changes of a service's targets at run time, which override the configuration and discovery.

Each change concerns one target. It applies until the configuration or discovery specifies something else for that
target than at the time of the change.
"""

from __future__ import annotations

from collections.abc import Iterable

from passerelle.upstream.members import InstanceSpec

TargetKey = tuple[str, int, str]
"""Host, port and zone, which identify a target of a service."""


def target_key(spec: InstanceSpec) -> TargetKey:
    """Return the key of ``spec``."""
    return spec.host, spec.port, spec.zone


class Overrides:
    """The changes of one service. ``declared`` are the current targets of the configuration and discovery."""

    def __init__(self) -> None:
        self.added: dict[TargetKey, InstanceSpec] = {}
        self.removed: dict[TargetKey, float] = {}  # with the declared weight at that time
        self._weights: dict[
            TargetKey, tuple[float, float]
        ] = {}  # the declared weight at that time, and the one that replaces it

    def add(self, spec: InstanceSpec, declared: Iterable[InstanceSpec]) -> None:
        """Add a target, or restore one of ``declared`` that was removed."""
        key = target_key(spec)
        if key in map(target_key, declared):
            self.removed.pop(key, None)
            self.set_weight(key, spec.weight, declared)
        else:
            self.added[key] = spec

    def remove(self, key: TargetKey, declared: Iterable[InstanceSpec]) -> None:
        """Remove a target."""
        self.added.pop(key, None)
        self._weights.pop(key, None)
        self.removed.update((key, spec.weight) for spec in declared if target_key(spec) == key)

    def set_weight(self, key: TargetKey, weight: float, declared: Iterable[InstanceSpec]) -> None:
        """Set the weight of a target."""
        if key in self.added:
            self.added[key] = self.added[key]._replace(weight=weight)
        self._weights.update((key, (spec.weight, weight)) for spec in declared if target_key(spec) == key)

    def apply_to(self, declared: Iterable[InstanceSpec]) -> list[InstanceSpec]:
        """Return ``declared`` with the changes that apply."""
        specs = {target_key(spec): spec for spec in declared}
        for key, spec in list(specs.items()):
            before, weight = self._weights.get(key, (None, 0.0))
            if self.removed.get(key) == spec.weight:
                del specs[key]
            elif before == spec.weight:
                specs[key] = spec._replace(weight=weight)
        return [*specs.values(), *(spec for key, spec in self.added.items() if key not in specs)]

    def drop_obsolete(self, declared: Iterable[InstanceSpec]) -> None:
        """Forget the changes that no longer apply."""
        now = {target_key(spec): spec.weight for spec in declared}
        self.added = {key: spec for key, spec in self.added.items() if key not in now}
        self.removed = {key: weight for key, weight in self.removed.items() if now.get(key) == weight}
        self._weights = {key: weights for key, weights in self._weights.items() if now.get(key) == weights[0]}
