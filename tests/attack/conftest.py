"""The attack tests use the rig of the conformance tests; the smuggling tests add real proxies."""

from __future__ import annotations

from tests.conformance.conftest import loop, rig

__all__ = ["loop", "rig"]
