"""Routes of a monolith, as a source describes them and as the gateway can write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from passerelle.config.models.values import METHODS
from passerelle.http.messages import SAFE_METHODS
from passerelle.routing.paths import Pattern, PatternError

MOST_ROUTES: Final = 5000
"""Most routes of a monolith."""
MOST_REFUSED: Final = 1000
"""Most refused routes that are listed."""
CATCH_ALL: Final = "/{path*}"

_SAFE = frozenset(method.decode() for method in SAFE_METHODS)
_PCHAR = "!$&'()*+,;=:@"


class SourceError(Exception):
    """A source cannot be read. The text states where and why, and ends without a full stop."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable part of a path; with ``is_rest`` it may contain slashes."""

    name: str
    is_rest: bool = False


@dataclass(frozen=True, slots=True)
class FoundRoute:
    """A route as the gateway writes it. ``source`` is the path of the monolith, ``notes`` what is not the same.

    Without ``methods``, it accepts every method.
    """

    path: str
    methods: tuple[str, ...] = ()
    host: str | None = None
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name in logs and metrics of the gateway."""
        return f"{','.join(self.methods)}{' ' if self.methods else ''}{self.host or ''}{self.path}"


@dataclass(frozen=True, slots=True)
class RefusedRoute:
    """A route that the gateway cannot write. The catch-all covers it."""

    source: str
    why: str


def to_pattern(pieces: Iterable[str | Variable]) -> tuple[str, list[str]]:
    """Return the pattern for a path of texts and variables, and how it differs from that path.

    :raises PatternError: if there is no such pattern.
    """
    segments: list[list[str | Variable]] = [[]]
    for piece in pieces:
        first, *others = piece.split("/") if isinstance(piece, str) else (piece,)
        if first != "":
            segments[-1].append(first)
        segments += [[other] if other else [] for other in others]
    if segments[0]:
        raise PatternError("it does not begin with a slash")
    # An empty segment inside of a path never arrives: the gateway removes it.
    inner = [segment for segment in segments[1:-1] if segment]
    written: list[str] = []
    notes: list[str] = []
    names: set[str] = set()
    for number, segment in enumerate([*inner, segments[-1]]):
        variables = [piece for piece in segment if isinstance(piece, Variable)]
        if not variables:
            written.append(quote("".join(map(str, segment)), safe=_PCHAR))
            continue
        name = _unique("_".join(variable.name for variable in variables), names)
        is_rest = any(variable.is_rest for variable in variables)
        written.append(f"{{{name}*}}" if is_rest else f"{{{name}}}")
        if is_rest and (number < len(inner) or len(segment) > 1):
            notes.append(f"{{{name}*}} covers more: it ends the path")
        elif len(segment) > 1:
            notes.append(f"{{{name}}} is a whole segment")
        if is_rest:
            break
    path = "/" + "/".join(written)
    return str(Pattern.parse(path)), notes


def _unique(name: str, names: set[str]) -> str:
    """Return ``name`` as the name of a parameter that is not in ``names``, and add it."""
    name = re.sub(r"\W", "_", name, flags=re.ASCII)[:60].strip("_") or "id"
    name = name if not name[0].isdigit() else f"_{name}"
    found, number = name, 2
    while found in names:
        found, number = f"{name}_{number}", number + 1
    names.add(found)
    return found


def arrange(routes: Iterable[FoundRoute]) -> list[FoundRoute]:
    """Join routes of the same paths, and separate the methods that only read: these are moved first.

    :raises SourceError: if there are too many.
    """
    joined: dict[tuple[str | None, str], list[FoundRoute]] = {}
    for number, route in enumerate(routes):
        if number >= MOST_ROUTES:
            raise SourceError(f"found more than {MOST_ROUTES} routes; allowed are {MOST_ROUTES}")
        joined.setdefault((route.host, Pattern.parse(route.path).shape), []).append(route)
    return [part for same in joined.values() for part in _parts(same)]


def _parts(same: Sequence[FoundRoute]) -> Iterable[FoundRoute]:
    """Yield the routes of one path: for reads, for writes, and for every method if one of ``same`` has no methods."""
    first = same[0]
    sources = list(dict.fromkeys(route.source for route in same))
    notes = list(dict.fromkeys(note for route in same for note in route.notes))
    if len(sources) > 1:
        notes.append(f"one route for {' and '.join(sources[:5])}")
    methods = {method for route in same for method in route.methods}
    if any(not route.methods for route in same):
        yield FoundRoute(first.path, (), first.host, first.source, tuple(notes))
        return
    if "GET" in methods:
        methods.discard("HEAD")
    for part in (methods & _SAFE, methods - _SAFE):
        if part:
            ordered = tuple(method for method in METHODS if method in part)
            yield FoundRoute(first.path, ordered, first.host, first.source, tuple(notes))


# Words of paths whose GET may have effects: a copy of such a request would have them twice.
_ACTIONS = re.compile(
    r"(?:log|sign)_?(?:in|out|off|on)|auth(?:orize)?|oauth2?|callback|token|session|(?:un)?subscribe|confirm|activate"
    r"|verify|delete|remove|cancel|reset|pay|checkout|webhook",
    re.IGNORECASE,
)


def why_not_shadowed(route: FoundRoute) -> str | None:
    """Return why copies of the requests of ``route`` may do harm, or None if they are safe."""
    unsafe = [method for method in route.methods if method not in _SAFE]
    if unsafe:
        return f"{', '.join(unsafe)} may change data, and both services would do it"
    words = [segment.replace("-", "_") for segment in route.path.split("/") if not segment.startswith("{")]
    for word in words:
        if _ACTIONS.fullmatch(word) or any(_ACTIONS.fullmatch(part) for part in word.split("_")):
            return f"a GET of {word.replace('_', '-')!r} may have effects; shadow it if it has none"
    return None
