"""The router: host x path x method to a value, by specificity, never by the order of the file.

Of all rules that match a request the most specific one wins. Compared are, in this order:

1. the host: an exact name, then the longest ``*.suffix``, then no host;
2. the path, segment by segment from the left: a literal, then ``{name}``, then ``{name*}``;
3. the method: named, then all.

Only a rule that matches in all three is a candidate, so a rule for ``POST`` never hides another one for ``GET``. Fully
literal paths are one dictionary lookup; the others walk a trie of dictionaries whose worst case is computed when the
table is built and refused beyond :data:`MAX_STEPS`. The cost of a lookup does not depend on the number of rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from passerelle.routing.paths import LITERAL, PARAMETER, Pattern, PatternError, Template, canonical_path

__all__ = ["Pattern", "PatternError", "RouteMatch", "RouteRule", "Router", "Template", "canonical_path", "normal_host"]

MAX_STEPS = 1000
"""The most trie nodes that one lookup may visit, whatever the path."""
MAX_SEEN = 1024
"""How many spellings of hosts a router remembers."""
MAX_HOST = 255
"""The longest host that is remembered, in octets."""


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One line of the route table.

    ``host`` is lower case: a name, ``*.suffix`` (one label or more before it), or None for all. ``methods`` is None
    for all; ``GET`` brings ``HEAD`` with it. ``pattern`` is a path such as ``/user/{user_id}`` (see :class:`Pattern`).
    """

    host: bytes | None
    methods: frozenset[bytes] | None
    pattern: str
    value: object


class RouteMatch:
    """What a lookup found: ``value`` and ``params``; or ``value`` None, and for 405 the ``allowed`` methods (sorted).

    ``params`` are raw: octets of the canonical path, still percent-encoded. Without parameters the mapping is shared:
    treat it as read-only. ``value`` None with ``allowed`` empty is 404.
    """

    __slots__ = ("allowed", "params", "value")

    def __init__(self, value: Any, params: dict[str, bytes], allowed: tuple[bytes, ...] = ()) -> None:
        self.value = value
        self.params = params
        self.allowed = allowed

    def __repr__(self) -> str:
        return f"Match({self.value!r}, {self.params!r}, {self.allowed!r})"


NOT_FOUND = RouteMatch(None, {})


class _Entry:
    """A rule at the end of its path: where its parameters stand among the request's segments."""

    __slots__ = ("match", "names", "rest", "value")

    def __init__(self, value: object, pattern: Pattern) -> None:
        self.value = value
        self.names = tuple((s.text, i) for i, s in enumerate(pattern.segments, 1) if s.kind == PARAMETER)
        last = pattern.segments[-1]
        self.rest = (last.text, len(pattern.segments)) if last.kind > PARAMETER else None
        self.match = RouteMatch(value, {})


class _RouteLeaf:
    """The rules of one path: by method, and the one for every other method."""

    __slots__ = ("any", "methods")

    def __init__(self) -> None:
        self.methods: dict[bytes, _Entry] = {}
        self.any: _Entry | None = None

    def add(self, rule: RouteRule, entry: _Entry) -> None:
        if rule.methods is None:
            if self.any is not None:
                raise ValueError(f"two rules for {rule.pattern}")
            self.any = entry
            return
        for method in rule.methods:
            if method in self.methods:
                raise ValueError(f"two rules for {method.decode()} {rule.pattern}")
            self.methods[method] = entry


class _TrieNode:
    """A place in the trie: what may come next, and what ends here."""

    __slots__ = ("leaf", "literals", "param", "rest")

    def __init__(self) -> None:
        self.literals: dict[bytes, _TrieNode] = {}
        self.param: _TrieNode | None = None
        self.leaf: _RouteLeaf | None = None
        self.rest: _RouteLeaf | None = None


