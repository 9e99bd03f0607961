"""Routes from the paths of a log: segments that are ids become parameters, and many values of one place too.

The paths are a tree whose size is bounded. A segment is an id by its form (a number, a UUID, a long hash, a date, an
address), or because its place has many values. A file such as ``/static/app.css`` belongs to the rest of its folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from passerelle.migration.found_routes import FoundRoute, Variable, to_pattern
from passerelle.routing.paths import MAX_SEGMENTS, PatternError

MOST_NODES: Final = 20_000
"""Most nodes of the tree; beyond, a new segment counts as an id."""
MOST_LITERALS: Final = 30
"""Most values of one place that are taken for names."""
MOST_FIRST: Final = 300
"""Most values of the first place. Further ones are not routes: the catch-all covers them."""
NOT_ROUTES: Final = frozenset({400, 404, 405, 410, 414, 431, 499, 501})
"""Statuses that do not show that the monolith has a route."""

_ID = re.compile(
    rb"[0-9]+"
    rb"|[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"
    rb"|(?=[0-9A-Fa-f]*[0-9])[0-9A-Fa-f]{12,}"
    rb"|(?=[0-9A-Za-z_-]*[0-9])(?=[0-9A-Za-z_-]*[A-Za-z])[0-9A-Za-z_-]{20,}"
    rb"|[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?"
    rb"|[^/@]+(?:@|%40)[^/@]+\.[^/@]+"
    rb"|[A-Za-z]{1,5}[-_]?[0-9]{3,}"
).fullmatch
_FILE = re.compile(
    rb".+\.(?:css|js|mjs|map|png|jpe?g|gif|svg|ico|webp|avif|woff2?|ttf|eot|mp4|webm|pdf|txt|xml)", re.IGNORECASE
).fullmatch
_LONGEST = 200  # octets of a segment that is a name


class _Node:
    """A place in the tree: its literals, its parameter, and the requests by method that end here or below."""

    __slots__ = ("is_folded", "literals", "methods", "parameter", "rest")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.methods: Counter[bytes] = Counter()
        self.rest: Counter[bytes] = Counter()
        self.is_folded = False


class PathTree:
    """The paths of a log, folded."""

    def __init__(self) -> None:
        self._root = _Node()
        self._nodes = 1
        self.not_kept = 0
        """Requests whose first segment came after ``MOST_FIRST`` others."""

    def add(self, method: bytes, path: bytes) -> None:
        """Add the path of a request that the monolith has served."""
        segments = path.split(b"/")[1:]
        node = self._root
        for place, segment in enumerate(segments[:MAX_SEGMENTS]):
            if place and place == len(segments) - 1 and _FILE(segment):
                node.rest[method] += 1
                return
            following = self._child(node, segment, is_first=place == 0)
            if following is None:
                self.not_kept += 1
                return
            node = following
        (node.methods if len(segments) <= MAX_SEGMENTS else node.rest)[method] += 1

    def _child(self, node: _Node, segment: bytes, *, is_first: bool) -> _Node | None:
        found = node.literals.get(segment)
        if found is not None:
            return found
        is_name = len(segment) <= _LONGEST and not _ID(segment) and not node.is_folded
        if segment and is_name and self._nodes < MOST_NODES:
            if len(node.literals) < (MOST_FIRST if is_first else MOST_LITERALS):
                self._nodes += 1
                found = node.literals[segment] = _Node()
                return found
            if is_first:
                return None
            self._fold(node)
        if not segment:
            # The empty segment after the last slash is a literal of its own.
            found = node.literals[segment] = _Node()
            return found
        if node.parameter is None:
            if is_first and self._nodes >= MOST_NODES:
                return None
            self._nodes += 1
            node.parameter = _Node()
        return node.parameter

    def _fold(self, node: _Node) -> None:
        """Make one parameter of all literals of a place."""
        node.is_folded = True
        parameter = node.parameter or _Node()
        node.parameter = parameter
        literals, node.literals = node.literals, {}
        for text, child in literals.items():
            if text:
                self._merge(parameter, child)
            else:
                node.literals[text] = child

    def _merge(self, into: _Node, node: _Node) -> None:
        into.methods += node.methods
        into.rest += node.rest
        for text, child in node.literals.items():
            if text in into.literals:
                self._merge(into.literals[text], child)
            elif not text or (len(into.literals) < MOST_LITERALS and not into.is_folded):
                into.literals[text] = child
            elif into.is_folded:
                assert into.parameter is not None
                self._merge(into.parameter, child)
            else:
                self._fold(into)
                assert into.parameter is not None
                self._merge(into.parameter, child)
        if node.parameter is not None:
            if into.parameter is None:
                into.parameter = node.parameter
            else:
                self._merge(into.parameter, node.parameter)

    def routes(self) -> Iterator[tuple[FoundRoute, int]]:
        """Yield the routes with the number of their requests, each place once."""
        yield from _routes(self._root, [])


def _routes(node: _Node, pieces: list[str | Variable]) -> Iterator[tuple[FoundRoute, int]]:
    """Yield the routes below ``node``; the recursion is at most as deep as a pattern has segments."""
    for methods, last in ((node.methods, None), (node.rest, Variable("path", is_rest=True))):
        if methods:
            whole = [*pieces, "/", last] if last is not None else pieces
            try:
                path, notes = to_pattern(whole)
            except PatternError:
                continue  # a literal that a pattern cannot have: the catch-all covers it
            found = tuple(method.decode() for method in sorted(methods))
            yield FoundRoute(path, found, source="the log", notes=tuple(notes)), methods.total()
    for text, child in node.literals.items():
        yield from _routes(child, [*pieces, "/" + text.decode("ascii")])
    if node.parameter is not None:
        yield from _routes(node.parameter, [*pieces, "/", Variable(_name_after(pieces))])


def _name_after(pieces: list[str | Variable]) -> str:
    """Return the name of a parameter after ``pieces``: ``user_id`` after ``/users``."""
    last = pieces[-1] if pieces else ""
    word = last.rpartition("/")[2] if isinstance(last, str) else ""
    word = re.sub(r"\W+", "_", word, flags=re.ASCII).strip("_").lower()
    if not word or not word[0].isalpha():
        return "id"
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 2:
        word = word[:-1]
    return f"{word}_id"
