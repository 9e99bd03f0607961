"""The rig of the conformance tests: scripted upstreams, gateways in this process, raw clients."""

from __future__ import annotations

from tests.conformance.conftest import loop, rig

__all__ = ["loop", "rig"]
