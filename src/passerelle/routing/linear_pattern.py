"""Patterns over what clients send, matched in linear time whatever the pattern and the value.

The language is the regular part of the usual expressions: characters, ``.``, classes, ``\\d`` and ``\\w``, groups,
alternatives, ``?``, ``*``, ``+`` and ``{m,n}``. A pattern matches the whole value. It is compiled to a deterministic
automaton, which takes one step for each octet: nothing is tried twice, so no value can take longer than its length
(``docs/decisions/030-matching.md``). The automaton also answers what :mod:`re` cannot: whether two patterns have a
value in common, and whether one of them includes the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

MAX_LENGTH: Final = 256
"""The longest pattern, in characters."""
MAX_STATES: Final = 512
"""The most states of the automaton of a pattern, before and after it is made deterministic."""
MAX_REPEAT: Final = 128
"""The largest number in ``{m,n}``."""

_COUNTED: Final = 192  # up to which length of values `breadth` counts them

_ANY: Final = frozenset(range(256))
_DIGITS: Final = frozenset(b"0123456789")
_WORD: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_ANY_CASE: Final = "(?i)"  # at the beginning of a pattern: letters of ASCII match in both cases
_SPECIAL: Final = frozenset("\\.[](){}?*+|^$")


class LinearPatternError(ValueError):
    """A pattern that is invalid or too large. The text is the reason."""


class _Chars(NamedTuple):
    """One octet of a set."""

    octets: frozenset[int]


class _Sequence(NamedTuple):
    items: tuple[_Node, ...]


class _Choice(NamedTuple):
    options: tuple[_Node, ...]


class _Repeat(NamedTuple):
    """``item`` at least ``low`` and at most ``high`` times; without a bound if that is None."""

    item: _Node
    low: int
    high: int | None


_Node = _Chars | _Sequence | _Choice | _Repeat


class _Parser:
    """Parses one pattern by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._folds = text.startswith(_ANY_CASE)
        self._at = len(_ANY_CASE) if self._folds else 0

    def parse(self) -> _Node:
        node = self._choice()
        if self._at < len(self._text):
            raise LinearPatternError(f"{self._text[self._at]!r} closes nothing")
        return node

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _choice(self) -> _Node:
        options = [self._sequence()]
        while self._peek() == "|":
            self._take()
            options.append(self._sequence())
        return options[0] if len(options) == 1 else _Choice(tuple(options))

    def _sequence(self) -> _Node:
        items: list[_Node] = []
        while self._peek() and self._peek() not in "|)":
            items.append(self._repeated(self._atom()))
        return items[0] if len(items) == 1 else _Sequence(tuple(items))

    def _repeated(self, node: _Node) -> _Node:
        mark = self._peek()
        if mark and mark in "?*+":
            self._take()
            node = _Repeat(node, int(mark == "+"), 1 if mark == "?" else None)
        elif mark == "{":
            node = self._counted(node)
        if self._peek() and self._peek() in "?*+{":
            raise LinearPatternError(f"{self._peek()!r} repeats a repetition; put it in a group, such as (a+)*")
        return node

    def _counted(self, node: _Node) -> _Node:
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if end < 0 or not _is_number(low) or (high and not _is_number(high)):
            raise LinearPatternError("a repetition is {2}, {2,} or {2,5}; write \\{ for a brace")
        least = int(low)
        most = int(high) if high else (None if comma else least)
        if max(least, most or 0) > MAX_REPEAT or (most is not None and most < max(least, 1)):
            raise LinearPatternError(f"{self._text[self._at : end + 1]} is no repetition of at most {MAX_REPEAT} times")
        self._at = end + 1
        return _Repeat(node, least, most)

    def _atom(self) -> _Node:
        found = self._take()
        if found == "(":
            if self._peek() == "?" and self._text[self._at : self._at + 2] != "?:":
                raise LinearPatternError("(?…) is not supported, except (?:…), and (?i) before all else")
            self._at += 2 if self._peek() == "?" else 0
            node = self._choice()
            if self._take() != ")":
                raise LinearPatternError("'(' is not closed")
            return node
        if found == "[":
            return _Chars(self._class())
        if found == ".":
            return _Chars(_ANY)
        if found == "\\":
            return _Chars(self._escaped())
        if found in "^$":
            raise LinearPatternError(f"a pattern matches the whole text; leave out {found!r}, or write \\{found}")
        if found in "?*+{}]":
            raise LinearPatternError(f"{found!r} repeats or closes nothing; write \\{found} for the character")
        return _Chars(self._cased({_octet(found)}))

    def _cased(self, octets: set[int]) -> frozenset[int]:
        """Return ``octets``, with those of the other case if the pattern has ``(?i)``."""
        if not self._folds:
            return frozenset(octets)
        return frozenset(octets.union(*(bytes([octet]).swapcase() for octet in octets)))

    def _escaped(self) -> frozenset[int]:
        found = self._take()
        if found in ("d", "w"):
            return _DIGITS if found == "d" else _WORD
        if found in ("D", "W"):
            return _ANY - (_DIGITS if found == "D" else _WORD)
        if not found or found.isalnum():
            raise LinearPatternError(f"\\{found} is not supported; allowed are \\d, \\w, \\D, \\W and \\ before a sign")
        return frozenset((_octet(found),))

    def _class(self) -> frozenset[int]:
        negated = self._peek() == "^"
        self._at += int(negated)
        found: set[int] = set()
        first = True
        while first or self._peek() != "]":
            if not self._peek():
                raise LinearPatternError("'[' is not closed")
            first = False
            low = self._escaped() if self._peek() == "\\" and self._take() else frozenset((_octet(self._take()),))
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._take()
                high = self._escaped() if self._peek() == "\\" and self._take() else frozenset((_octet(self._take()),))
                if len(low) > 1 or len(high) > 1 or min(low) > min(high):
                    raise LinearPatternError("a range in a class goes from a character to a later one, such as a-z")
                low = frozenset(range(min(low), min(high) + 1))
            found |= low
        self._take()
        cased = self._cased(found)
        return _ANY - cased if negated else cased


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4


