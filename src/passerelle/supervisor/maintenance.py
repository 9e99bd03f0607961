"""The routes in maintenance: which they are, and the change of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from passerelle.config.models.config import Config
from passerelle.supervisor.errors import ChangeRefused

_MOST_NAMES = 12


class Maintenance:
    """The routes in maintenance, by label; ``routes`` is None for all."""

    def __init__(self) -> None:
        self.routes: frozenset[str] | None = frozenset()

    def change(self, config: Config, arguments: Mapping[str, str]) -> str:
        """Switch maintenance as the ``arguments`` of the admin port state, and return what happened.

        :raises ChangeRefused: if they are wrong.
        """
        state, name = arguments.get("state"), arguments.get("route")
        if state not in ("on", "off") or set(arguments) - {"state", "route"}:
            raise ChangeRefused("maintenance needs state=on or state=off, and takes route=ROUTE")
        if name is None:
            self.routes = None if state == "on" else frozenset()
            return f"maintenance is {state} for all routes"
        label = find(config, name, self.routes)
        if self.routes is None:
            if state == "on":
                return "maintenance is on for all routes"
            raise ChangeRefused("maintenance is on for all routes; switch it off for all of them")
        self.routes = self.routes | {label} if state == "on" else self.routes - {label}
        return f"maintenance is {state} for {label}"

    def as_json(self) -> dict[str, Any]:
        """Return the routes in maintenance as JSON values."""
        return {"all": self.routes is None, "routes": sorted(self.routes or ())}


def find(config: Config, name: str, known: frozenset[str] | None) -> str:
    """Return the label of the route ``name``: its label as ``passerelle routes`` has it, or a path that only it has.

    :raises ChangeRefused: if there is no such route, or there are several.
    """
    labels = [route.label for route in config.routes]
    if name in labels or (known is not None and name in known):
        return name
    found = [route.label for route in config.routes if route.path == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ChangeRefused(f"several routes have the path {name}: {', '.join(found)}")
    more = f", … ({len(labels)} routes)" if len(labels) > _MOST_NAMES else ""
    raise ChangeRefused(f"no route {name!r}; the routes are {', '.join(labels[:_MOST_NAMES])}{more}")
