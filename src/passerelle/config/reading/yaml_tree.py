"""Parser from YAML text to a tree of nodes with line and column.

The parser accepts the part of the core schema of YAML 1.2 that a configuration needs (https://yaml.org/spec/1.2.2/
§10.3): ``off``, ``yes`` and ``12:30`` are text, not booleans or base-60 numbers as in YAML 1.1. The tree is built from
the events of the parser, so nesting, size and aliases are bounded before anything is expanded, and duplicate keys are
detected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from passerelle.config.reading.size import MAX_BYTES as MAX_BYTES
from passerelle.config.reading.yaml_errors import explain

MAX_DEPTH = 32
"""Deepest nesting."""
MAX_ALIASED = 10_000
"""Most nodes that aliases may add to the written ones."""

_TOO_DEEP = f"found more than {MAX_DEPTH} levels of nesting"
_CORE_TAG = "tag:yaml.org,2002:"
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?[0-9]{1,18}|0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}").fullmatch
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?").fullmatch

Plain = str | int | float | bool | None


@dataclass(slots=True)
class YamlNode:
    """A node with its 1-based line and column. ``size`` counts its nodes, including keys and expanded aliases.

    ``file`` is empty in the main file, and the name of an included one.
    """

    line: int
    column: int
    size: int = 1
    file: str = ""


@dataclass(slots=True)
class YamlScalar(YamlNode):
    """A scalar. If ``quoted``, it is always text. ``end`` is the 0-based (line, column) after it."""

    text: str = ""
    quoted: bool = False
    end: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class YamlSequence(YamlNode):
    """A list."""

    items: list[YamlNode] = field(default_factory=list)


@dataclass(slots=True)
class YamlMapping(YamlNode):
    """A mapping. Of duplicate keys, it has the first."""

    items: dict[str, tuple[YamlScalar, YamlNode]] = field(default_factory=dict)


class SyntaxProblem(Exception):
    """Raised for invalid YAML. Line and column are 1-based."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.message = message


@dataclass(slots=True)
class Duplicate:
    """A key that occurs twice in one mapping."""

    key: YamlScalar
    first: YamlScalar
    parents: tuple[str | int, ...]


def resolve(text: str) -> Plain:
    """Resolve a plain (unquoted) scalar by the core schema."""
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INT(text):
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if _FLOAT(text):
        return float(text)
    return text


