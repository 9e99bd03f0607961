"""Target lists: files in YAML or JSON, by their suffix, or in text with one target per line."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from passerelle.config.models.addresses import Lookup
from passerelle.config.models.config import Target
from passerelle.config.problems import A_TARGET, from_pydantic
from passerelle.config.reading import yaml_tree

MAX_BYTES = yaml_tree.MAX_BYTES

Stamp = tuple[int, int, int, int] | None


class InvalidTargetFile(Exception):
    """The file is not a valid target list. The text names the place and the reason."""


def file_stamp(path: Path) -> Stamp:
    """Return a value that changes when the file (or the target of a link) changes; None if there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def read(path: Path) -> list[Target]:
    """Return the targets in the file.

    :raises InvalidTargetFile: if the file cannot be read, has an error, or has no targets.
    """
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
        raise InvalidTargetFile(f"{path}: found no targets")
    return [_target(item, line, path) for line, item in items]


def _lines(text: str, path: Path) -> list[tuple[int, object]]:
    """Parse lines of the form ``URL [WEIGHT]``; # begins a comment."""
    items: list[tuple[int, object]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) > 2:
            raise InvalidTargetFile(
                f"{path}:{number}: found {len(words)} words; allowed is a URL, optionally followed by a weight"
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
            f"{path}:{root.line}: found no list; allowed is a list of targets, or the key targets with a list"
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
        problem = from_pydantic(detail, item if isinstance(item, dict) else {}, within=A_TARGET)
        key = f"{detail['loc'][-1]}: " if detail["loc"] else ""
        raise InvalidTargetFile(f"{path}:{line}: {key}{problem.message}") from error
    # Whether a service uses TLS depends on its targets in the configuration, and https:// must not become plain HTTP.
    if target.url is None or isinstance(target.url, Lookup) or target.url.secure:
        raise InvalidTargetFile(f"{path}:{line}: a target list allows http://host:port only")
    if target.url.path:
        raise InvalidTargetFile(f"{path}:{line}: found {target.url.url} with a path; a target list allows none")
    return target
