"""Reading of files whose size is not known."""

from __future__ import annotations

from pathlib import Path


def read_at_most(path: Path, most: int) -> bytes:
    """Return the bytes of a file. Raises ValueError if there are more than ``most``, OSError if it cannot be read."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"found more than {most} bytes")
    return data