class _Table:
    """All rules of one host."""

    __slots__ = ("leaves", "root", "splits", "static")

    def __init__(self) -> None:
        self.static: dict[bytes, _RouteLeaf] = {}
        self.root = _TrieNode()
        self.splits = 1
        self.leaves: list[_RouteLeaf] = []

    def add(self, rule: RouteRule) -> None:
        pattern = Pattern.parse(rule.pattern)
        self._leaf(pattern).add(rule, _Entry(rule.value, pattern))

    def _leaf(self, pattern: Pattern) -> _RouteLeaf:
        if not pattern.names:
            leaf = self.static.get(str(pattern).encode("ascii"))
            if leaf is None:
                leaf = self.static[str(pattern).encode("ascii")] = self._new_leaf()
            return leaf
        # One more split than the deepest pattern has segments: what is deeper stays in one piece and matches nothing.
        self.splits = max(self.splits, len(pattern.segments) + 1)
        node = self.root
        for segment in pattern.segments:
            if segment.kind == LITERAL:
                node = node.literals.setdefault(segment.text.encode("ascii"), _TrieNode())
            elif segment.kind == PARAMETER:
                if node.param is None:
                    node.param = _TrieNode()
                node = node.param
            else:
                if node.rest is None:
                    node.rest = self._new_leaf()
                return node.rest
        if node.leaf is None:
            node.leaf = self._new_leaf()
        return node.leaf

    def _new_leaf(self) -> _RouteLeaf:
        leaf = _RouteLeaf()
        self.leaves.append(leaf)
        return leaf

    def seal(self) -> None:
        """Give HEAD to what has GET (RFC 9110 §9.3.2), and refuse a table whose lookups could take too long."""
        for leaf in self.leaves:
            if b"GET" in leaf.methods:
                leaf.methods.setdefault(b"HEAD", leaf.methods[b"GET"])
        steps = _worst_case(self.root)
        if steps > MAX_STEPS:
            raise ValueError(
                f"a lookup could take {steps} steps: too many literals beside parameters at too many levels"
            )


def _worst_case(node: _TrieNode) -> int:
    """The most nodes that one lookup below ``node`` can visit: of its literals at most one fits, and the parameter."""
    literals = max(map(_worst_case, node.literals.values()), default=0)
    return 1 + literals + (_worst_case(node.param) if node.param is not None else 0)


def normal_host(host: bytes) -> bytes:
    """The host of a ``Host`` field or authority: lower case, without port and trailing dot (RFC 3986 §3.2.2)."""
    host = host.lower()
    if not host.endswith(b"]"):
        name, colon, port = host.rpartition(b":")
        if colon and (port.isdigit() or not port):
            host = name
    return host[:-1] if host.endswith(b".") else host


class Router:
    """The compiled route table. It does not change once built: a reload builds another and swaps it."""

    __slots__ = ("_by_host", "_chains", "_labels", "_open", "_seen", "_suffixes")

    def __init__(self, rules: Iterable[RouteRule]) -> None:
        """Compile ``rules``. ``ValueError`` for a bad pattern, a duplicate, or a table too ambiguous to be fast."""
        tables: dict[bytes | None, _Table] = {None: _Table()}
        for rule in rules:
            tables.setdefault(rule.host, _Table()).add(rule)
        for table in tables.values():
            table.seal()
        everywhere: tuple[_Table, ...] = (tables.pop(None),)
        wildcards = {host[2:]: table for host, table in tables.items() if host is not None and host.startswith(b"*.")}
        # A name's chain: its own table, then those of the wildcards above it from the longest on, then the one for all.
        self._suffixes: dict[bytes, tuple[_Table, ...]] = {
            suffix: (table, *_wildcards_above(suffix, wildcards), *everywhere) for suffix, table in wildcards.items()
        }
        self._chains: dict[bytes, tuple[_Table, ...]] = {
            host: (table, *_wildcards_above(host, wildcards), *everywhere)
            for host, table in tables.items()
            if host is not None and not host.startswith(b"*.")
        }
        self._open = everywhere
        self._labels = max((suffix.count(b".") + 1 for suffix in wildcards), default=0)
        self._by_host = bool(tables)
        self._seen: dict[bytes, tuple[_Table, ...]] = {}

    def match(self, host: bytes, method: bytes, path: bytes) -> RouteMatch:
        """Find the rule for a request.

        ``host`` is the authority as it came (any case, with or without port); ``path`` is canonical, without query.
        """
        chain = self._open
        if self._by_host:
            chain = self._seen.get(host) or self._chain(host)
        for table in chain:
            leaf = table.static.get(path)
            if leaf is not None:
                entry = leaf.methods.get(method) or leaf.any
                if entry is not None:
                    return entry.match
            found = _walk(table.root, path.split(b"/", table.splits), method, None)
            if found is not None:
                return found
        return self._refusal(chain, path)

    def _refusal(self, chain: tuple[_Table, ...], path: bytes) -> RouteMatch:
        """405 with every method that some rule would take at this host and path (RFC 9110 §15.5.6), or 404."""
        allowed: set[bytes] = set()
        for table in chain:
            leaf = table.static.get(path)
            if leaf is not None:
                allowed.update(leaf.methods)
            # No method is empty, so no rule takes it and all of them are seen.
            _walk(table.root, path.split(b"/", table.splits), b"", allowed)
        return RouteMatch(None, {}, tuple(sorted(allowed))) if allowed else NOT_FOUND

    def _chain(self, host: bytes) -> tuple[_Table, ...]:
        """The tables to ask for ``host``, from the most specific on."""
        name = normal_host(host)
        chain = self._chains.get(name) or self._suffix_chain(name)
        # Remembered as it was written, which spares half a microsecond; bounded, since clients choose what stands here.
        if len(host) <= MAX_HOST:
            if len(self._seen) >= MAX_SEEN:
                self._seen.clear()
            self._seen[host] = chain
        return chain

    def _suffix_chain(self, name: bytes) -> tuple[_Table, ...]:
        """The chain of the longest ``*.suffix`` that covers ``name``, or the one for all hosts."""
        # Only as many labels as the longest suffix has are looked at: a long Host costs no more than a short one.
        labels = name.split(b".")
        for start in range(max(1, len(labels) - self._labels), len(labels)):
            chain = self._suffixes.get(b".".join(labels[start:]))
            if chain is not None:
                return chain
        return self._open


