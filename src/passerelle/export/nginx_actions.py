"""Routes without a service in nginx: redirects, fixed responses, and files."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

from passerelle.actions.media_types import TYPES
from passerelle.config.models.actions import Redirect, Respond, Static
from passerelle.config.models.config import Route
from passerelle.export.nginx_text import MOST_GROUPS, literal, path_regex, regex, replacement
from passerelle.export.nginx_writer import Writer
from passerelle.routing.paths import LITERAL, REST, Pattern

CLOSED = 501
"""The status of routes that nginx cannot serve."""

Lose = Callable[..., None]
"""Reports a loss: keys below the route, and ``why``."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def write_action(out: Writer, route: Route, lose: Lose, path: Callable[[Path], str]) -> None:
    """Write what a location does for a route with an action. ``path`` is the place of a file in the deployment."""
    out.add("absolute_redirect", "off")
    if route.redirect is not None:
        _write_redirect(out, route, route.redirect)
    elif route.respond is not None:
        _write_respond(out, route.respond, lose)
    elif route.static is not None:
        _write_static(out, route, route.static, lose, path(route.static.folder))


def _write_redirect(out: Writer, route: Route, redirect: Redirect) -> None:
    start = ""
    if redirect.scheme or redirect.host or redirect.www:
        host = redirect.host or ("$host" if redirect.scheme else "$http_host")
        if redirect.www is not None:
            out.add("set", "$plain_host", host)
            with out.block("if", r'($plain_host ~* "^www\.(.*)$")'):
                out.add("set", "$plain_host", "$1")
            host = "www.$plain_host" if redirect.www == "add" else "$plain_host"
        start = f"{redirect.scheme or '$scheme'}://{host}"
    query = "$is_args$args" if redirect.query == "keep" else ""
    if redirect.path is None and query:
        out.add("return", str(redirect.status), f"{start}$request_uri")
        return
    # The groups are those of the path as sent: nginx does not encode what it has decoded.
    pattern = Pattern.parse(route.path)
    groups, path = (_path_regex(pattern), _path(redirect.path, pattern)) if redirect.path else (r"^([^?]*)", "$1")
    with out.block("if", f"($request_uri ~ {regex(groups)})"):
        out.add("return", str(redirect.status), f'"{start}{path}{query}"')
    out.add("return", "400")


def _path_regex(pattern: Pattern) -> str:
    """Return the regular expression of the targets that a pattern matches, with a group for each parameter."""
    parts = []
    for segment in pattern.segments:
        constraint = segment.pattern
        one = "[^/?]+" if constraint is None else constraint.regex(without=b"/?")
        group = "([^?]*)" if segment.kind == REST else f"({one})"
        parts.append("/" + (re.escape(segment.text) if segment.kind == LITERAL else group))
    return f"^{''.join(parts)}(?:\\?|$)"


def _path(template: str, pattern: Pattern) -> str:
    numbers = {name: number for number, name in enumerate(pattern.names, 1)}
    literals = [part.replace("$", "${dollar}") for part in _PLACEHOLDER.split(template)[::2]]
    groups = [f"${numbers[name]}" for name in _PLACEHOLDER.findall(template)]
    return "".join(part for pair in itertools.zip_longest(literals, groups, fillvalue="") for part in pair)


def _write_respond(out: Writer, respond: Respond, lose: Lose) -> None:
    media_type = "application/json" if isinstance(respond.body, dict | list) else "text/plain; charset=utf-8"
    location = None
    for name, value in respond.headers.items():
        if name.lower() == "content-type":
            media_type = value
        elif name.lower() == "location" and 301 <= respond.status <= 308:
            location = value
        else:
            out.add("add_header", name, literal(value), "always")
    if 301 <= respond.status <= 308:
        if location is None or respond.status not in (301, 302, 303, 307, 308):
            lose("respond", why=f"nginx redirects with these statuses; the export responds {CLOSED}")
            out.add("return", str(CLOSED))
            return
        if respond.body is not None:
            lose("respond", "body", why="nginx has a body of its own for redirects")
        out.add("return", str(respond.status), literal(location))
        return
    body = respond.body if isinstance(respond.body, str | None) else json.dumps(respond.body, ensure_ascii=False)
    if not body and respond.status >= 300:
        out.add("set", "$nothing", '""')  # nginx would send a page of its own
        out.add("return", str(respond.status), "$nothing")
        return
    if not body:
        out.add("return", str(respond.status))
        return
    with out.block("types"):  # none by the end of the path
        pass
    out.add("default_type", literal(media_type))
    out.add("return", str(respond.status), literal(body))


def write_types(out: Writer) -> None:
    """Write the media types of files, which nginx otherwise reads from a file of its own."""
    with out.block("types"):
        for ending, name in TYPES.items():
            out.add(name, ending)
    out.add("default_type", "application/octet-stream")
    out.add("charset", "utf-8")
    out.add("charset_types", *sorted({name for name in TYPES.values() if name.startswith("text/")} - {"text/html"}))


def _write_static(out: Writer, route: Route, static: Static, lose: Lose, folder: str) -> None:
    pattern = Pattern.parse(route.path)
    template = route.rewrite or (f"/{{{pattern.names[-1]}}}" if pattern.segments[-1].kind == REST else None)
    is_moved = template is not None and pattern.shape != "/{*}"
    # Before "rewrite … break", which ends these checks.
    with out.block("if", r'($uri ~ "/\.(?!well-known/[^.])|/\.well-known/.*/\.|.+/\.well-known/")'):
        out.add("return", "404")
    if is_moved and template is not None:
        if len(pattern.names) > MOST_GROUPS:
            lose("static", why=f"nginx has at most {MOST_GROUPS} groups; the export responds {CLOSED}")
            out.add("return", str(CLOSED))
            return
        lose("static", why="nginx does not redirect a folder to the path with a slash here; it responds 404")
        out.add("rewrite", regex(path_regex(pattern)), replacement(template, pattern), "break")
    out.add("root", literal(folder))
    out.add("disable_symlinks", "on", f"from={literal(folder)}")
    out.add("index", *static.index)
    names = [f"$uri{name.removeprefix('{path}')}" for name in static.try_files]
    if static.try_files != ("{path}",) or static.fallback is not None or is_moved:
        if static.fallback is not None:
            lose("static", "fallback", why="nginx has it also in place of missing scripts and images")
        # An index of a folder is found here, because a fallback comes after it.
        names += [f"$uri/{name}" for name in static.index] if is_moved or static.fallback is not None else []
        out.add("try_files", *names, *([static.fallback] if static.fallback is not None else []), "=404")
    if static.precompressed:
        out.add("gzip_vary", "on")
        if "gzip" in static.precompressed:
            out.add("gzip_static", "on")
        if set(static.precompressed) - {"gzip"}:
            lose("static", "precompressed", why="nginx has gzip only")
