"""Compare two JSON documents by structure, by rules, in bounded time and memory.

Members of objects have no order (RFC 8259 §4); elements of arrays have one, unless a rule says otherwise. Numbers are
compared as doubles, as most clients read them (RFC 8259 §6).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from math import isfinite
from typing import Final, NamedTuple

import orjson

from passerelle.crossing.paths import ANY, Path, Patterns, Positions, fold

MAX_DEPTH: Final = 64
"""Arrays and objects that are nested in one another; documents that are deeper are not compared."""
MAX_VALUES: Final = 50_000
"""The most values of a document; longer ones are not compared."""
MAX_DIFFERENCES: Final = 100
"""Differences that one comparison finds; further ones are not looked for."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Incomparable(Exception):
    """The documents exceed the bounds of a comparison."""


class Kind(enum.Enum):
    """How two responses differ at a path. The value is its name in reports and metrics."""

    STATUS = "status"  # another status code
    FIELD = "field"  # another value of a header field
    BODY = "body"  # other bytes of a body that is not JSON
    MISSING = "missing"  # only the old document has the value
    ADDED = "added"  # only the new document has the value
    TYPE = "type"  # a value of another type
    VALUE = "value"  # another value of the same type
    ORDER = "order"  # the same elements in another order


class Difference(NamedTuple):
    """One difference of two documents. ``old`` and ``new`` are the values; None also stands for an absent value."""

    path: Path
    kind: Kind
    old: Json
    new: Json


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Numbers are equal if they differ by at most ``absolute``, or by at most ``relative`` of the old number."""

    absolute: float = 0.0
    relative: float = 0.0

    def accepts(self, old: float, new: float) -> bool:
        """Return whether the two numbers count as equal."""
        rounding = 1e-12 * max(abs(old), abs(new))  # 1.01 - 1.00 is more than 0.01 in doubles
        return abs(old - new) <= max(self.absolute, self.relative * abs(old)) + rounding


@dataclass(frozen=True, slots=True)
class JsonRules:
    """What counts as equal. Paths are patterns of :mod:`.paths`, split into segments.

    ``ignore``: values that are not compared. ``unordered``: arrays whose order does not matter. ``tolerances``: numbers
    that may differ; the first pattern that matches counts. ``numbers_as_text``: whether ``"1.50"`` equals ``1.5``.
    ``null_is_absent``: whether a member that is null equals one that is absent.
    """

    ignore: tuple[Path, ...] = ()
    unordered: tuple[Path, ...] = ()
    tolerances: tuple[tuple[Path, Tolerance], ...] = ()
    numbers_as_text: bool = False
    null_is_absent: bool = False


class _At(NamedTuple):
    """A place in both documents: the path to report, and the state of the patterns there."""

    path: Path
    ignore: Positions
    unordered: Positions
    tolerance: Positions


class JsonComparer:
    """Compares documents by the same rules. Holds no state between comparisons."""

    __slots__ = ("_ignore", "_rules", "_tolerance", "_unordered")

    def __init__(self, rules: JsonRules) -> None:
        self._rules = rules
        self._ignore = Patterns(rules.ignore)
        self._unordered = Patterns(rules.unordered)
        self._tolerance = Patterns(path for path, _ in rules.tolerances)

    def compare(self, old: Json, new: Json) -> list[Difference]:
        """Return the first MAX_DIFFERENCES differences; none if the documents are equal by the rules.

        :raises Incomparable: if the documents are deeper than MAX_DEPTH or have more than MAX_VALUES values.
        """
        walk = _Walk(self._rules, self._ignore, self._unordered, self._tolerance)
        walk.compare(_At((), self._ignore.start, self._unordered.start, self._tolerance.start), old, new, MAX_DEPTH)
        return walk.found


class _Walk:
    """One comparison."""

    __slots__ = ("_ignore", "_left", "_rules", "_tolerance", "_unordered", "found")

    def __init__(self, rules: JsonRules, ignore: Patterns, unordered: Patterns, tolerance: Patterns) -> None:
        self._rules = rules
        self._ignore = ignore
        self._unordered = unordered
        self._tolerance = tolerance
        self._left = MAX_VALUES
        self.found: list[Difference] = []

    def _add(self, at: _At, kind: Kind, old: Json, new: Json) -> None:
        if len(self.found) < MAX_DIFFERENCES:
            self.found.append(Difference(at.path, kind, old, new))

    def _count(self, depth: int) -> None:
        self._left -= 1
        if depth < 0 or self._left < 0:
            raise Incomparable("too deep" if depth < 0 else "too many values")

    def _step(self, at: _At, segment: str, shown: str) -> _At:
        return _At(
            (*at.path, shown),
            self._ignore.step(at.ignore, segment),
            self._unordered.step(at.unordered, segment),
            self._tolerance.step(at.tolerance, segment),
        )

    def _ignored(self, at: _At) -> bool:
        return bool(at.ignore) and self._ignore.matches(at.ignore) is not None

    def compare(self, at: _At, old: Json, new: Json, depth: int) -> None:
        """Add the differences of two values at the same place; ``depth`` is how many levels may follow."""
        self._count(depth)
        if self._ignored(at):
            return
        if isinstance(old, dict) and isinstance(new, dict):
            self._objects(at, old, new, depth)
        elif isinstance(old, list) and isinstance(new, list):
            self._arrays(at, old, new, depth)
        else:
            self._scalars(at, old, new)

    def _objects(self, at: _At, old: dict[str, Json], new: dict[str, Json], depth: int) -> None:
        absent_is_null = self._rules.null_is_absent
        for name, value in old.items():
            below = self._step(at, name, fold(name))
            if name in new:
                self.compare(below, value, new[name], depth - 1)
            elif not (absent_is_null and value is None) and not self._ignored(below):
                self._add(below, Kind.MISSING, value, None)
        for name, value in new.items():
            if name not in old and not (absent_is_null and value is None):
                below = self._step(at, name, fold(name))
                if not self._ignored(below):
                    self._add(below, Kind.ADDED, None, value)

    def _arrays(self, at: _At, old: list[Json], new: list[Json], depth: int) -> None:
        is_ordered = not self._is_unordered(at)
        before = len(self.found)
        if not is_ordered:
            old, new = self._without_equal(at, old, new, depth)
        for index, (one, other) in enumerate(zip(old, new, strict=False)):
            self.compare(self._step(at, str(index), ANY), one, other, depth - 1)
        if is_ordered and len(old) == len(new) and len(self.found) > before + 1:
            if self._same_elements(at, old, new, depth):
                del self.found[before:]
                self._add(at, Kind.ORDER, old, new)
            return
        below = self._step(at, ANY, ANY)
        if not self._ignored(below):
            for value in old[len(new) :]:
                self._add(below, Kind.MISSING, value, None)
            for value in new[len(old) :]:
                self._add(below, Kind.ADDED, None, value)

    def _is_unordered(self, at: _At) -> bool:
        return bool(at.unordered) and self._unordered.matches(at.unordered) is not None

    def _same_elements(self, at: _At, old: list[Json], new: list[Json], depth: int) -> bool:
        """Return whether the arrays have the same elements, in another order."""
        below = self._step(at, ANY, ANY)
        ones = [self._canonical(below, value, depth - 1) for value in old]
        others = [self._canonical(below, value, depth - 1) for value in new]
        return sorted(ones) == sorted(others)

    def _without_equal(self, at: _At, old: list[Json], new: list[Json], depth: int) -> tuple[list[Json], list[Json]]:
        """Return the elements of each array without an equal one in the other, in an order that pairs similar ones."""
        below = self._step(at, ANY, ANY)
        waiting: dict[bytes, list[Json]] = {}
        for value in old:
            waiting.setdefault(self._canonical(below, value, depth - 1), []).append(value)
        added: list[tuple[bytes, Json]] = []
        for value in new:
            text = self._canonical(below, value, depth - 1)
            if same := waiting.get(text):
                same.pop()
            else:
                added.append((text, value))
        missing = [(text, value) for text, values in waiting.items() for value in values]
        return [value for _, value in sorted(missing, key=_order)], [value for _, value in sorted(added, key=_order)]

    def _canonical(self, at: _At, value: Json, depth: int) -> bytes:
        """Write ``value`` so that values which are equal by the rules, except for tolerances, have the same text."""
        return orjson.dumps(self._plain(at, value, depth), option=orjson.OPT_SORT_KEYS)

    def _plain(self, at: _At, value: Json, depth: int) -> Json:
        self._count(depth)
        if self._ignored(at):
            return None
        if isinstance(value, dict):
            plain: dict[str, Json] = {}
            for name, member in value.items():
                below = self._step(at, name, ANY)
                if self._ignored(below) or (self._rules.null_is_absent and member is None):
                    continue
                plain[name] = self._plain(below, member, depth - 1)
            return plain
        if isinstance(value, list):
            texts = [
                self._plain(self._step(at, str(index), ANY), element, depth - 1) for index, element in enumerate(value)
            ]
            if self._is_unordered(at):
                texts.sort(key=lambda text: orjson.dumps(text, option=orjson.OPT_SORT_KEYS))
            return texts
        number = self._number(value)
        if number is None:
            return value
        # One text for 1, 1.0 and -0.0. Integers without an exact double keep their digits.
        return number if isinstance(number, int) and abs(number) > _EXACT_INTEGERS else float(number) + 0.0

    def _number(self, value: Json) -> int | float | None:
        """Return ``value`` as a number, or None if it does not count as one."""
        if isinstance(value, str) and self._rules.numbers_as_text:
            return _number_of(value)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def _scalars(self, at: _At, old: Json, new: Json) -> None:
        one, other = self._number(old), self._number(new)
        if one is not None and other is not None:
            if one == other:  # exact for integers, too
                return
            number = self._tolerance.matches(at.tolerance) if at.tolerance else None
            if number is None or not self._rules.tolerances[number][1].accepts(one, other):
                self._add(at, Kind.VALUE, old, new)
        elif type_name(old) != type_name(new):
            self._add(at, Kind.TYPE, old, new)
        elif old != new:
            self._add(at, Kind.VALUE, old, new)


_LONGEST_NUMBER: Final = 40  # characters
_EXACT_INTEGERS: Final = 1 << 53


def _number_of(text: str) -> int | float | None:
    """Return the JSON number that ``text`` spells, or None."""
    if len(text) > _LONGEST_NUMBER or text[:1] not in _STARTS or not text[-1:].isdigit():
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, int | float) and isfinite(value) else None


_STARTS: Final = frozenset("-0123456789")


def _order(item: tuple[bytes, Json]) -> tuple[int, float, bytes]:
    """Sort numbers by value, everything else by its text."""
    text, value = item
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, float(value), text
    return 1, 0.0, text


def type_name(value: Json) -> str:
    """Return the JSON type of ``value``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "array" if isinstance(value, list) else "object"
