"""The canonical form of a configuration file: its keys in the order of the reference, one indentation, one spelling.

Comments stay with the key or item below them, or beside them. The order of what a user names (services, parts, header
fields) and of lists is kept. A file with anchors, tags or document markers keeps its order and its indentation, because
moving an alias before its anchor would change its meaning. :func:`reformat` compares what both texts contain.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from passerelle.config.loader import inspect_text
from passerelle.config.models.config import Config
from passerelle.config.problems import Loc, model_at
from passerelle.config.reading import yaml_tree
from passerelle.config.reading.yaml_tree import YamlMapping, YamlNode, YamlScalar, YamlSequence

_STEP = 2
_EARLY = ("include", "profiles", "defaults")  # what services and routes build on stands above them
_BIG = ("services", "routes")
_UNMOVABLE = (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken, yaml.DirectiveToken, yaml.DocumentStartToken)
_EMPTY = "\0"  # an empty line of a text, until the end
_LANGUAGE_SERVER = "yaml-language-server:"
_SIMPLE = re.compile(r"[^\\\"'\x00-\x1f\x7f-\x9f]*").fullmatch
_WORDS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false", "Null": "null", "NULL": "null"}


class CannotFormat(Exception):
    """The text cannot be formatted without changing what it contains. The text is one line for the user."""


def reformat(text: str, environ: Mapping[str, str] = os.environ, folder: str | os.PathLike[str] = ".") -> str:
    """Return ``text`` in its canonical form.

    :raises SyntaxProblem: if it is not valid YAML, or has a key twice.
    :raises CannotFormat: if the result would not contain the same.
    """
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    before, duplicates = yaml_tree.parse(text)
    if duplicates:
        key = duplicates[0].key
        raise yaml_tree.SyntaxProblem(key.line, key.column, f"the key {key.text!r} occurs twice")
    made = _Writer(text).write()
    try:
        same = _content(yaml_tree.parse(made)[0]) == _content(before) and _comments(made) == _comments(text)
    except yaml_tree.SyntaxProblem:
        same = False
    if same:
        loaded = [inspect_text(each, "gateway.yaml", environ, folder, elsewhere=True).config for each in (text, made)]
        same = _keys(loaded[0]) == _keys(loaded[1])
    if not same:
        raise CannotFormat("the formatted file would not have the same content; it was left as it is")
    return made


def _keys(config: Config | None) -> dict[str, object] | None:
    """Return the values of all keys, without the places where they are written."""
    return None if config is None else {key: getattr(config, key) for key in Config.model_fields}


def _content(node: YamlNode) -> object:
    if isinstance(node, YamlMapping):
        return {key: _content(value) for key, (_, value) in node.items.items()}
    if isinstance(node, YamlSequence):
        return [_content(item) for item in node.items]
    assert isinstance(node, YamlScalar)
    value = node.text if node.quoted else yaml_tree.resolve(node.text)
    return type(value).__name__, value


def _comments(text: str) -> list[str]:
    """Return the texts of all comments, sorted: what is between tokens contains nothing else."""
    found, end = [], 0
    for token in yaml.scan(text, Loader=yaml.CSafeLoader):
        start = token.start_mark.index
        if start > end:
            found += re.findall(r"#.*", text[end:start])
        # The end of a block scalar is that of its content, behind a comment in its first line.
        if isinstance(token, yaml.ScalarToken) and token.style in ("|", ">"):
            found += re.findall(r" (#.*)", text[start : token.end_mark.index].partition("\n")[0])
        end = max(end, token.end_mark.index)
    return sorted(comment.strip() for comment in found + re.findall(r"#.*", text[end:]))


@dataclass(slots=True)
class _Entry:
    """An entry of a mapping or list: the comments above it, and its lines."""

    lead: list[str]
    body: list[str]


class _Writer:
    def __init__(self, text: str) -> None:
        self._text = text
        self._lines = text.split("\n")

    def write(self) -> str:
        tokens = yaml.scan(self._text, Loader=yaml.CSafeLoader)
        if any(isinstance(token, _UNMOVABLE) or self._is_complex(token) for token in tokens):
            return self._text.rstrip("\n") + "\n"
        root: Any = yaml.compose(self._text, Loader=yaml.CSafeLoader)
        if not isinstance(root, yaml.MappingNode) or root.flow_style:
            return self._text.rstrip("\n") + "\n"
        first = root.start_mark.line
        head = self._head(first)
        entries, tail = self._mapping(root, (), 0, head, len(self._lines))
        out = [line.rstrip() for line in self._lines[:head]]
        if head and not self._lines[head].strip():
            out.append("")
        while entries[0].lead and not entries[0].lead[0]:
            del entries[0].lead[0]
        for number, entry in enumerate(entries):
            lead = entry.lead
            long = number and (len(entry.body) > 1 or len(entries[number - 1].body) > 1)
            if long and not (lead and not lead[0]):
                lead = ["", *lead]
            out += lead + entry.body
        return "\n".join(_collapsed([*out, *tail])) + "\n"

    def _is_complex(self, token: yaml.Token) -> bool:
        return isinstance(token, yaml.KeyToken) and self._text[token.start_mark.index] == "?"

    def _head(self, first: int) -> int:
        """Return the number of lines that stay at the top: the comment in the first lines, which is about the file."""
        number = 0
        while number < first and self._lines[number].lstrip().startswith("#"):
            number += 1
        if number == first and _LANGUAGE_SERVER in self._lines[0]:
            return 1  # what follows may be about the first key
        return number

    # Regions of lines. A comment belongs to what follows it if it is not indented deeper.

    def _lead_start(self, line: int, column: int, least: int) -> int:
        """Return the first line of the comments and blank lines above ``line``, but not before ``least``."""
        while line > least:
            above = self._lines[line - 1]
            stripped = above.lstrip()
            if stripped and (not stripped.startswith("#") or len(above) - len(stripped) > column):
                break
            line -= 1
        return line

    def _commented(self, start: int, end: int, indent: int) -> list[str]:
        return [(" " * indent + line.strip()).rstrip() for line in self._lines[start:end]]

    def _mapping(self, node: Any, loc: Loc, indent: int, start: int, end: int) -> tuple[list[_Entry], list[str]]:
        """Return the entries of a block mapping in ``start`` to ``end``, in canonical order, and comments below it."""
        pairs = node.value
        column = pairs[0][0].start_mark.column
        keys = [key.start_mark.line for key, _ in pairs]
        leads = [
            self._lead_start(line, column, start if number == 0 else keys[number - 1] + 1)
            for number, line in enumerate(keys)
        ]
        leads[0] = min(start, keys[0])
        last = self._lead_start(end, column, keys[-1] + 1)
        last = max(last, self._content_end(pairs[-1][1], pairs[-1][0]))
        entries = {}
        for number, (key, value) in enumerate(pairs):
            until = leads[number + 1] if number + 1 < len(pairs) else last
            lead = self._commented(leads[number], keys[number], indent)
            name = f"{self._scalar(key)}:"
            entries[key.value] = _Entry(lead, self._value(name, key.end_mark, value, (*loc, key.value), indent, until))
        return [entries[name] for name in _ordered(list(entries), loc)], self._commented(last, end, indent)

    def _sequence(self, node: Any, loc: Loc, indent: int, start: int, end: int) -> list[str]:
        """Return the lines of a block list in ``start`` to ``end``."""
        column = node.start_mark.column
        dashes = [self._dash(item.start_mark.line, column) for item in node.value]
        last = self._lead_start(end, column, dashes[-1] + 1)
        last = max(last, self._content_end(node.value[-1], None))
        out: list[str] = []
        for number, item in enumerate(node.value):
            at, until = dashes[number], dashes[number + 1] if number + 1 < len(dashes) else last
            first = start if number == 0 else self._lead_start(at, column, dashes[number - 1] + 1)
            if number + 1 < len(dashes):
                until = self._lead_start(until, column, at + 1)
            out += self._commented(first, at, indent)
            place, dash = (*loc, number), " " * indent + "- "
            if isinstance(item, yaml.MappingNode) and not item.flow_style:
                entries, tail = self._mapping(item, place, indent + _STEP, item.start_mark.line, until)
                above = [line for line in self._commented(at + 1, item.start_mark.line, indent) if line]
                above += [" " * indent + line.strip() for line in entries[0].lead if line.strip()]
                out += [*above, dash + entries[0].body[0][indent + _STEP :], *entries[0].body[1:]]
                for entry in entries[1:]:
                    out += entry.lead + entry.body
                out += tail
            elif isinstance(item, yaml.SequenceNode) and not item.flow_style and item.start_mark.line == at:
                first_item, *others = self._sequence(item, place, indent + _STEP, at, until)
                out += [dash + first_item[indent + _STEP :], *others]
            else:
                out += self._value("-", _Mark(at, column + 1), item, place, indent, until)
        return out + self._commented(last, end, indent)

    def _dash(self, line: int, column: int) -> int:
        while self._lines[line][column : column + 1] != "-" or self._lines[line][:column].strip(" -"):
            line -= 1
        return line

    def _content_end(self, value: Any, key: Any) -> int:
        """Return the line after the last one of a value, without comments below it."""
        line = value.end_mark.line if key is None else max(value.end_mark.line, key.end_mark.line)
        if isinstance(value, yaml.ScalarNode) and value.style in ("|", ">"):
            return int(line)
        if isinstance(value, yaml.CollectionNode) and not value.flow_style:
            inner = value.value[-1]
            of, its = (inner[1], inner[0]) if isinstance(inner, tuple) else (inner, None)
            return self._content_end(of, its)
        return int(line) + 1

    def _value(self, name: str, after: Any, value: Any, loc: Loc, indent: int, until: int) -> list[str]:
        """Return the lines of ``name`` (a key with its colon, or a dash) and its value; they end before ``until``."""
        margin = " " * indent
        if isinstance(value, yaml.CollectionNode) and not value.flow_style:
            line = margin + name + self._beside(after.line, after.column + (name != "-"))
            start = after.line + 1
            if isinstance(value, yaml.MappingNode):
                entries, tail = self._mapping(value, loc, indent + _STEP, start, until)
                lines = [line for entry in entries for line in entry.lead + entry.body] + tail
            else:
                lines = self._sequence(value, loc, indent + _STEP, start, until)
            while lines and not lines[0]:
                del lines[0]
            return [line, *lines]
        begin, end = value.start_mark, value.end_mark
        above = self._commented(after.line + 1, begin.line, indent) if begin.line > after.line else []
        if begin.index == end.index:  # no value
            beside = self._beside(after.line, after.column + (name != "-"))
            return [margin + name + beside, *self._commented(after.line + 1, until, indent)]
        above = [line for line in above if line]
        if above or (begin.line > after.line and self._beside(after.line, after.column + (name != "-"))):
            raise CannotFormat(f"line {after.line + 1}: a comment stands between a key and its value")
        if isinstance(value, yaml.ScalarNode) and value.style in ("|", ">"):
            return self._block_scalar(margin + name, value, indent, until)
        if begin.line == end.line:
            text = self._flow(value, loc)
            lines = [f"{margin}{name} {text}"]
        else:
            lines = [f"{margin}{name} {self._lines[begin.line][begin.column :].rstrip()}"]
            middle = [*self._lines[begin.line + 1 : end.line], self._lines[end.line][: end.column]]
            lines += self._continued(value, middle, indent)
        lines[-1] += self._beside(end.line, end.column)
        return lines + self._commented(end.line + 1, until, indent)

    def _continued(self, value: Any, lines: list[str], indent: int) -> list[str]:
        """Indent the further lines of a value in braces, brackets or quotes: their indentation has no meaning."""
        if isinstance(value, yaml.ScalarNode):
            return [(" " * (indent + _STEP) + line.strip()).rstrip() for line in lines]
        closing = [lines.pop().strip()] if lines[-1].strip() in ("}", "]") else []
        least = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        margin = " " * (indent + _STEP)
        return [*((margin + line[least:]).rstrip() for line in lines), *(" " * indent + line for line in closing)]

    def _block_scalar(self, name: str, value: Any, indent: int, until: int) -> list[str]:
        begin = value.start_mark
        header = self._lines[begin.line][begin.column :].rstrip()
        content = self._lines[begin.line + 1 : until]
        while content and not content[-1].strip() and "+" not in header:
            content.pop()
        least = min((len(line) - len(line.lstrip(" ")) for line in content if line.strip()), default=0)
        if re.match(r"[|>][+-]?[0-9]", header):
            raise CannotFormat(f"line {begin.line + 1}: a text with an indentation in its first line")
        return [
            f"{name} {header}",
            *(" " * (indent + _STEP) + line[least:] if line.strip() else _EMPTY for line in content),
        ]

    def _beside(self, line: int, column: int) -> str:
        """Return the comment in the rest of a line, with a blank before it."""
        rest = self._lines[line][column:].strip()
        if rest and not rest.startswith("#"):
            raise CannotFormat(f"line {line + 1}: found {rest[:40]!r} after a value")
        return f" {rest}" if rest else ""

    def _flow(self, node: Any, loc: Loc) -> str:
        """Write a value of one line."""
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return f"[{', '.join(self._flow(item, (*loc, number)) for number, item in enumerate(node.value))}]"
        if any(value.start_mark.index == value.end_mark.index for _, value in node.value):
            return self._text[node.start_mark.index : node.end_mark.index]
        pairs = {key.value: (self._scalar(key), self._flow(value, (*loc, key.value))) for key, value in node.value}
        return "{" + ", ".join(f"{key}: {value}" for key, value in (pairs[n] for n in _ordered(list(pairs), loc))) + "}"

    def _scalar(self, node: Any) -> str:
        written: str = self._text[node.start_mark.index : node.end_mark.index]
        if node.style == "'" and _SIMPLE(node.value):
            return f'"{node.value}"'
        return _WORDS.get(written, written) if not node.style else written


@dataclass(frozen=True, slots=True)
class _Mark:
    line: int
    column: int


def _collapsed(lines: list[str]) -> list[str]:
    """Leave one of several blank lines, and none at the end; those of texts stay."""
    while lines and not lines[-1]:
        lines.pop()
    kept = [line for number, line in enumerate(lines) if line or (number and lines[number - 1])]
    return ["" if line == _EMPTY else line for line in kept]


def _ordered(names: list[str], loc: Loc) -> list[str]:
    """Order the keys of the mapping at ``loc``: those of a model as it lists them, then unknown ones; others stay."""
    if loc[:1] == ("profiles",) and len(loc) > 1:
        loc = loc[2:]
    model = Config if not loc else model_at(loc)
    if model is None:
        return names
    known = [key for key in model.model_fields if model is not Config or key not in _EARLY]
    if model is Config:
        at = known.index(_BIG[0])
        known[at:at] = _EARLY
    places = {key: number for number, key in enumerate(known)}
    return sorted(names, key=lambda name: places.get(name, len(places)))
