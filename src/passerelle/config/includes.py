"""Included files: `include` of a configuration file, read and joined to one tree of nodes.

The mapping `services` and the list `routes` may stand in several files; every other key stands in one of them. Nodes
keep the name of their file, so that errors have their place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from passerelle.config.problems import Problem, key_of
from passerelle.config.reading import yaml_tree
from passerelle.config.reading.included import MAX_FILES, NONE_INCLUDED, Included, digest_of, matches, read_file
from passerelle.config.reading.substitute import references, substitute
from passerelle.config.reading.yaml_tree import YamlMapping, YamlNode, YamlScalar, YamlSequence

MAX_TOTAL = 8 * 2**20
"""Maximum size of all included files together, in bytes."""


@dataclass(slots=True)
class JoinedFiles:
    """The tree of a file with what it includes. ``fatal``: what made it unusable. ``texts`` are those by file."""

    root: YamlNode
    included: Included = NONE_INCLUDED
    problems: list[Problem] = field(default_factory=list)
    fatal: list[Problem] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


def decode(data: bytes, file: str) -> str | Problem:
    """Decode the content of a file: at most :data:`yaml_tree.MAX_BYTES` bytes of UTF-8."""
    if len(data) > yaml_tree.MAX_BYTES:
        return Problem(file, 1, 1, "", f"larger than {yaml_tree.MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace")) + 1
        message = f"octet 0x{data[error.start]:02X} is not UTF-8; save the file as UTF-8"
        return Problem(file, line, column, "", message)


def join_files(text: str, file: str, folder: Path, environ: Mapping[str, str]) -> JoinedFiles:
    """Parse ``text`` and everything that it includes. Raises :class:`SyntaxProblem` for ``text`` itself."""
    return _Reader(file, environ).read(text, folder)


class _Reader:
    def __init__(self, file: str, environ: Mapping[str, str]) -> None:
        self._file = file
        self._environ = environ
        self._patterns: list[str] = []
        self._contents: dict[str, bytes] = {}
        # The files that are open, and those that were read, by their real path: where they were included.
        self._open: list[tuple[str, str]] = []
        self._seen: dict[str, YamlNode] = {}

    def read(self, text: str, folder: Path) -> JoinedFiles:
        root, duplicates = yaml_tree.parse(text)
        joined = JoinedFiles(root, texts={"": text})
        self._note(joined, duplicates)
        self._open.append((os.path.realpath(folder / Path(self._file).name), self._file))
        self._include(joined, root, folder)
        joined.included = Included(tuple(self._patterns), digest_of(self._contents))
        return joined

    def _note(self, joined: JoinedFiles, duplicates: list[yaml_tree.Duplicate]) -> None:
        for each in duplicates:
            key = key_of((*each.parents, each.key.text))
            joined.problems.append(self._problem(each.key, key, f"found twice; the first is at line {each.first.line}"))

    def _problem(self, node: YamlNode, key: str, message: str) -> Problem:
        return Problem(node.file or self._file, node.line, node.column, key, message)

    def _include(self, joined: JoinedFiles, root: YamlNode, folder: Path) -> None:
        """Read what ``root`` includes, and add it to ``joined``."""
        if not isinstance(root, YamlMapping) or "include" not in root.items:
            return
        _, node = root.items["include"]
        joined.root = _without(joined.root, "include")
        for name in node.items if isinstance(node, YamlSequence) else [node]:
            if not isinstance(name, YamlScalar) or not name.text:
                joined.fatal.append(self._problem(name, "include", "allowed is a path, a pattern, or a list of them"))
                continue
            for path in self._paths(joined, name, folder):
                self._add_file(joined, name, path)

    def _paths(self, joined: JoinedFiles, name: YamlScalar, folder: Path) -> Iterator[str]:
        if any(each.startswith("file:") for each in references(name.text)):
            joined.fatal.append(self._problem(name, "include", "a path has no secrets; allowed is ${VAR}"))
            return
        filled = substitute(name.text, self._environ, folder)
        if filled.problems:
            joined.fatal += (self._problem(name, "include", message) for _, message in filled.problems)
            return
        pattern = os.path.normpath(folder / filled.text)
        self._patterns.append(pattern)
        yield from matches(pattern)

    def _add_file(self, joined: JoinedFiles, name: YamlScalar, path: str) -> None:
        real = os.path.realpath(path)
        if any(real == other for other, _ in self._open):
            chain = " → ".join([shown for _, shown in self._open] + [path])
            joined.fatal.append(self._problem(name, "include", f"the file includes itself: {chain}"))
            return
        first = self._seen.get(real)
        if first is not None:
            place = f"{first.file or self._file}:{first.line}"
            joined.fatal.append(self._problem(name, "include", f"found {path} twice; {place} includes it already"))
            return
        self._seen[real] = name
        if len(self._contents) >= MAX_FILES:
            message = f"found more than {MAX_FILES} files; include fewer"
            joined.fatal.append(self._problem(name, "include", message))
            return
        try:
            data = read_file(path)
        except OSError as error:
            message = f"the file {path} cannot be read: {(error.strerror or str(error)).lower()}"
            joined.fatal.append(self._problem(name, "include", message))
            return
        self._contents[path] = data
        joined.texts[path] = ""
        if sum(map(len, self._contents.values())) > MAX_TOTAL:
            joined.fatal.append(self._problem(name, "include", f"the files have more than {MAX_TOTAL} bytes together"))
            return
        text = decode(data, path)
        if isinstance(text, Problem):
            joined.fatal.append(text)
            return
        joined.texts[path] = text
        try:
            root, duplicates = yaml_tree.parse(text, path)
        except yaml_tree.SyntaxProblem as error:
            joined.fatal.append(Problem(path, error.line, error.column, "", error.message))
            return
        self._note(joined, duplicates)
        self._join(joined, root)
        self._open.append((real, path))
        self._include(joined, root, Path(path).parent)
        self._open.pop()

    def _join(self, joined: JoinedFiles, added: YamlNode) -> None:
        """Add the keys of an included file."""
        if not isinstance(added, YamlMapping):
            joined.fatal.append(self._problem(added, "", "an included file is a mapping, such as routes: […]"))
            return
        if not isinstance(joined.root, YamlMapping):
            return  # the main file is not a mapping, which is reported
        items = dict(joined.root.items)
        for name, (key, node) in added.items.items():
            if name == "include":
                continue
            present = items.get(name)
            if present is None:
                items[name] = key, node
            elif name == "routes" and isinstance(node, YamlSequence) and isinstance(present[1], YamlSequence):
                items[name] = present[0], joined_list(present[1], node)
            elif name == "services" and isinstance(node, YamlMapping) and isinstance(present[1], YamlMapping):
                items[name] = present[0], self._joined_services(joined, present[1], node)
            else:
                self._found_twice(joined, name, key, present[0])
        joined.root = replaced(joined.root, items)

    def _joined_services(self, joined: JoinedFiles, first: YamlMapping, second: YamlMapping) -> YamlMapping:
        items = dict(first.items)
        for name, (key, node) in second.items.items():
            if name in items:
                self._found_twice(joined, f"services.{name}", key, items[name][0])
            else:
                items[name] = key, node
        return replaced(first, items)

    def _found_twice(self, joined: JoinedFiles, name: str, key: YamlNode, first: YamlNode) -> None:
        place = f"{first.file or self._file}:{first.line}"
        joined.problems.append(self._problem(key, name, f"found twice; the first is at {place}"))


def replaced(node: YamlMapping, items: dict[str, tuple[YamlScalar, YamlNode]]) -> YamlMapping:
    """Return a mapping at the same place with other items. Nodes may be shared by aliases, so none is changed."""
    return YamlMapping(node.line, node.column, node.size, node.file, items=items)


def joined_list(first: YamlSequence, second: YamlSequence) -> YamlSequence:
    """Return a list at the place of ``first`` with the items of both."""
    return YamlSequence(first.line, first.column, first.size, first.file, items=[*first.items, *second.items])


def _without(node: YamlNode, key: str) -> YamlNode:
    if not isinstance(node, YamlMapping):
        return node
    return replaced(node, {name: item for name, item in node.items.items() if name != key})
