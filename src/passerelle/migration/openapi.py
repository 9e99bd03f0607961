"""The routes of an OpenAPI 3 document (JSON or YAML), with the path of its first server.

References of path items are followed inside of the document and to other files in its folder or below, never to a
network. Schemas are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from passerelle.config.models.values import METHODS
from passerelle.migration.documents import read_document
from passerelle.migration.found_routes import (
    MOST_REFUSED,
    MOST_ROUTES,
    FoundRoute,
    RefusedRoute,
    SourceError,
    Variable,
    to_pattern,
)
from passerelle.routing.paths import PatternError

MOST_FILES: Final = 100
MOST_STEPS: Final = 32
"""Most references from one to the next."""
_VARIABLE = re.compile(r"\{([^{}/]*)\}")


def read_openapi(path: Path) -> tuple[list[FoundRoute], list[RefusedRoute]]:
    """Return the routes of the document at ``path``.

    :raises SourceError: if it is not an OpenAPI 3 document.
    """
    return routes_of_document(read_document(path), path)


def routes_of_document(document: Any, path: Path) -> tuple[list[FoundRoute], list[RefusedRoute]]:
    """Return the routes of a document that was read from ``path``."""
    version = document.get("openapi") if isinstance(document, Mapping) else None
    if not isinstance(version, str) or not version.startswith("3."):
        found = f"openapi {version!r}" if version is not None else "no key openapi"
        if isinstance(document, Mapping) and "swagger" in document:
            found = f"swagger {document['swagger']!r}"
        raise SourceError(f"{path}: found {found}; allowed is an OpenAPI 3 document")
    paths = document.get("paths")
    if paths is None:
        paths = {}
    if not isinstance(paths, Mapping):
        raise SourceError(f"{path}: paths: found no mapping")
    if len(paths) > MOST_ROUTES:
        raise SourceError(f"{path}: found {len(paths)} paths; allowed are {MOST_ROUTES}")
    files = _Files(path, document)
    prefix = _prefix(document)
    routes: list[FoundRoute] = []
    refused: list[RefusedRoute] = []
    for text, item in paths.items():
        if text.startswith("x-"):
            continue
        try:
            methods = files.methods(item, path, document)
            pattern, notes = to_pattern(_pieces(prefix + text))
        except (PatternError, SourceError) as error:
            if len(refused) < MOST_REFUSED:
                refused.append(RefusedRoute(text, str(error)))
            continue
        routes += [FoundRoute(pattern, (method,), None, text, tuple(notes)) for method in METHODS if method in methods]
    return routes, refused


def _prefix(document: Mapping[str, Any]) -> str:
    """Return the path of the first server without its last slash, with the defaults of its variables."""
    servers = document.get("servers")
    server = servers[0] if isinstance(servers, list) and servers else None
    url = server.get("url") if isinstance(server, Mapping) else None
    if not isinstance(server, Mapping) or not isinstance(url, str):
        return ""
    given = server.get("variables")
    variables = given if isinstance(given, Mapping) else {}

    def default(match: re.Match[str]) -> str:
        variable = variables.get(match[1])
        return str(variable.get("default", "")) if isinstance(variable, Mapping) else match[0]

    try:
        path = urlsplit(_VARIABLE.sub(default, url[:2000])).path.rstrip("/")
    except ValueError:
        return ""
    return "/" + path.lstrip("/") if path and path != "." else ""


def _pieces(path: str) -> list[str | Variable]:
    """Split a path template such as ``/user/{user_id}``."""
    pieces: list[str | Variable] = []
    end = 0
    for match in _VARIABLE.finditer(path):
        pieces += [unquote(path[end : match.start()]), Variable(match[1])]
        end = match.end()
    if "{" in path[end:] or any("{" in piece or "}" in piece for piece in pieces if isinstance(piece, str)):
        raise PatternError(f"found {path!r} with a lone brace")
    return [*pieces, unquote(path[end:])]


class _Files:
    """The document and the files that it refers to, each read once."""

    def __init__(self, path: Path, document: Any) -> None:
        self._folder = path.parent.resolve()
        self._documents: dict[Path, Any] = {path.resolve(): document}

    def methods(self, item: Any, path: Path, document: Any) -> set[str]:
        """Return the methods of a path item in ``document``, and of those that it refers to."""
        found: set[str] = set()
        seen: set[int] = set()
        for _ in range(MOST_STEPS):
            if not isinstance(item, Mapping):
                raise SourceError("found no mapping of methods")
            if id(item) in seen:
                raise SourceError("its $ref leads back to itself")
            seen.add(id(item))
            found.update(name.upper() for name in item if name.upper() in METHODS and name.islower())
            reference = item.get("$ref")
            if reference is None:
                return found
            if not isinstance(reference, str):
                raise SourceError("its $ref is no text")
            item, path, document = self._follow(reference, path, document)
        raise SourceError(f"its $ref leads over more than {MOST_STEPS} references")

    def _follow(self, reference: str, path: Path, document: Any) -> tuple[Any, Path, Any]:
        name, _, fragment = reference.partition("#")
        if name:
            path, document = self._read(reference, path.parent / unquote(name))
        value = document
        for step in unquote(fragment).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(value, Mapping) or key not in value:
                raise SourceError(f"$ref {reference[:200]!r} leads nowhere")
            value = value[key]
        return value, path, document

    def _read(self, reference: str, path: Path) -> tuple[Path, Any]:
        if "://" in reference:
            raise SourceError(f"$ref {reference[:200]!r} is not followed: it is not a file")
        try:
            resolved = path.resolve()
        except (OSError, ValueError, RuntimeError):
            raise SourceError(f"$ref {reference[:200]!r} is no path") from None
        if not resolved.is_relative_to(self._folder):
            raise SourceError(f"$ref {reference[:200]!r} is not followed: it leaves the folder of the document")
        if resolved not in self._documents:
            if len(self._documents) >= MOST_FILES:
                raise SourceError(f"$ref {reference[:200]!r} is not followed: {MOST_FILES} files were read")
            self._documents[resolved] = read_document(path)
        return path, self._documents[resolved]
