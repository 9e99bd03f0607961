"""A configuration that is being made from the file of another program, and what of that file was not carried over.

Two rules hold for each source. What would restrict who may use a route is never dropped: such a route responds 501
until someone has written its guard. And what a draft contains is checked as any file is; a part that the check refuses
is taken out and listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from passerelle.config import inspect_text
from passerelle.export.yaml_text import dump

CLOSED = 501
"""The status of a route whose access rules were not carried over."""
_MOST_ROUNDS = 20
_KEY = re.compile(r"(routes)\[(\d+)\]|(services)\.([^.\[]+)|([a-z_]+)").match
_ORDER = ("listen", "tls", "trusted_proxies", "limits", "keys", "services", "routes")
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST = 100
# Keys of a route that say what it matches.
_MATCHING = ("", "path", "host", "methods", "match", "priority")


class ImportProblem(Exception):
    """The file cannot be read as a file of the program. The text is one line, with its place."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something of the file that was not carried over."""

    file: str
    line: int
    what: str
    why: str

    def __str__(self) -> str:
        what = self.what if len(self.what) <= _LONGEST else f"{self.what[:_LONGEST]}…"
        return f"{self.file}:{self.line}: {what}: {self.why}"


@dataclass(slots=True)
class DraftRoute:
    """A route with the place in the other file that it is from."""

    keys: dict[str, Any]
    file: str
    line: int
    what: str


@dataclass(slots=True)
class Draft:
    """The configuration so far. ``top`` are the other keys of the file."""

    source: str
    top: dict[str, Any] = field(default_factory=dict)
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    routes: list[DraftRoute] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, file: str, line: int, what: str, why: str) -> None:
        """List something that was not carried over."""
        found = Skipped(file, line, " ".join(what.split()), why)
        if found not in self.skipped:
            self.skipped.append(found)

    def add_service(self, wanted: str, keys: Mapping[str, Any]) -> str:
        """Add a service, or find the same one; return its name, which is similar to ``wanted``."""
        base = _NO_NAME.sub("-", wanted).strip("-_")[:40] or "service"
        base = base if base[0].isalpha() else f"service-{base}"
        name, number = base, 1
        while name in self.services and self.services[name] != keys:
            number += 1
            name = f"{base}-{number}"
        self.services[name] = dict(keys)
        return name

    def finish(self) -> tuple[str, list[Skipped]]:
        """Return the text of the configuration, which passes the check, and what was not carried over."""
        for route in self.routes:
            _fit_cors(route.keys)
        for _ in range(_MOST_ROUNDS):
            body = dump(escaped(self._document()))
            report = inspect_text(body, environ={}, elsewhere=True)
            if report.config is not None:
                break
            self._take_out((problem.key, problem.message) for problem in report.errors)
        else:
            raise ImportProblem(f"{self.source}: no configuration could be made of it: {report.errors[0].message}")
        listed = sorted(self.skipped, key=lambda skipped: (skipped.file, skipped.line))
        return f"{self._comment(listed)}{body}", listed

    def _document(self) -> dict[str, Any]:
        used = {name for route in self.routes for name in _services_of(route.keys)}
        services = {name: keys for name, keys in self.services.items() if name in used}
        routes = [route.keys for route in self.routes] or [{"path": "/{rest*}", "respond": 404}]
        document = self.top | ({"services": services} if services else {}) | {"routes": routes}
        return {key: document[key] for key in (*_ORDER, *document) if key in document}

    def _take_out(self, errors: Iterable[tuple[str, str]]) -> None:
        """Take out each part of the draft that has an error, and list it.

        A route that is refused for anything but what it matches responds 501: without it, a wider route, which may
        have none of its guards, would take its requests.
        """
        unfit: dict[int, tuple[str, str]] = {}
        for key, message in errors:
            match = _KEY(key)
            if match is None:
                continue
            if match[1]:
                unfit.setdefault(int(match[2]), (key.partition("].")[2], message))
            elif match[3]:
                self.services.pop(match[4], None)
            else:
                self.top.pop(match[5], None)
                self.skip(self.source, 1, match[5], f"passerelle refuses it: {message}")
        for index in sorted(unfit, reverse=True):
            if index < len(self.routes):
                route = self.routes.pop(index)
                key, message = unfit[index]
                why = f"passerelle refuses it: {key}: {message}"
                fallback = closed(route.keys)
                if key.partition(".")[0].partition("[")[0] not in _MATCHING and route.keys != fallback:
                    self.routes.insert(index, DraftRoute(fallback, route.file, route.line, route.what))
                    why = f"{why}; until then the route responds {CLOSED}"
                self.skip(route.file, route.line, route.what, why)

    def _comment(self, listed: list[Skipped]) -> str:
        text = f"# Imported from {_printable(self.source)}.\n"
        if listed:
            text += "# Not carried over:\n" + "".join(f"#   {_printable(str(each))}\n" for each in listed)
        return text


def escaped(value: Any) -> Any:
    """Return ``value`` with its dollar signs as the configuration writes them: nothing in it is a variable."""
    if isinstance(value, dict):
        return {name: escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


def closed(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return a route with the same matching as ``keys`` that responds :data:`CLOSED`."""
    return {key: keys[key] for key in ("path", "host", "methods", "match") if key in keys} | {"respond": CLOSED}


def _fit_cors(keys: dict[str, Any]) -> None:
    """Leave out the methods of `cors` that the route does not accept: other programs allow them without an effect."""
    methods, cors = keys.get("methods"), keys.get("cors")
    if methods and cors and "methods" in cors:
        accepted = {*methods, *(["HEAD"] if "GET" in methods else [])}
        rest = {key: value for key, value in cors.items() if key != "methods"}
        kept = [each for each in cors["methods"] if each in accepted]
        keys["cors"] = rest | ({"methods": kept} if kept else {})


def _services_of(keys: Mapping[str, Any]) -> list[str]:
    auth = keys.get("forward_auth")
    named = [keys.get("service"), auth["service"] if isinstance(auth, dict) else None]
    return [name for name in named if name is not None]


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
