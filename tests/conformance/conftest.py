"""Fixtures of the conformance tests: one event loop per session, one rig (upstreams, gateways, clients) per test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.gateways import Loop, Rig


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.close()


@pytest.fixture
def rig(loop: Loop) -> Iterator[Rig]:
    made = Rig(loop)
    root = logging.getLogger()
    root.addHandler(made.log)
    try:
        yield made
    finally:
        root.removeHandler(made.log)
        made.close()
