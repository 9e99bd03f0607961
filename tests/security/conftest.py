"""The rig of the conformance tests: gateways and scripted upstreams."""

from __future__ import annotations

from tests.conformance.conftest import loop, rig

__all__ = ["loop", "rig"]
