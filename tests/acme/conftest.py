"""The rig of the tests of certificates: gateways in this process, and Pebble."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acme.pebble import Pebble
from tests.conformance.conftest import loop, rig

__all__ = ["loop", "rig"]


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with Pebble(tmp_path_factory.mktemp("pebble")) as running:
        running.serve("www.example.com", "api.example.com")
        yield running
