"""Imports at the start of a process."""

from __future__ import annotations

import gc
import importlib
from typing import Any


def import_uncollected(name: str) -> Any:
    """Import the module ``name`` without garbage collection, and return it.

    What modules create stays: to look for garbage in it takes a twentieth of the start of a command, and a tenth of
    that of a worker.
    """
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.enable()
