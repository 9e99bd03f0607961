"""Secrets of containers: each one is a file, and configurations refer to it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passerelle.config.problems import Loc
from passerelle.config.reading.substitute import REFERENCE, references
from passerelle.export.config_tree import put, texts
from passerelle.export.deployment import Deployment
from passerelle.export.dns_labels import labels
from passerelle.export.moved_file import literal_secrets
from passerelle.export.yaml_text import Written

FOLDER = "/run/secrets"
"""Where containers read secrets that the export has introduced."""

_FILE = "file."


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A secret: the path of its file on the host, its path in containers, and what the file has to contain.

    ``content`` is empty for files that the configuration names itself.
    """

    name: str
    source: str
    target: str
    content: str = ""


@dataclass(frozen=True, slots=True)
class Filled:
    """A text whose references are valid in a container, with the secrets and environment variables that it needs."""

    text: str
    secrets: frozenset[str] = frozenset()
    variables: frozenset[str] = frozenset()


class SecretFiles:
    """All secrets of an export. Files of the configuration keep their places relative to it, in ``folder``."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self._deployment = deployment
        self._folder = folder
        self._known: dict[str, SecretFile] = {}

    def __getitem__(self, name: str) -> SecretFile:
        return self._known[name]

    @property
    def all(self) -> Mapping[str, SecretFile]:
        """All secrets by their names, sorted."""
        return dict(sorted(self._known.items()))

    def introduce(self, name: str, content: str) -> Filled:
        """Return a reference to a secret that is not in the configuration. ``name`` has a dash, unlike variables."""
        self._known[name] = SecretFile(name, f"./secrets/{name}", f"{FOLDER}/{name}", content)
        return Filled(f"${{file:{FOLDER}/{name}}}", frozenset({name}))

    def filled(self, text: str) -> Filled:
        """Return a text of the configuration with references that are valid in a container.

        Variables become secret files, except those with a default, which the containers get as variables.
        """
        secrets: set[str] = set()
        variables: set[str] = set()

        def reference(match: re.Match[str]) -> str:
            inside = match.group(2)
            if not match.group(3):
                return match.group()
            if inside.startswith("file:"):
                secret = self._file(inside.removeprefix("file:"))
                secrets.add(secret.name)
                return f"${{file:{secret.target}}}"
            name, default_sign, _ = inside.partition(":-")
            if default_sign:
                variables.add(name)
                return match.group()
            secrets.add(name)
            self._known[name] = SecretFile(
                name, f"./secrets/{name}", f"{FOLDER}/{name}", f"the value of the environment variable {name}"
            )
            return f"${{file:{FOLDER}/{name}}}"

        filled = REFERENCE.sub(reference, text)
        return Filled(filled, frozenset(secrets), frozenset(variables))

    def replace_references(
        self, data: Any, skip: Callable[[Loc], bool] = lambda _: False
    ) -> Iterator[tuple[Loc, Filled]]:
        """Replace references to variables in ``data`` by those to secrets. Yields all references with their places."""
        for loc, text in list(texts(data)):
            if not references(text) or skip(loc):
                continue
            filled = self.filled(text)
            if filled.text != text:
                put(data, loc, Written(filled.text) if isinstance(text, Written) else filled.text)
            yield loc, filled

    def replace_literals(self, data: Any) -> Iterator[tuple[Loc, Filled]]:
        """Replace secrets that stand in ``data`` by references. Yields these with their places."""
        for loc, _ in literal_secrets(data):
            key = re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(map(str, loc)))
            secret = self.introduce(f"in-file-{key}", f"the value of {'.'.join(map(str, loc))} in the file")
            put(data, loc, secret.text)
            yield loc, secret

    def mounted(self, path: Path) -> str:
        """Add a file that the configuration names by a key, such as a private key. Returns the name of the secret."""
        source = self._deployment.path(path)
        name = self._name(source)
        self._known[name] = SecretFile(name, source, self._deployment.path(path, self._folder))
        return name

    def _file(self, written: str) -> SecretFile:
        return self._known[self.mounted(Path(self._deployment.file).parent / written)]

    def _name(self, source: str) -> str:
        """Name a file: no other secret has a dot in its name."""
        taken = {each.name.removeprefix(_FILE) for each in self._known.values() if each.source != source}
        (label,) = labels([os.path.basename(source)], taken).values()
        return f"{_FILE}{label}"
