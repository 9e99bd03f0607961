"""The rules of one path, and their order of precedence by method and conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from passerelle.routing.conditions import Condition, canonical_text
from passerelle.routing.paths import PARAMETER, Pattern


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One rule of the route table.

    ``host`` is lower case: a name, ``*.suffix`` (with at least one label before the suffix), or None for any host.
    ``methods`` is None for any method; ``GET`` includes ``HEAD``. ``pattern`` is a path such as ``/user/{user_id}``
    (see :class:`Pattern`). ``keeps_slashes``: paths with encoded slashes are allowed. All ``conditions`` must hold.
    """

    host: bytes | None
    methods: frozenset[bytes] | None
    pattern: str
    value: object
    keeps_slashes: bool = False
    conditions: tuple[Condition, ...] = ()
    priority: int = 0


class RouteMatch:
    """Result of a lookup: ``value`` and ``params``, or ``value`` None and the ``allowed`` methods (sorted) for 405.

    ``params`` are raw octets of the canonical path, still percent-encoded. If there are none, the mapping is shared:
    treat it as read-only. ``value`` None and no ``allowed`` methods mean 404.
    """

    __slots__ = ("allowed", "params", "value")

    def __init__(self, value: Any, params: dict[str, bytes], allowed: tuple[bytes, ...] = ()) -> None:
        self.value = value
        self.params = params
        self.allowed = allowed

    def __repr__(self) -> str:
        return f"Match({self.value!r}, {self.params!r}, {self.allowed!r})"


NOT_FOUND = RouteMatch(None, {})
CONDITIONAL = RouteMatch(None, {})
"""The match of a request whose route depends on conditions."""


class Entry:
    """A rule at the end of its path, with the positions of its parameters in the request's segments."""

    __slots__ = ("match", "names", "rest", "rule", "value")

    def __init__(self, rule: RouteRule, value: object, pattern: Pattern) -> None:
        self.rule = rule
        self.value = value
        self.names = tuple((s.text, i) for i, s in enumerate(pattern.segments, 1) if s.kind == PARAMETER)
        last = pattern.segments[-1]
        self.rest = (last.text, len(pattern.segments)) if last.kind > PARAMETER else None
        self.match = RouteMatch(value, {})

    def filled(self, segments: list[bytes]) -> RouteMatch:
        """Return the match for a path with these segments after an empty first one."""
        params = {}
        for name, place in self.names:
            params[name] = segments[place]
        if self.rest is not None:
            name, place = self.rest
            params[name] = b"/".join(segments[place:])
        return RouteMatch(self.value, params)


class Undecided(Entry):
    """Stands for several entries, among which conditions decide."""

    __slots__ = ()

    def __init__(self, rule: RouteRule) -> None:
        super().__init__(rule, None, Pattern.parse(rule.pattern))
        self.match = CONDITIONAL

    def filled(self, segments: list[bytes]) -> RouteMatch:
        """See :meth:`Entry.filled`."""
        return CONDITIONAL


class RouteLeaf:
    """The rules of one path: by method, and the rule for any other method.

    An entry without a value stands for several, among which conditions decide: those of ``candidates``, in order.
    """

    __slots__ = ("_by_method", "_entries", "any", "methods")

    def __init__(self) -> None:
        self.methods: dict[bytes, Entry] = {}
        self.any: Entry | None = None
        self._entries: list[Entry] = []
        self._by_method: dict[bytes, tuple[Entry, ...]] = {}

    def add(self, rule: RouteRule, pattern: Pattern) -> None:
        """Add a rule; raise ``ValueError`` if another one matches the same requests."""
        for other in self._entries:
            if set(other.rule.conditions) == set(rule.conditions):
                both = other.rule.methods if rule.methods is None else rule.methods & (other.rule.methods or set())
                if other.rule.methods is None and rule.methods is None:
                    raise ValueError(f"two rules for {rule.pattern}")
                if other.rule.methods is not None and rule.methods is not None and both:
                    raise ValueError(f"two rules for {min(both).decode()} {rule.pattern}")
        self._entries.append(Entry(rule, rule.value, pattern))

    def seal(self) -> bool:
        """Select the entry of each method; return whether conditions matter."""
        named = {method for entry in self._entries for method in entry.rule.methods or ()}
        if b"GET" in named:
            named.add(b"HEAD")  # RFC 9110 §9.3.2
        self._by_method = {method: self._ordered(method) for method in (b"", *sorted(named))}
        entries = {method: _decided(found) for method, found in self._by_method.items()}
        self.any = entries.pop(b"")  # no rule names it
        self.methods = {method: entry for method, entry in entries.items() if entry is not None}
        return any(entry.rule.conditions for entry in self._entries)

    def candidates(self, method: bytes) -> tuple[Entry, ...]:
        """Return the entries for ``method`` in order, up to the first one without conditions."""
        return self._by_method.get(method) or self._by_method[b""]

    def _ordered(self, method: bytes) -> tuple[Entry, ...]:
        ranked = [
            ((-entry.rule.priority, rank, -len(entry.rule.conditions), canonical_text(entry.rule.conditions)), number)
            for number, entry in enumerate(self._entries)
            if (rank := _rank(entry.rule.methods, method)) is not None
        ]
        found: list[Entry] = []
        for _, number in sorted(ranked):
            found.append(self._entries[number])
            if not found[-1].rule.conditions:
                break
        return tuple(found)


def _decided(candidates: tuple[Entry, ...]) -> Entry | None:
    """Return the entry that stands for ``candidates``."""
    if not candidates or not candidates[0].rule.conditions:
        return candidates[0] if candidates else None
    return Undecided(candidates[0].rule)


def _rank(methods: frozenset[bytes] | None, method: bytes) -> int | None:
    """Return how specific ``methods`` are about ``method``, the lowest number first; None if they lack it."""
    if methods is None:
        return 2
    return 0 if method in methods else 1 if method == b"HEAD" and b"GET" in methods else None


def specificity(rule: RouteRule) -> tuple[object, ...]:
    """Return a sort key: of two rules that match a request, the one with the lower key wins."""
    host = rule.host
    if host is None:
        place: tuple[int, int, bytes] = (2, 0, b"")
    elif host.startswith(b"*."):
        place = (1, -host.count(b"."), host)
    else:
        place = (0, 0, host)
    pattern = Pattern.parse(rule.pattern)
    segments = tuple(segment.rank for segment in pattern.segments)
    more = (rule.methods is None, -len(rule.conditions), sorted(rule.methods or ()))
    return (place, segments, -rule.priority, *more, canonical_text(rule.conditions))
