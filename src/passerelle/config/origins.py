"""Where a configuration comes from besides its own file: included files, a profile, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Origins:
    """The profile in force, if any, and the places of values as ``file:line``.

    ``routes`` has the place of each route, and ``defaults`` those of the keys that a route has from the defaults; both
    are by the index of the route, and empty for a single file without defaults and profiles.
    """

    profile: str | None = None
    routes: Mapping[int, str] = field(default_factory=dict)
    defaults: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
