"""How many descriptors this process may have, and how many the commands that it starts."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator

_SPARE = 8  # descriptors that the start of a command opens for itself

_original: int | None = None  # the soft limit before it was raised


def raise_limit() -> None:
    """Raise the soft limit to the hard one: every connection, and every process that is watched, takes descriptors."""
    global _original
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            _original = soft


def limit() -> int:
    """Return how many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


@contextlib.contextmanager
def original_limit() -> Iterator[None]:
    """Have a command that is started meanwhile inherit the soft limit from before :func:`raise_limit`.

    Programs that use select(2), or close every descriptor that there could be, rely on it. Where more descriptors than
    that are open, the limit is just above them.
    """
    if _original is None:
        yield
        return
    raised, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(_original, highest + 1 + _SPARE), raised), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
