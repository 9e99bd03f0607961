"""The included files of a configuration: which files patterns name, and whether they have changed."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from passerelle.config.reading.size import MAX_BYTES

MAX_FILES = 256
"""Maximum number of included files."""

_EMPTY = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True)
class Included:
    """The included files: the patterns that name them, and a digest of their names and contents."""

    patterns: tuple[str, ...] = ()
    digest: str = _EMPTY

    def paths(self) -> list[str]:
        """Return the files that the patterns match now, one more than allowed at most."""
        return [path for pattern in self.patterns for path in matches(pattern)][: MAX_FILES + 1]

    def is_current(self) -> bool:
        """Whether the files are still those that were read, with the same content."""
        contents: dict[str, bytes] = {}
        for path in self.paths():
            try:
                contents[path] = read_file(path)
            except OSError:
                return False
        return digest_of(contents) == self.digest


NONE_INCLUDED = Included()


def matches(pattern: str) -> list[str]:
    """Return the regular files that match, sorted; for a name without wildcards, that name."""
    if not glob.has_magic(pattern):
        return [pattern]
    return [path for path in sorted(glob.iglob(pattern)) if os.path.isfile(path)]


def read_file(path: str) -> bytes:
    """Read a file, at most one octet more than allowed. Raises ``OSError``."""
    if not os.path.isfile(path) and os.path.exists(path):
        raise OSError(0, "it is not a regular file")
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)


def digest_of(contents: Mapping[str, bytes]) -> str:
    """Return a digest of the names and contents of files."""
    digest = hashlib.sha256()
    for path, data in sorted(contents.items()):
        digest.update(f"{path}\0{len(data)}\0".encode("utf-8", "surrogateescape") + data)
    return digest.hexdigest()
