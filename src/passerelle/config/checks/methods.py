"""Check of methods that a part of a route names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from passerelle.config.models.config import Route
from passerelle.config.problems import Finding, Loc


def not_accepted(loc: Loc, methods: Iterable[str], route: Route) -> Iterator[Finding]:
    """Find those of the ``methods`` at ``loc`` that ``route`` does not accept; GET includes HEAD."""
    accepted = route.accepted
    for index, method in enumerate(methods):
        is_accepted = accepted is None or method.encode() in accepted or (method == "HEAD" and b"GET" in accepted)
        if not is_accepted:
            names = ", ".join(sorted(name.decode() for name in accepted or ()))
            yield Finding((*loc, index), f"found {method!r}; the route accepts {names}")