def _walk(node: _TrieNode, segments: list[bytes], method: bytes, refused: set[bytes] | None) -> RouteMatch | None:
    """Search the trie from its root, the most specific way first.

    ``segments`` are those of the path behind an empty first one. A node is reached by one way only, so no node is
    visited twice. With ``refused``, the methods of leaves that do not take ``method`` are added to it.
    """
    count = len(segments)
    if count < 2 or segments[0]:
        return None
    index = 1
    # Ways left aside, the nearest last: a leaf, or a node and the segment to go on with.
    others: list[tuple[_TrieNode, int, _RouteLeaf | None]] | None = None
    while True:
        leaf: _RouteLeaf | None = None
        if index < count:
            segment = segments[index]
            following = node.literals.get(segment)
            if node.rest is not None:
                others = others or []
                others.append((node, index, node.rest))
            index += 1
            if segment:
                if following is None:
                    following = node.param
                elif node.param is not None:
                    others = others or []
                    others.append((node.param, index, None))
            if following is not None:
                node = following
                continue
        else:
            leaf = node.leaf
            if node.rest is not None:
                others = others or []
                others.append((node, index, node.rest))
        while leaf is None or (entry := leaf.methods.get(method) or leaf.any) is None:
            if refused is not None and leaf is not None:
                refused.update(leaf.methods)
            if not others:
                return None
            node, index, leaf = others.pop()
            if leaf is None:
                break
        else:
            params = {}
            for name, place in entry.names:
                params[name] = segments[place]
            if entry.rest is not None:
                name, place = entry.rest
                params[name] = b"/".join(segments[place:])
            return RouteMatch(entry.value, params)


def _wildcards_above(host: bytes, wildcards: dict[bytes, _Table]) -> Sequence[_Table]:
    """The tables of the wildcards that cover ``host``, from the longest suffix on."""
    labels = host.split(b".")
    suffixes = (b".".join(labels[start:]) for start in range(1, len(labels)))
    return [wildcards[suffix] for suffix in suffixes if suffix in wildcards]


def specificity(rule: RouteRule) -> tuple[object, ...]:
    """A sort key: of two rules that match one request, the one with the lesser key wins."""
    host = rule.host
    if host is None:
        place: tuple[int, int, bytes] = (2, 0, b"")
    elif host.startswith(b"*."):
        place = (1, -host.count(b"."), host)
    else:
        place = (0, 0, host)
    pattern = Pattern.parse(rule.pattern)
    # A parameter's name decides nothing; a literal's text only puts the table into an order that is easy to read.
    segments = tuple((s.kind, s.text if s.kind == LITERAL else "") for s in pattern.segments)
    return (place, segments, rule.methods is None, sorted(rule.methods or ()))
