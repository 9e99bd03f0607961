"""The attack tests use the rig of the conformance tests, and in front of the smuggling table real proxies."""

from __future__ import annotations

from tests.conformance.conftest import loop, rig

__all__ = ["loop", "rig"]
