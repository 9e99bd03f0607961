"""The address of a gateway whose sockets systemd passes under a name."""

from __future__ import annotations

from collections.abc import Iterator

from passerelle.config.models.config import Config
from passerelle.config.models.listeners import PassedSocket
from passerelle.config.problems import Finding


def lost_address(config: Config, option: str, given: object) -> Iterator[Finding]:
    """Find an address that the file does not have, and that the value of ``option``, ``given``, does not replace."""
    if isinstance(config.address, PassedSocket) and not given:
        why = f"the address of {config.address} is in its socket unit; give it with {option}"
        index = config.listen.index(config.main_listener)
        yield Finding(("listen", index) if len(config.listen) > 1 else ("listen",), why)
