"""Files in YAML and TOML as plain values with the lines of their keys."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from passerelle.config.reading import yaml_tree
from passerelle.importing.draft import ImportProblem

_MOST_BYTES = yaml_tree.MAX_BYTES


class Table(dict[str, Any]):
    """A mapping that knows where it and its keys are. Keys are found in any case by :meth:`read`."""

    def __init__(self, line: int = 1) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}
        self._read: set[str] = set()

    def put(self, key: str, value: Any, line: int) -> None:
        """Add a key."""
        self[key] = value
        self.lines[key] = line

    def read(self, *names: str) -> Any:
        """Return the value of the first of ``names`` that is present, and mark it as carried over; None without any."""
        for key, value in self.items():
            if key.lower() in {name.lower() for name in names}:
                self._read.add(key)
                return value
        return None

    def read_all(self) -> None:
        """Mark all keys, and those of the tables in it."""
        for key in list(self):
            value = self.read(key)
            if isinstance(value, Table):
                value.read_all()

    def table(self, name: str) -> Table:
        """Return the table ``name``, an empty one if there is none."""
        found = self.read(name)
        return found if isinstance(found, Table) else Table(self.line_of(name))

    def tables(self, name: str) -> list[Table]:
        """Return the tables in the list ``name``."""
        found = self.read(name)
        return [each for each in found if isinstance(each, Table)] if isinstance(found, list) else []

    def texts(self, *names: str) -> list[str]:
        """Return the texts in the list ``names``; a text alone is a list of parts between commas."""
        found = self.read(*names)
        if isinstance(found, str):
            return [part.strip() for part in found.split(",") if part.strip()]
        return [str(each) for each in found if not isinstance(each, Table | list)] if isinstance(found, list) else []

    @property
    def is_untouched(self) -> bool:
        """Whether no key was read."""
        return not self._read

    def unread(self) -> list[tuple[str, int]]:
        """Return the keys that were not read, with their lines."""
        return [(key, self.lines[key]) for key in self if key not in self._read]

    def all_unread(self, place: str = "") -> Iterator[tuple[str, str, int]]:
        """Return the keys that were not read here and in tables that were: path from ``place``, key, line."""
        unread = dict(self.unread())
        for key, value in self.items():
            path = f"{place}{key}"
            if key in unread:
                yield path, key, unread[key]
            elif isinstance(value, Table):
                yield from value.all_unread(f"{path}.")
            elif isinstance(value, list):
                for number, each in enumerate(value):
                    if isinstance(each, Table):
                        yield from each.all_unread(f"{path}[{number}].")

    def line_of(self, name: str) -> int:
        """Return the line of the key ``name``, or that of the table."""
        return next((line for key, line in self.lines.items() if key.lower() == name.lower()), self.line)


def read(path: str) -> Table:
    """Return the content of a YAML or TOML file.

    :raises ImportProblem: if it is too large, is neither, or is no mapping.
    :raises OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ImportProblem(f"{path}: more than {_MOST_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImportProblem(f"{path}: byte {error.start} is not UTF-8") from None
    found = _of_toml(path, text) if path.endswith(".toml") else _of_yaml(path, text)
    if not isinstance(found, Table):
        raise ImportProblem(f"{path}: it is no mapping")
    return found


def _of_yaml(path: str, text: str) -> Any:
    try:
        root, _ = yaml_tree.parse(text)
    except yaml_tree.SyntaxProblem as error:
        raise ImportProblem(f"{path}: {' '.join(str(error).split())}") from None
    return _converted(root)


def _converted(node: yaml_tree.YamlNode) -> Any:
    if isinstance(node, yaml_tree.YamlMapping):
        table = Table(node.line)
        for name, (key, value) in node.items.items():
            table.put(name, _converted(value), key.line)
        return table
    if isinstance(node, yaml_tree.YamlSequence):
        return [_converted(item) for item in node.items]
    assert isinstance(node, yaml_tree.YamlScalar)
    return node.text if node.quoted else yaml_tree.resolve(node.text)


def _of_toml(path: str, text: str) -> Any:
    try:
        return _with_lines(tomllib.loads(text), text.split("\n"), 0)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ImportProblem(f"{path}: {' '.join(str(error).split())}") from None


def _with_lines(value: Any, lines: list[str], start: int) -> Any:
    """Add lines, which the TOML parser does not report: a key is on the first line behind ``start`` with its name."""
    if isinstance(value, dict):
        table = Table(start + 1)
        for key, item in value.items():
            found = next((n for n in range(start, len(lines)) if _names(lines[n], key)), start)
            table.put(key, _with_lines(item, lines, found), found + 1)
        return table
    return [_with_lines(item, lines, start) for item in value] if isinstance(value, list) else value


def _names(line: str, key: str) -> bool:
    name = re.escape(key)
    return re.match(rf"\s*(?:\[+[^\]]*(?:\.|\[|\")?{name}\"?\s*(?:\]|\.)|\"?{name}\"?\s*=)", line) is not None