class _Frame:
    """An open collection."""

    __slots__ = ("anchor", "key", "node")

    def __init__(self, node: YamlMapping | YamlSequence, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: YamlScalar | None = None


class _Builder:
    def __init__(self, file: str) -> None:
        self.file = file
        self.root: YamlNode | None = None
        self.duplicates: list[Duplicate] = []
        self.stack: list[_Frame] = []
        self.anchors: dict[str, YamlNode] = {}
        self.open_anchors: set[str] = set()
        self.aliased = 0

    def feed(self, event: yaml.Event) -> None:
        mark = event.start_mark
        assert mark is not None
        line, column = mark.line + 1, mark.column + 1
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise SyntaxProblem(line, column, "found a second document; allowed is one")
        if isinstance(event, yaml.AliasEvent):
            self._add(self._alias(str(event.anchor), line, column), None, line, column)
        elif isinstance(event, yaml.ScalarEvent):
            self._require_plain_tag(event.tag, line, column)
            assert event.end_mark is not None
            end = (event.end_mark.line, event.end_mark.column)
            quoted = not event.implicit[0]
            scalar = YamlScalar(line, column, file=self.file, text=event.value, quoted=quoted, end=end)
            self._add(scalar, event.anchor, line, column)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._require_plain_tag(event.tag, line, column)
            if len(self.stack) >= MAX_DEPTH:
                raise SyntaxProblem(line, column, _TOO_DEEP)
            kind = YamlMapping if isinstance(event, yaml.MappingStartEvent) else YamlSequence
            if event.anchor:
                self.open_anchors.add(event.anchor)
            self.stack.append(_Frame(kind(line, column, file=self.file), event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            frame = self.stack.pop()
            self.open_anchors.discard(frame.anchor or "")
            self._add(frame.node, frame.anchor, frame.node.line, frame.node.column)

    def _alias(self, name: str, line: int, column: int) -> YamlNode:
        if name in self.open_anchors:
            raise SyntaxProblem(line, column, f"the alias *{name} is inside its own anchor")
        node = self.anchors.get(name)
        if node is None:
            raise SyntaxProblem(line, column, f"the alias *{name} has no anchor &{name} above it")
        self.aliased += node.size
        if self.aliased > MAX_ALIASED:
            raise SyntaxProblem(line, column, f"aliases expand to more than {MAX_ALIASED} values")
        return node

    def _require_plain_tag(self, tag: str | None, line: int, column: int) -> None:
        if tag is not None and tag not in ("!", _CORE_TAG + "str"):
            name = tag.replace(_CORE_TAG, "!!")
            raise SyntaxProblem(line, column, f"found the tag {name}; tags are not allowed")

    def _add(self, node: YamlNode, anchor: str | None, line: int, column: int) -> None:
        if anchor:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        frame.node.size += node.size
        if isinstance(frame.node, YamlSequence):
            frame.node.items.append(node)
        elif isinstance(frame.node, YamlMapping):
            self._add_pair(frame, frame.node, node, line, column)

    def _add_pair(self, frame: _Frame, mapping: YamlMapping, node: YamlNode, line: int, column: int) -> None:
        if frame.key is None:
            if not isinstance(node, YamlScalar):
                raise SyntaxProblem(line, column, "found a list or mapping as a key; a key is a name")
            if node.text == "<<" and not node.quoted:
                raise SyntaxProblem(line, column, "found the merge key <<; it is not supported: write the keys out")
            frame.key = YamlScalar(line, column, file=self.file, text=node.text, quoted=node.quoted)
            return
        key, frame.key = frame.key, None
        if key.text in mapping.items:
            self.duplicates.append(Duplicate(key, mapping.items[key.text][0], tuple(self._parents())))
            return
        mapping.items[key.text] = (key, node)

    def _parents(self) -> Iterator[str | int]:
        """Yield the place of the innermost open collection, from the root down."""
        for frame in self.stack[:-1]:
            if isinstance(frame.node, YamlSequence):
                yield len(frame.node.items)
            elif frame.key is not None:
                yield frame.key.text


def parse(text: str, file: str = "") -> tuple[YamlNode, list[Duplicate]]:
    """Parse a YAML document. Returns its tree and its duplicate keys. Raises :class:`SyntaxProblem`.

    ``file`` is the name that the nodes of an included file have.
    """
    builder = _Builder(file)
    try:
        for event in yaml.parse(text, Loader=yaml.CBaseLoader):
            builder.feed(event)
    except yaml.MarkedYAMLError as error:
        raise _explain(text, error) from None
    except yaml.reader.ReaderError as error:
        # libyaml counts positions in octets.
        before = text.encode("utf-8")[: error.position].decode("utf-8", "replace")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        raise SyntaxProblem(line, column, f"the character {text[len(before)]!r} is not allowed") from None
    if builder.root is None:
        raise SyntaxProblem(1, 1, "the file is empty; it needs services and routes")
    return builder.root, builder.duplicates


def _explain(text: str, error: yaml.MarkedYAMLError) -> SyntaxProblem:
    """Explain a syntax error of libyaml.

    The parser written in Python reports more detail, so it parses the text again. It needs quadratic time for unbounded
    nesting, but libyaml refuses such a text first.
    """
    too_deep = "nesting" in str(error.problem)
    if not too_deep:
        try:
            for _ in yaml.parse(text, Loader=yaml.BaseLoader):
                pass
        except yaml.MarkedYAMLError as better:
            error = better
    line, column, message = explain(text, error)
    return SyntaxProblem(line, column, _TOO_DEEP if too_deep else message)