def _octet(character: str) -> int:
    if not " " <= character <= "~":
        raise LinearPatternError(f"found {character!r}; allowed are visible characters of ASCII")
    return ord(character)


class _Automaton:
    """An automaton with empty steps, built from a parsed pattern."""

    def __init__(self, node: _Node) -> None:
        self.steps: list[tuple[frozenset[int], int] | None] = []  # of each state: on these octets, to that state
        self.empty: list[list[int]] = []
        self.start = self._state()
        self.end = self._add(node, self.start)

    def _state(self) -> int:
        if len(self.empty) >= 4 * MAX_STATES:
            raise LinearPatternError("it is too large; repeat less")
        self.steps.append(None)
        self.empty.append([])
        return len(self.empty) - 1

    def _add(self, node: _Node, start: int) -> int:
        """Add ``node`` from the state ``start`` on, and return the state in which it ends."""
        if isinstance(node, _Chars):
            fresh, end = self._state(), self._state()
            self.empty[start].append(fresh)
            self.steps[fresh] = node.octets, end
            return end
        if isinstance(node, _Sequence):
            for item in node.items:
                start = self._add(item, start)
            return start
        if isinstance(node, _Choice):
            ends = [self._add(option, start) for option in node.options]
            end = self._state()
            for each in ends:
                self.empty[each].append(end)
            return end
        for _ in range(node.low):
            start = self._add(node.item, start)
        if node.high is None:
            loop, end = self._state(), self._state()
            self.empty[start].append(loop)
            self.empty[self._add(node.item, loop)] += [loop, end]
            self.empty[loop].append(end)
            return end
        optional = [start]
        for _ in range(node.high - node.low):
            start = self._add(node.item, start)
            optional.append(start)
        end = self._state()
        for each in optional:
            self.empty[each].append(end)
        return end

    def closure(self, states: set[int]) -> frozenset[int]:
        """Return the states that empty steps lead to."""
        found, open_ = set(states), list(states)
        while open_:
            for following in self.empty[open_.pop()]:
                if following not in found:
                    found.add(following)
                    open_.append(following)
        return frozenset(found)


