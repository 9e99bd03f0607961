"""Where certificates are ordered."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Authority(NamedTuple):
    """The settings of an authority. ``contact`` are mail addresses, ``binding`` the key id and the HMAC key."""

    directory: str
    ca: Path | None = None
    contact: tuple[str, ...] = ()
    binding: tuple[str, str] | None = None
