"""The first configuration: every route of the monolith by itself, on the monolith, and a route for the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from passerelle.migration.found_routes import CATCH_ALL, FoundRoute, why_not_shadowed
from passerelle.routing.paths import Pattern

SERVICE = "monolith"
_REST = Pattern.parse(CATCH_ALL).shape


@dataclass(frozen=True, slots=True)
class Monolith:
    """Where the monolith is: an application that passerelle starts in a folder, or the address of one that runs."""

    app: str | None = None
    folder: str = "."
    target: str | None = None

    @property
    def line(self) -> str:
        """The value of the service in the file."""
        if self.app is None:
            return f"{{targets: [{json.dumps(self.target)}]}}"
        folder = f", cwd: {json.dumps(self.folder)}" if self.folder != "." else ""
        return f"{{app: {json.dumps(self.app)}{folder}}}"


def write_file(
    monolith: Monolith, routes: Sequence[FoundRoute], requests: Mapping[int, int] | None, origin: str
) -> str:
    """Return the text of the file. ``requests`` has the requests of each route by its number, if they are known."""
    lines = [
        f"# Written by `passerelle migrate` from {_comment(origin)}. Everything is still on the monolith.",
        "# To move a route, name another service in its line; `passerelle migrate status` shows how far you are.",
        "listen: 127.0.0.1:8080",
        "admin: 127.0.0.1:9900",
        "services:",
        f"  {SERVICE}: {monolith.line}",
        "routes:",
    ]
    for number, route in enumerate(routes):
        # A dollar sign would begin a variable of the environment.
        keys = [f"path: {json.dumps(route.path.replace('$', '$$'))}"]
        if route.host is not None:
            keys.append(f"host: {json.dumps(route.host)}")
        if route.methods:
            keys.append(f"methods: [{', '.join(route.methods)}]")
        keys.append(f"service: {SERVICE}")
        remarks = [] if requests is None else [f"{requests.get(number, 0)} requests"]
        why = why_not_shadowed(route)
        remarks.append("safe to shadow" if why is None else f"do not shadow: {why}")
        remarks += route.notes
        lines.append(f"  - {{{', '.join(keys)}}} # {_comment('; '.join(remarks))}")
    if needs_catch_all(routes):
        lines.append(f"  - {{path: {json.dumps(CATCH_ALL)}, service: {SERVICE}}} # everything else")
    return "\n".join(lines) + "\n"


def needs_catch_all(routes: Sequence[FoundRoute]) -> bool:
    """Return whether no route accepts everything."""
    return not any(
        not route.methods and route.host is None and Pattern.parse(route.path).shape == _REST for route in routes
    )


def _comment(text: str) -> str:
    """Return ``text`` for a comment of one line: sources are foreign, and a line break would end the comment."""
    return "".join(character if character.isprintable() else "?" for character in text)[:300]
