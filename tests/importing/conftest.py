"""The rig of the conformance tests."""

from __future__ import annotations

from tests.conformance.conftest import loop, rig

__all__ = ["loop", "rig"]
