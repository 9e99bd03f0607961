"""Applications in a folder: found in the text of its Python files, none of which is imported."""

from __future__ import annotations

import ast
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOST_FILES: Final = 300
_MOST_BYTES: Final = 1 << 20
_MOST_FOLDERS: Final = 200
_SKIPPED: Final = frozenset(
    {"__pycache__", "build", "dist", "docs", "env", "migrations", "node_modules", "site-packages", "test", "tests"}
)
_FRAMEWORKS: Final = ("Flask", "FastAPI", "Quart", "Starlette", "Litestar", "Sanic", "Bottle", "App", "API")
_USUAL: Final = ("app", "main", "wsgi", "asgi", "application", "server", "api")
_FACTORIES: Final = ("create_app", "make_app", "get_app", "build_app")
_MODULES: Final = {
    "Flask": "flask",
    "FastAPI": "fastapi",
    "Quart": "quart",
    "Starlette": "starlette",
    "Litestar": "litestar",
    "Bottle": "bottle",
    "App": "falcon",
}
_NAME = re.compile(r"[A-Za-z_]\w*").fullmatch


@dataclass(frozen=True, slots=True)
class FoundApplication:
    """An application, as ``module:attribute``, its framework, and the folder from which it is imported."""

    app: str
    framework: str
    folder: str


def find_applications(folder: Path) -> list[FoundApplication]:
    """Return the applications in ``folder`` and the packages in it, the likeliest first.

    At most 300 files are read; those that are no valid Python are skipped.
    """
    found: list[tuple[int, FoundApplication]] = []
    for number, path in enumerate(_files(folder)):
        if number >= _MOST_FILES:
            break
        root = _root(path, folder)
        parts = path.relative_to(root).with_suffix("").parts
        depth = len(path.relative_to(folder).parts) - 1
        if not all(map(_NAME, parts)):
            continue
        module = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        tree = _parse(path)
        if tree is None:
            continue
        usual = _USUAL.index(parts[-1]) if parts[-1] in _USUAL else len(_USUAL)
        rank = 100 * depth + usual
        for attribute, framework in _applications(tree):
            # Django's asgi.py stands beside its wsgi.py; threads suit the ORM better.
            later = 50 if framework == "Django" and parts[-1] == "asgi" else 0
            found.append(
                (rank + later, FoundApplication(f"{module}:{attribute}", framework, os.path.relpath(root, folder)))
            )
    found.sort(key=lambda each: (each[0], each[1].app))
    return [each for _, each in found]


def _files(folder: Path) -> Iterator[Path]:
    """Yield the Python files, those of the folder itself first. Symbolic links are not followed."""
    waiting, seen = [folder], 0
    while waiting and seen < _MOST_FOLDERS:
        place = waiting.pop(0)
        seen += 1
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith((".", "test_")) or entry.name in _SKIPPED:
                continue
            if entry.is_dir(follow_symlinks=False):
                if not os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                    waiting.append(Path(entry.path))
            elif entry.name.endswith(".py") and entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def _root(path: Path, folder: Path) -> Path:
    """Return the folder from which a file is imported: the first one above it that is no package."""
    root = path.parent
    while root != folder and (root / "__init__.py").exists():
        root = root.parent
    return root


def _parse(path: Path) -> ast.Module | None:
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            text = file.read(_MOST_BYTES + 1)
        return ast.parse(text) if len(text) <= _MOST_BYTES else None
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _applications(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield attribute and framework of the applications that a module makes, and of functions that return one."""
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name: alias.name for alias in node.names}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            framework = _framework(node.value, imported)
            if framework is not None:
                yield from ((target.id, framework) for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.FunctionDef) and node.name in _FACTORIES and not _needs_arguments(node):
            made = [each.value for each in ast.walk(node) if isinstance(each, ast.Assign | ast.Return)]
            frameworks = [found for value in made if (found := _framework(value, imported)) is not None]
            if frameworks:
                yield f"{node.name}()", frameworks[0]


def _framework(value: ast.expr | None, imported: dict[str, str]) -> str | None:
    """Return the framework whose application the expression makes."""
    if not isinstance(value, ast.Call):
        return None
    name = ast.unparse(value.func)
    first, _, rest = name.partition(".")
    whole = imported.get(first, first) + (f".{rest}" if rest else "")
    package, _, last = whole.partition(".")[0], "", whole.rpartition(".")[2]
    if last in ("get_wsgi_application", "get_asgi_application") and package == "django":
        return "Django"
    return last if last in _FRAMEWORKS and package == _MODULES.get(last, last.lower()) else None


def _needs_arguments(function: ast.FunctionDef) -> bool:
    given = function.args
    return len(given.posonlyargs) + len(given.args) > len(given.defaults) or None in given.kw_defaults
