"""The rig of the conformance tests (gateways in this process, raw clients), and a folder for other users."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import loop, rig

__all__ = ["loop", "rig"]


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder that workers of nginx may read, whose user is another one."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield Path(place)
