"""A file with a list of targets: YAML or JSON by its suffix, else text with one target a line."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from passerelle.config.models.addresses import Lookup
from passerelle.config.models.config import Target
from passerelle.config.problems import from_pydantic
from passerelle.config.reading import yaml_tree

MAX_BYTES = yaml_tree.MAX_BYTES

Stamp = tuple[int, int, int, int] | None


class InvalidTargetFile(Exception):
    """The file cannot be used; the text says where and why, for people."""


def file_stamp(path: Path) -> Stamp:
    """What differs when the file was written or replaced, by way of a symbolic link too; None if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def read(path: Path) -> list[Target]:
    """The targets in the file. :raises InvalidTargetFile: for one that cannot be read, is wrong in any line, or
    empty."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidTargetFile(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if len(data) > MAX_BYTES:
        raise InvalidTargetFile(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidTargetFile(f"{path}:{line}: octet 0x{data[error.start]:02X} is not UTF-8") from error
    items = _tree(text, path) if path.suffix in (".yaml", ".yml", ".json") else _lines(text, path)
    if not items:
        raise InvalidTargetFile(f"{path}: there are no targets in it")
    return [_target(item, line, path) for line, item in items]


def _lines(text: str, path: Path) -> list[tuple[int, object]]:
    """``URL [WEIGHT]`` lines; what begins with # is a comment."""
    items: list[tuple[int, object]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) > 2:
            raise InvalidTargetFile(
                f"{path}:{number}: found {len(words)} words; allowed is a URL, and a weight after it"
            )
        if words:
            weight = {"weight": yaml_tree.resolve(words[1])} if len(words) == 2 else {}
            items.append((number, {"url": words[0], **weight}))
    return items


def _tree(text: str, path: Path) -> list[tuple[int, object]]:
    if not text.strip():
        return []
    try:
        root, duplicates = yaml_tree.parse(text)
    except yaml_tree.SyntaxProblem as error:
        raise InvalidTargetFile(f"{path}:{error.line}: {error.message}") from error
    if duplicates:
        key = duplicates[0].key
        raise InvalidTargetFile(f"{path}:{key.line}: {key.text}: found twice")
    if isinstance(root, yaml_tree.YamlMapping) and list(root.items) == ["targets"]:
        root = root.items["targets"][1]
    if not isinstance(root, yaml_tree.YamlSequence):
        raise InvalidTargetFile(
            f"{path}:{root.line}: found no list; allowed is a list of targets, or targets: with one"
        )
    return [(item.line, _value(item)) for item in root.items]


def _value(node: yaml_tree.YamlNode) -> object:
    if isinstance(node, yaml_tree.YamlMapping):
        return {key: _value(value) for key, (_, value) in node.items.items()}
    if isinstance(node, yaml_tree.YamlSequence):
        return [_value(item) for item in node.items]
    assert isinstance(node, yaml_tree.YamlScalar)
    return node.text if node.quoted else yaml_tree.resolve(node.text)


def _target(item: object, line: int, path: Path) -> Target:
    try:
        target = Target.model_validate(item)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = f"{detail['loc'][-1]}: " if detail["loc"] else ""
        raise InvalidTargetFile(f"{path}:{line}: {key}{from_pydantic(detail, []).message}") from error
    # How TLS is spoken is made up from the configuration's own targets, and https:// must never become plain HTTP.
    if target.url is None or isinstance(target.url, Lookup) or target.url.secure:
        raise InvalidTargetFile(f"{path}:{line}: allowed here is http://host:port")
    return target
