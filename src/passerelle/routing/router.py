"""The router: maps host, path and method to a value, by specificity, independent of the order of rules.

Of all rules that match a request, the most specific one wins. These are compared in turn:

1. the host: an exact name, then the longest ``*.suffix``, then no host;
2. the path, segment by segment from the left: a literal, then ``{name:constraint}`` (the narrower one first), then
   ``{name}``, then ``{name*}``;
3. the priority, the highest first;
4. the method: named, then any;
5. the number of conditions, the most first.

Only a rule that matches in all of them is a candidate, so a rule for ``POST`` never hides another one for ``GET``. A
fully literal path takes one dictionary lookup. All others walk a trie of dictionaries; its worst case is computed when
the table is compiled, and a table beyond :data:`MAX_STEPS` is refused. The cost of a lookup does not depend on the
number of rules. Most paths end with one or two parameters after literals, and :meth:`Router.match_usual` finds these by
the literals.

Conditions need more of a request than its host, path and method. :meth:`Router.match` and :meth:`Router.match_usual`
return :data:`CONDITIONAL` where a rule with conditions could be the most specific; :meth:`Router.matches` then yields
the candidates in order, for the caller to judge. All other lookups are the same as without such rules.

The file is longer than 400 lines because compiling the table and both ways of searching it are about one structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from passerelle.routing.conditions import Condition
from passerelle.routing.linear_pattern import LinearPattern
from passerelle.routing.paths import (
    LITERAL,
    PARAMETER,
    EncodedSlashError,
    Pattern,
    PatternError,
    Template,
    canonical_path,
)
from passerelle.routing.rules import CONDITIONAL, NOT_FOUND, RouteLeaf, RouteMatch, RouteRule, specificity

__all__ = [
    "CONDITIONAL",
    "NOT_FOUND",
    "EncodedSlashError",
    "Pattern",
    "PatternError",
    "RouteMatch",
    "RouteRule",
    "Router",
    "Template",
    "canonical_path",
    "normal_host",
    "specificity",
]

MAX_STEPS = 1000
"""Maximum number of trie nodes that one lookup may visit."""
MAX_CACHED_HOSTS = 1024
"""Maximum number of host spellings that a router caches."""
MAX_HOST = 255
"""Maximum length of a cached host, in octets."""


class _TrieNode:
    """A node of the trie: its children, and the rules that end here.

    ``constrained`` are the children for parameters with a constraint, the narrowest first.
    """

    __slots__ = ("constrained", "leaf", "literals", "param", "rest")

    def __init__(self) -> None:
        self.literals: dict[bytes, _TrieNode] = {}
        self.constrained: list[tuple[LinearPattern, _TrieNode]] = []
        self.param: _TrieNode | None = None
        self.leaf: RouteLeaf | None = None
        self.rest: RouteLeaf | None = None


class _Table:
    """All rules of one host."""

    __slots__ = ("leaves", "literals", "pairs", "root", "singles", "splits", "static", "walk")

    def __init__(self) -> None:
        self.static: dict[bytes, RouteLeaf] = {}
        # By their literals, the rules that have nothing else, or end with one parameter, or with two, where no rule
        # with a further literal or a rest is more specific. Literals with encoded slashes are left out: whether they
        # are allowed has to be checked.
        self.literals: dict[bytes, RouteLeaf] = {}
        self.singles: dict[bytes, RouteLeaf] = {}
        self.pairs: dict[bytes, RouteLeaf] = {}
        self.root = _TrieNode()
        self.splits = 1
        self.leaves: list[RouteLeaf] = []
        self.walk = _walk

    def add(self, rule: RouteRule) -> None:
        pattern = Pattern.parse(rule.pattern)
        self._leaf(pattern).add(rule, pattern)

    def _leaf(self, pattern: Pattern) -> RouteLeaf:
        if not pattern.names:
            leaf = self.static.get(str(pattern).encode("ascii"))
            if leaf is None:
                leaf = self.static[str(pattern).encode("ascii")] = self._new_leaf()
            return leaf
        # One more split than the deepest pattern has segments: what is deeper stays in one piece and does not match.
        self.splits = max(self.splits, len(pattern.segments) + 1)
        node = self.root
        for segment in pattern.segments:
            if segment.kind == LITERAL:
                node = node.literals.setdefault(segment.text.encode("ascii"), _TrieNode())
            elif segment.kind == PARAMETER and segment.pattern is not None:
                node = _constrained_child(node, segment.pattern)
                self.walk = _walk_constrained
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

    def _new_leaf(self) -> RouteLeaf:
        leaf = RouteLeaf()
        self.leaves.append(leaf)
        return leaf

    def seal(self) -> bool:
        """Decide which entry each method gets, and refuse a table with too slow lookups.

        Return whether any rule has conditions.
        """
        conditional = sum(leaf.seal() for leaf in self.leaves) > 0
        self.literals = {path: leaf for path, leaf in self.static.items() if b"%2F" not in path}
        self._find_usual(self.root, b"")
        steps = _worst_case(self.root)
        if steps > MAX_STEPS:
            raise ValueError(f"a lookup could take {steps} steps: too many levels have literals next to parameters")
        return conditional

    def _find_usual(self, node: _TrieNode, literals: bytes) -> None:
        """Fill ``singles`` and ``pairs`` for the ``node`` of the path ``literals``, and below it."""
        one = node.param if not node.constrained else None
        if one is not None and one.leaf is not None and not any(child.rest for child in node.literals.values()):
            self.singles[literals] = one.leaf
        two = one.param if one is not None and not (one.literals or one.constrained or node.literals) else None
        if two is not None and two.leaf is not None:
            self.pairs[literals] = two.leaf
        for text, child in node.literals.items():
            if b"%2F" not in text:
                self._find_usual(child, b"%b/%b" % (literals, text))


def _worst_case(node: _TrieNode) -> int:
    """Return the maximum number of nodes that one lookup below ``node`` can visit.

    At each node, at most one literal matches, and all parameters.
    """
    literals = max(map(_worst_case, node.literals.values()), default=0)
    literals += sum(_worst_case(child) for _, child in node.constrained)
    return 1 + literals + (_worst_case(node.param) if node.param is not None else 0)


def _constrained_child(node: _TrieNode, pattern: LinearPattern) -> _TrieNode:
    """Return the child of ``node`` for ``pattern``, added where it belongs."""
    for other, child in node.constrained:
        if other.text == pattern.text:
            return child
        if pattern.overlaps(other) and not _is_narrower(pattern, other) and not _is_narrower(other, pattern):
            raise ValueError(
                f"a segment can match both {other.text!r} and {pattern.text!r}, and neither is part of the other: "
                "use the same pattern, or two without a common value"
            )
    child = _TrieNode()
    node.constrained.append((pattern, child))
    node.constrained.sort(key=lambda pair: (pair[0].breadth, pair[0].text))
    return child


def _is_narrower(one: LinearPattern, other: LinearPattern) -> bool:
    return one.breadth < other.breadth and other.includes(one)


def normal_host(host: bytes) -> bytes:
    """Normalize the host of a ``Host`` field or authority: lower case, no port, no trailing dot (RFC 3986 §3.2.2)."""
    host = host.lower()
    if not host.endswith(b"]"):
        name, colon, port = host.rpartition(b":")
        if colon and (port.isdigit() or not port):
            host = name
    return host[:-1] if host.endswith(b".") else host


class Router:
    """The compiled route table. It is immutable: a reload compiles another one and replaces it."""

    __slots__ = (
        *("_by_host", "_cached_chains", "_chains", "_keeping_slashes", "_labels", "_open", "_suffixes"),
        "conditional",
    )

    def __init__(self, rules: Iterable[RouteRule]) -> None:
        """Compile ``rules``; raise ``ValueError`` for an invalid pattern, a duplicate or too ambiguous a table."""
        tables: dict[bytes | None, _Table] = {None: _Table()}
        self._keeping_slashes: list[object] = []
        for rule in rules:
            tables.setdefault(rule.host, _Table()).add(rule)
            if rule.keeps_slashes:
                self._keeping_slashes.append(rule.value)
        self.conditional = sum(table.seal() for table in tables.values()) > 0
        """Whether any rule has conditions."""
        everywhere: tuple[_Table, ...] = (tables.pop(None),)
        wildcards = {host[2:]: table for host, table in tables.items() if host is not None and host.startswith(b"*.")}
        # The chain of a name: its own table, the tables of the wildcards above it, the longest first, then the table
        # for any host.
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
        self._cached_chains: dict[bytes, tuple[_Table, ...]] = {}

    def match(self, host: bytes, method: bytes, path: bytes) -> RouteMatch:
        """Find the rule for a request.

        ``host`` is the authority as received (in any case, with or without port); ``path`` is canonical, without query.
        """
        chain = self._open
        if self._by_host:
            chain = self._cached_chains.get(host) or self._chain(host)
        for table in chain:
            leaf = table.static.get(path)
            if leaf is not None:
                entry = leaf.methods.get(method) or leaf.any
                if entry is not None:
                    return entry.match
            found = table.walk(table.root, path.split(b"/", table.splits), method)
            if found is not None:
                return found
        return self._refusal(chain, path)

    def matches(self, host: bytes, method: bytes, path: bytes) -> Iterator[tuple[RouteRule, RouteMatch]]:
        """Yield the rules that match a request but for their conditions, the most specific first.

        The last one has no conditions. The arguments are those of :meth:`match`.
        """
        chain = self._open
        if self._by_host:
            chain = self._cached_chains.get(host) or self._chain(host)
        for table in chain:
            for leaf, segments in _leaves(table, path):
                for entry in leaf.candidates(method):
                    yield entry.rule, entry.filled(segments)
                    if not entry.rule.conditions:
                        return

    def all_matches(self, host: bytes, method: bytes, path: bytes) -> list[RouteMatch]:
        """Return the matches of all routes that may serve a request, whatever its conditions. See :meth:`match`."""
        match = self.match(host, method, path)
        if match.value is not None or not self.conditional:
            return [match]
        return [match for _, match in self.matches(host, method, path)] or [match]

    def keeps_slashes(self, match: RouteMatch) -> bool:
        """Return whether the route of ``match`` keeps encoded slashes."""
        return any(match.value is each for each in self._keeping_slashes)

    def choose(self, host: bytes, method: bytes, path: bytes, holds: Callable[[Condition], bool]) -> RouteMatch:
        """Return the most specific match whose conditions hold, or the result for 405 or 404. See :meth:`match`.

        The methods for 405 are those of rules whose conditions hold.
        """
        for rule, match in self.matches(host, method, path):
            if all(map(holds, rule.conditions)):
                return match
        allowed: set[bytes] = set()
        for table in self._cached_chains.get(host) or self._chain(host):
            for leaf, _ in _leaves(table, path):
                for name in leaf.methods:
                    if any(all(map(holds, entry.rule.conditions)) for entry in leaf.candidates(name)):
                        allowed.add(name)
        return RouteMatch(None, {}, tuple(sorted(allowed))) if allowed else NOT_FOUND

    def match_usual(self, host: bytes, method: bytes, path: bytes) -> RouteMatch | None:
        """Find the rule for a request as :meth:`match` does, if ``path`` is a usual one; None for any other.

        A usual path is a literal path, or literals and one or two segments of letters and digits. It is canonical,
        because literals are: so 2,500 instructions suffice, in place of 12,500 with :func:`canonical_path`.
        """
        chain = self._open
        if self._by_host:
            chain = self._cached_chains.get(host) or self._chain(host)
        table = chain[0]
        leaf = table.literals.get(path)
        if leaf is not None:
            entry = leaf.methods.get(method) or leaf.any
            return entry.match if entry is not None else None
        literals, slash, last = path.rpartition(b"/")
        if not slash or not last.isalnum():
            return None
        leaf = table.singles.get(literals)
        if leaf is not None:
            entry = leaf.methods.get(method) or leaf.any
            return RouteMatch(entry.value, {entry.names[0][0]: last}) if entry is not None else None
        literals, slash, first = literals.rpartition(b"/")
        leaf = table.pairs.get(literals)
        if leaf is None or not slash or not first.isalnum():
            return None
        entry = leaf.methods.get(method) or leaf.any
        return RouteMatch(entry.value, {entry.names[0][0]: first, entry.names[1][0]: last}) if entry else None

    def path_with_slashes(self, host: bytes, method: bytes, path: bytes) -> bytes:
        """Return the canonical form of a ``path`` with encoded slashes, if the route that it matches keeps them.

        Otherwise raise :class:`EncodedSlashError`. Where the route depends on conditions, the caller has to raise it.
        """
        if self._keeping_slashes:
            kept = canonical_path(path, keep_slashes=True)
            match = self.match(host, method, kept)
            if (match.value is None and self.conditional) or self.keeps_slashes(match):
                return kept
        raise EncodedSlashError

    def _refusal(self, chain: tuple[_Table, ...], path: bytes) -> RouteMatch:
        """Return the result for 405, with every method allowed at this host and path (RFC 9110 §15.5.6), or for 404."""
        allowed: set[bytes] = set()
        for table in chain:
            for leaf, _ in _leaves(table, path):
                allowed.update(leaf.methods)
        return RouteMatch(None, {}, tuple(sorted(allowed))) if allowed else NOT_FOUND

    def _chain(self, host: bytes) -> tuple[_Table, ...]:
        """Return the tables to search for ``host``, the most specific first."""
        name = normal_host(host)
        chain = self._chains.get(name) or self._suffix_chain(name)
        # Cached by the host as received, which saves 0.5 us; bounded, because clients choose the key.
        if len(host) <= MAX_HOST:
            if len(self._cached_chains) >= MAX_CACHED_HOSTS:
                self._cached_chains.clear()
            self._cached_chains[host] = chain
        return chain

    def _suffix_chain(self, name: bytes) -> tuple[_Table, ...]:
        """Return the chain of the longest ``*.suffix`` that covers ``name``, or the one for any host."""
        # Only as many labels as the longest suffix has are tried: a long Host costs no more than a short one.
        labels = name.split(b".")
        for start in range(max(1, len(labels) - self._labels), len(labels)):
            chain = self._suffixes.get(b".".join(labels[start:]))
            if chain is not None:
                return chain
        return self._open


def _walk(node: _TrieNode, segments: list[bytes], method: bytes) -> RouteMatch | None:
    """Search the trie from its root, the most specific branch first.

    ``segments`` are the segments of the path after an empty first one. Each node is reached by one branch only, so no
    node is visited twice.
    """
    count = len(segments)
    if count < 2 or segments[0]:
        return None
    index = 1
    # Branches to try later, the next one last: a leaf, or a node and the index of the segment to continue with.
    others: list[tuple[_TrieNode, int, RouteLeaf | None]] | None = None
    while True:
        leaf: RouteLeaf | None = None
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


def _walk_constrained(node: _TrieNode, segments: list[bytes], method: bytes) -> RouteMatch | None:
    """Search a trie with constrained parameters.

    The steps are those of :func:`_walk`, which does not look for constraints: tables without any do not pay for them.
    """
    count = len(segments)
    if count < 2 or segments[0]:
        return None
    index = 1
    others: list[tuple[_TrieNode, int, RouteLeaf | None]] = []
    while True:
        leaf: RouteLeaf | None = None
        if index < count:
            segment = segments[index]
            following = node.literals.get(segment)
            if node.rest is not None:
                others.append((node, index, node.rest))
            index += 1
            if segment:
                if node.constrained:
                    branches = [] if following is None else [following]
                    for pattern, child in node.constrained:
                        if pattern.matches(segment):
                            branches.append(child)
                    if node.param is not None:
                        branches.append(node.param)
                    following = branches[0] if branches else None
                    for child in branches[:0:-1]:
                        others.append((child, index, None))
                elif following is None:
                    following = node.param
                elif node.param is not None:
                    others.append((node.param, index, None))
            if following is not None:
                node = following
                continue
        else:
            leaf = node.leaf
            if node.rest is not None:
                others.append((node, index, node.rest))
        while leaf is None or (entry := leaf.methods.get(method) or leaf.any) is None:
            if not others:
                return None
            node, index, leaf = others.pop()
            if leaf is None:
                break
        else:
            return entry.filled(segments)


def _leaves(table: _Table, path: bytes) -> Iterator[tuple[RouteLeaf, list[bytes]]]:
    """Yield the leaves of all rules that match ``path``, the most specific first, and the segments of the path."""
    leaf = table.static.get(path)
    segments = path.split(b"/", table.splits)
    if leaf is not None:
        yield leaf, segments
    for each in _visit(table.root, segments):
        yield each, segments


def _visit(root: _TrieNode, segments: list[bytes]) -> Iterator[RouteLeaf]:
    """Yield the leaves that ``segments`` (of the path, after an empty first one) lead to, the most specific first."""
    count = len(segments)
    if count < 2 or segments[0]:
        return
    # Branches to try, the next one last: a leaf, or a node and the index of the segment to continue with.
    others: list[tuple[_TrieNode, int, RouteLeaf | None]] = [(root, 1, None)]
    while others:
        node, index, leaf = others.pop()
        if leaf is not None:
            yield leaf
            continue
        if node.rest is not None:
            others.append((node, index, node.rest))
        if index == count:
            if node.leaf is not None:
                yield node.leaf
            continue
        segment = segments[index]
        if segment:
            if node.param is not None:
                others.append((node.param, index + 1, None))
            for pattern, child in reversed(node.constrained):
                if pattern.matches(segment):
                    others.append((child, index + 1, None))
        following = node.literals.get(segment)
        if following is not None:
            others.append((following, index + 1, None))


def _wildcards_above(host: bytes, wildcards: dict[bytes, _Table]) -> Sequence[_Table]:
    """Return the tables of the wildcards that cover ``host``, the longest suffix first."""
    labels = host.split(b".")
    suffixes = (b".".join(labels[start:]) for start in range(1, len(labels)))
    return [wildcards[suffix] for suffix in suffixes if suffix in wildcards]
