"""What the comparisons of a route found, in bounded memory and without the values themselves.

Some differences are noise: the time of a response, a request id, an order that the service does not promise. For some
requests the old side is asked twice, and what differs between its two responses is noise. A difference at a path counts
only if the new side differs there clearly more often than the old side does from itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from passerelle.crossing.compare_json import Difference, Json, Kind, type_name
from passerelle.crossing.evidence import wilson
from passerelle.crossing.paths import ANY, Path, pointer

MOST_PLACES: Final = 200
"""Places (paths with a kind) that are counted one by one; further ones are counted together."""
MOST_SETS: Final = 1000
"""Sets of places that differed together that are counted one by one."""
MOST_EXAMPLES: Final = 3
MIN_CONTROLS: Final = 10
"""Requests for which the old side was asked twice, before the noise counts as known."""

Place = tuple[Path, Kind]
_FURTHER: Final[Place] = ((ANY, ANY, ANY), Kind.VALUE)


@dataclass(frozen=True, slots=True)
class Example:
    """One difference without its values: their types and sizes, and keyed hashes that tell equal values apart."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Finding:
    """How often responses differed at a place, with the bounds of the rate at 95 %."""

    path: str
    kind: Kind
    times: int
    rate: tuple[float, float]
    control_times: int
    is_noise: bool
    examples: tuple[Example, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return {
            "path": self.path,
            "kind": self.kind.value,
            "times": self.times,
            "rate": [round(bound, 6) for bound in self.rate],
            "control_times": self.control_times,
            "noise": self.is_noise,
            "examples": [{"old": example.old, "new": example.new} for example in self.examples],
        }


class Ledger:
    """Counts the differences of one route. ``key`` is the secret of the hashes, new in each run."""

    __slots__ = ("_controls", "_examples", "_key", "_places", "_sets", "comparisons", "controls", "incomparable")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.comparisons = 0
        self.controls = 0
        self.incomparable: Counter[str] = Counter()
        self._places: Counter[Place] = Counter()
        self._controls: Counter[Place] = Counter()
        self._sets: Counter[frozenset[Place]] = Counter()
        self._examples: dict[Place, list[Example]] = {}

    def add(self, differences: Sequence[Difference]) -> None:
        """Count a comparison of the old side's response with the new side's."""
        self.comparisons += 1
        places = set()
        for difference in differences:
            place = self._bounded((difference.path, difference.kind), self._places)
            places.add(place)
            examples = self._examples.setdefault(place, [])
            if len(examples) < MOST_EXAMPLES:
                examples.append(Example(self.describe(difference.old), self.describe(difference.new)))
        self._places.update(places)
        if places:
            self._add_set(frozenset(places), 1)

    def add_control(self, differences: Sequence[Difference]) -> None:
        """Count a comparison of two responses of the old side to the same request."""
        self.controls += 1
        self._controls.update(
            {self._bounded((difference.path, difference.kind), self._controls) for difference in differences}
        )

    def add_incomparable(self, reason: str) -> None:
        """Count two responses that could not be compared. ``reason`` is one of a few fixed texts."""
        self.incomparable[reason] += 1

    def _add_set(self, together: frozenset[Place], times: int) -> None:
        if together not in self._sets and len(self._sets) >= MOST_SETS:
            together = frozenset((_FURTHER,))
        self._sets[together] += times

    @staticmethod
    def _bounded(place: Place, known: Counter[Place]) -> Place:
        return place if place in known or len(known) < MOST_PLACES else _FURTHER

    def is_noise(self, place: Place) -> bool:
        """Return whether the old side differs from itself at ``place`` about as often as the new side does."""
        times = self._controls[place]
        if not times:
            return False
        noise = wilson(times, self.controls)
        return wilson(self._places[place], self.comparisons)[0] <= noise[1]

    @property
    def is_settled(self) -> bool:
        """Whether there were enough controls to know the noise."""
        return self.controls >= MIN_CONTROLS

    @property
    def differing(self) -> int:
        """The number of comparisons with a difference that is not noise."""
        noise = {place for place in self._places if self.is_noise(place)}
        return sum(times for places, times in self._sets.items() if places - noise)

    def findings(self) -> list[Finding]:
        """Return what differed: first what counts, then noise, each from the most frequent on."""
        found = [
            Finding(
                _written(place),
                place[1],
                times,
                wilson(times, self.comparisons),
                self._controls[place],
                self.is_noise(place),
                tuple(self._examples.get(place, ())),
            )
            for place, times in self._places.items()
        ]
        return sorted(found, key=lambda each: (each.is_noise, -each.times, each.path, each.kind.value))

    def to_json(self) -> dict[str, Any]:
        """Return all counts as a JSON object, which :meth:`merge` reads."""
        places = list({*self._places, *self._controls, *(place for places in self._sets for place in places)})
        number = {place: index for index, place in enumerate(places)}
        return {
            "comparisons": self.comparisons,
            "controls": self.controls,
            "incomparable": dict(self.incomparable),
            "places": [
                {
                    "path": list(place[0]),
                    "kind": place[1].value,
                    "times": self._places[place],
                    "control_times": self._controls[place],
                    "examples": [[example.old, example.new] for example in self._examples.get(place, ())],
                }
                for place in places
            ],
            "sets": [[sorted(number[place] for place in together), times] for together, times in self._sets.items()],
        }

    def merge(self, counts: dict[str, Any]) -> None:
        """Add the counts of another ledger, as its :meth:`to_json` returned them. The bounds hold for the sum."""
        self.comparisons += counts["comparisons"]
        self.controls += counts["controls"]
        self.incomparable.update(counts["incomparable"])
        places: list[Place] = []
        for each in counts["places"]:
            path, kind = tuple(each["path"]), Kind(each["kind"])
            place = self._bounded((path, kind), self._places)
            places.append(place)
            if each["times"]:
                self._places[place] += each["times"]
            if each["control_times"]:
                self._controls[self._bounded((path, kind), self._controls)] += each["control_times"]
            examples = self._examples.setdefault(place, [])
            examples += [Example(old, new) for old, new in each["examples"][: MOST_EXAMPLES - len(examples)]]
        for numbers, times in counts["sets"]:
            self._add_set(frozenset(places[number] for number in numbers), times)

    def describe(self, value: Json) -> str:
        """Describe ``value`` by its type, its size, and a keyed hash. Null, true, false and absent are themselves."""
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        name = type_name(value)
        size = f" of {len(value)}" if isinstance(value, str | list | dict) else ""
        digest = hashlib.blake2s(repr(value).encode("utf-8", "surrogatepass"), key=self._key, digest_size=4).hexdigest()
        return f"{name}{size} #{digest}"


def _written(place: Place) -> str:
    path, kind = place
    if place == _FURTHER:
        return "(further paths)"
    if kind is Kind.FIELD:
        return path[0]
    return pointer(path)
