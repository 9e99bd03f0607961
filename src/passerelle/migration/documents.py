"""Documents in JSON or YAML as plain values, with bounds: size, depth, and no alias inside of itself.

All scalars of YAML stay texts. An alias is the same object as its anchor, so nothing is expanded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson
import yaml

from passerelle.migration.found_routes import SourceError

MOST_BYTES: Final = 16 * 2**20
MOST_DEPTH: Final = 200


def read_document(path: Path) -> Any:
    """Return the content of a file.

    :raises SourceError: if it cannot be read; the text has the position.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > MOST_BYTES:
        raise SourceError(f"{path}: found more than {MOST_BYTES // 2**20} MiB; allowed are {MOST_BYTES // 2**20}")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data.lstrip()[:1] in (b"{", b"["):
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            json_error = f"{path}:{error.lineno}:{error.colno}: {error.msg}"
        if path.suffix == ".json":
            raise SourceError(json_error)
    return _parse_yaml(data, path)


def _parse_yaml(data: bytes, path: Path) -> Any:
    """Build the values from the events of the parser: a constructor would recurse, and follow tags."""
    root: list[Any] = []
    # Open collections: the object, and in a mapping the key that has no value yet.
    stack: list[tuple[Any, list[str], str | None]] = [(root, [], None)]
    anchors: dict[str, Any] = {}
    try:
        for event in yaml.parse(data, Loader=yaml.CBaseLoader):
            mark = event.start_mark
            where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
            if isinstance(event, yaml.DocumentStartEvent) and root:
                raise SourceError(f"{where}: found a second document; allowed is one")
            if isinstance(event, yaml.CollectionStartEvent):
                if len(stack) > MOST_DEPTH:
                    raise SourceError(f"{where}: found more than {MOST_DEPTH} levels of nesting")
                stack.append(({} if isinstance(event, yaml.MappingStartEvent) else [], [], event.anchor))
                continue
            if isinstance(event, yaml.CollectionEndEvent):
                value, _, anchor = stack.pop()
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in anchors:
                    raise SourceError(f"{where}: the alias *{event.anchor} has no complete anchor above it")
                value, anchor = anchors[event.anchor], None
            elif isinstance(event, yaml.ScalarEvent):
                value, anchor = event.value, event.anchor
            else:
                continue
            if anchor is not None:
                anchors[anchor] = value
            _add(stack[-1][0], stack[-1][1], value, where)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
        raise SourceError(f"{where}: {error.problem or 'the YAML is invalid'}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: {' '.join(str(error).split())}") from None
    return root[0] if root else None


def _add(collection: Any, key: list[str], value: Any, where: str) -> None:
    """Add ``value`` to an open collection; ``key`` has the key of a mapping that has no value yet."""
    if isinstance(collection, list):
        collection.append(value)
    elif key:
        collection.setdefault(key.pop(), value)
    elif isinstance(value, str):
        key.append(value)
    else:
        raise SourceError(f"{where}: found a list or mapping as a key")