class LinearPattern:
    """A compiled pattern. Two patterns are equal if their texts are."""

    def __init__(self, text: str) -> None:
        """Compile ``text``; raise :class:`LinearPatternError` if it is invalid or too large."""
        if len(text) > MAX_LENGTH:
            raise LinearPatternError(f"it has {len(text)} characters; allowed are {MAX_LENGTH}")
        self.text = text
        self._tree = _Parser(text).parse()
        self._classes, self._next, self._accepting = _determinized(_Automaton(self._tree))
        # A row is a state: its items are the rows that follow by class; the last one is whether the value may end.
        rows: list[list[Any]] = [[] for _ in self._next]
        for row, following, accepts in zip(rows, self._next, self._accepting, strict=True):
            row += [*(rows[number] for number in following), accepts]
        self._row = rows[0]
        self._dead = next((row for row, live in zip(rows, self._alive(), strict=True) if not live), None)

    def matches(self, value: bytes) -> bool:
        """Return whether the pattern matches the whole ``value``."""
        row, dead = self._row, self._dead
        for octet_class in value.translate(self._classes):
            row = row[octet_class]
            if row is dead:
                return False
        return bool(row[-1])

    def is_empty(self) -> bool:
        """Return whether it matches no value at all."""
        return not self._alive()[0]

    def overlaps(self, other: LinearPattern) -> bool:
        """Return whether a value exists that both match."""
        return any(one and two for one, two in self._pairs(other))

    def includes(self, other: LinearPattern) -> bool:
        """Return whether it matches every value that ``other`` matches."""
        return not any(two and not one for one, two in self._pairs(other))

    def _pairs(self, other: LinearPattern) -> Iterator[tuple[bool, bool]]:
        """Yield whether both automata accept, for each pair of states that a value can lead to."""
        letters = {(self._classes[octet], other._classes[octet]) for octet in range(256)}
        seen, open_ = {(0, 0)}, [(0, 0)]
        while open_:
            left, right = open_.pop()
            yield self._accepting[left], other._accepting[right]
            for one, two in letters:
                pair = self._next[left][one], other._next[right][two]
                if pair not in seen:
                    seen.add(pair)
                    open_.append(pair)

    @cached_property
    def breadth(self) -> tuple[int, ...]:
        """A sort key: of two patterns, of which one includes the other, the narrower one has the lower key."""
        sizes = [self._classes.count(number) for number in range(max(self._classes) + 1)]
        counts, total = [int(each) for each in self._accepting], 0
        for _ in range(_COUNTED):
            total += counts[0]
            counts = [
                sum(size * counts[state] for size, state in zip(sizes, following, strict=True))
                for following in self._next
            ]
        return (total,)

    def _alive(self) -> list[bool]:
        """Return for each state whether a value exists that leads from it to an accepting one."""
        alive = list(self._accepting)
        changed = True
        while changed:
            changed = False
            for state, following in enumerate(self._next):
                if not alive[state] and any(alive[each] for each in following):
                    alive[state] = changed = True
        return alive

    def regex(self, without: bytes = b"") -> str:
        """Return an equal expression for :mod:`re` and PCRE, in visible ASCII, that never matches ``without``."""
        return _written(self._tree, frozenset(range(0x21, 0x7F)) - frozenset(without))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LinearPattern) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"LinearPattern({self.text!r})"


@lru_cache(maxsize=4096)
def linear_pattern(text: str) -> LinearPattern:
    """Return the compiled pattern ``text``; a configuration is parsed several times."""
    return LinearPattern(text)


def _determinized(automaton: _Automaton) -> tuple[bytes, list[tuple[int, ...]], list[bool]]:
    """Return the class of each octet, and for each state its successors by class and whether it accepts."""
    sets = list({step[0] for step in automaton.steps if step is not None})
    signatures: dict[tuple[bool, ...], int] = {}
    memberships = (tuple(octet in each for each in sets) for octet in range(256))
    classes = bytes(signatures.setdefault(membership, len(signatures)) for membership in memberships)
    members = [classes.index(number) for number in range(len(signatures))]  # an octet of each class
    start = automaton.closure({automaton.start})
    numbers, order = {start: 0}, [start]
    following: list[tuple[int, ...]] = []
    for states in order:
        targets = []
        for octet in members:
            steps = (automaton.steps[state] for state in states)
            reached = automaton.closure({step[1] for step in steps if step is not None and octet in step[0]})
            if reached not in numbers:
                if len(order) >= MAX_STATES:
                    raise LinearPatternError("it is too large: it would need too many states; repeat less")
                numbers[reached] = len(order)
                order.append(reached)
            targets.append(numbers[reached])
        following.append(tuple(targets))
    return classes, following, [automaton.end in states for states in order]


def _written(node: _Node, allowed: frozenset[int]) -> str:
    if isinstance(node, _Chars):
        return _written_class(node.octets & allowed)
    if isinstance(node, _Sequence):
        return "".join(_written(item, allowed) for item in node.items)
    if isinstance(node, _Choice):
        return f"(?:{'|'.join(_written(option, allowed) for option in node.options)})"
    item = _written(node.item, allowed)
    bound = f"{{{node.low},{'' if node.high is None else node.high}}}"
    known = {(0, 1): "?", (0, None): "*", (1, None): "+"}
    return f"(?:{item}){known.get((node.low, node.high), bound)}"


def _written_class(octets: frozenset[int]) -> str:
    if not octets:
        return "(?!)"
    runs: list[list[int]] = []
    for octet in sorted(octets):
        if runs and runs[-1][1] == octet - 1:
            runs[-1][1] = octet
        else:
            runs.append([octet, octet])
    parts = [
        _written_octet(low) if low == high else f"{_written_octet(low)}-{_written_octet(high)}" for low, high in runs
    ]
    return f"[{''.join(parts)}]"


def _written_octet(octet: int) -> str:
    return chr(octet) if chr(octet).isalnum() else f"\\x{octet:02x}"
