"""The rig of the conformance tests, and sample plugins without the events of other tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.conftest import loop, rig
from tests.plugin_host import samples

__all__ = ["loop", "rig"]


@pytest.fixture(autouse=True)
def events() -> Iterator[list[str]]:
    """The events of the sample plugins in this test; plugins that wait are released at its end."""
    for each in (samples.EVENTS, samples.SEEN, samples.RESPONSES):
        each.clear()
    samples.GATE.clear()
    yield samples.EVENTS
    samples.GATE.set()
