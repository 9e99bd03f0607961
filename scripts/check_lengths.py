"""Check the lengths of source files. Print one line for each file that breaks the rule; exit 1 if there is any.

A file over 400 lines states in its module docstring why it is one thing, in a sentence with the words "400 lines". A
file over 750 lines is two things. No class is split over files to meet a number.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

EXPLAINED_OVER = 400
MOST_LINES = 750

_REASON = re.compile(r"\b400\s+lines\b")


def problem(path: Path) -> str | None:
    """Return what is wrong with the length of the Python file ``path``, or None."""
    source = path.read_bytes()
    lines = len(source.splitlines())
    if lines > MOST_LINES:
        return f"{path}: {lines} lines, {MOST_LINES} at most: split it into two files with two subjects"
    if lines > EXPLAINED_OVER and not _REASON.search(ast.get_docstring(ast.parse(source)) or ""):
        return f"{path}: {lines} lines: state in its docstring why it is over 400 lines"
    return None


def main(argv: list[str]) -> int:
    """Check the named folders (default: ``src``)."""
    paths = [path for folder in argv or ["src"] for path in sorted(Path(folder).rglob("*.py"))]
    problems = [text for path in paths if (text := problem(path)) is not None]
    for text in problems:
        print(text)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
