"""Name the source files that have grown past 400 lines: a file that long is two files. Exit 1 if there is one."""

from __future__ import annotations

import sys
from pathlib import Path

MOST_LINES = 400


def too_long(folder: Path) -> list[tuple[Path, int]]:
    """The Python files under ``folder`` with more than :data:`MOST_LINES` lines, and how many they have."""
    counted = [(path, len(path.read_bytes().splitlines())) for path in sorted(folder.rglob("*.py"))]
    return [(path, lines) for path, lines in counted if lines > MOST_LINES]


def main(argv: list[str]) -> int:
    """Check the folders named (``src`` without any)."""
    found = [entry for folder in argv or ["src"] for entry in too_long(Path(folder))]
    for path, lines in found:
        print(f"{path}: {lines} lines, {MOST_LINES} at most: make it two files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
