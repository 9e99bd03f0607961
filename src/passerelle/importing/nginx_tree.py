"""Files of nginx as directives: their places, their blocks, and what of them was carried over."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from passerelle.importing.draft import ImportProblem

_MOST_DIRECTIVES = 200_000


@dataclass(slots=True, eq=False)
class Directive:
    """A directive with its parameters; ``used`` means that it was carried over, or listed."""

    name: str
    args: list[str]
    file: str
    line: int
    block: list[Directive] | None
    used: bool = False

    @property
    def text(self) -> str:
        """The name, and the first parameter: others may be credentials."""
        shown = self.args if self.name in ("location", "server_name", "listen") else self.args[:1]
        return " ".join([self.name, *shown])


@dataclass(slots=True)
class Scope:
    """The directives of a block, and those around it."""

    directives: Sequence[Directive]
    around: Scope | None = None

    def all(self, name: str) -> list[Directive]:
        """Return the directives ``name`` that apply here, and mark them as carried over."""
        found = [directive for directive in self.directives if directive.name == name]
        for directive in found:
            directive.used = True
        return found if found or self.around is None else self.around.all(name)

    def has(self, name: str) -> bool:
        """Return whether a directive ``name`` applies here."""
        own = any(directive.name == name for directive in self.directives)
        return own or (self.around is not None and self.around.has(name))

    def find(self, *names: str) -> Directive | None:
        """Return the first directive of one of these names that applies here, without marking it."""
        for directive in self.directives:
            if directive.name in names:
                return directive
        return self.around.find(*names) if self.around is not None else None

    def one(self, name: str) -> Directive | None:
        """Return the last directive ``name`` that applies here, and mark it."""
        found = self.all(name)
        return found[-1] if found else None


def read_nginx(path: str) -> list[Directive]:
    """Return the directives of ``path``, with those of the files that it includes.

    :raises ImportProblem: if it is no file of nginx.
    """
    try:
        import crossplane
    except ImportError:
        raise ImportProblem("nginx files need crossplane: pip install 'passerelle[import]'") from None
    if not os.path.isfile(path):
        raise ImportProblem(f"{path}: there is no such file")
    try:
        payload = crossplane.parse(path, check_ctx=False, check_args=False)
    except Exception as error:  # whatever a reader raises for a file that is none of nginx
        raise ImportProblem(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from None
    problems = [error for config in payload["config"] for error in config["errors"]] or payload["errors"]
    if payload["status"] != "ok" or problems:
        first = problems[0]
        raise ImportProblem(" ".join(str(first["error"]).split()))
    return _directives(payload["config"]) if payload["config"] else []


def _directives(files: list[dict[str, Any]]) -> list[Directive]:
    """Return the directives of the first file, with those of included files in the place of `include`."""
    count = itertools.count(1)

    def of_file(number: int, around: tuple[int, ...]) -> list[Directive]:
        return block(files[number]["parsed"], shown_path(files[number]["file"]), (*around, number))

    def block(parsed: list[dict[str, Any]], file: str, open_files: tuple[int, ...]) -> list[Directive]:
        found: list[Directive] = []
        for each in parsed:
            if next(count) > _MOST_DIRECTIVES:
                raise ImportProblem(f"{file}: more than {_MOST_DIRECTIVES} directives with those of included files")
            if "includes" in each:
                for included in each["includes"]:
                    if included in open_files:
                        raise ImportProblem(f"{file}:{each['line']}: the file is included by itself")
                    found += of_file(included, open_files)
            elif each["directive"] != "#":
                inner = block(each["block"], file, open_files) if "block" in each else None
                found.append(Directive(each["directive"], each["args"], file, each["line"], inner))
        return found

    return of_file(0, ())


def shown_path(path: str) -> str:
    """Return the path of a file for messages: relative where that is shorter."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
