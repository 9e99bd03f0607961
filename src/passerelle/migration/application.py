"""The routes of an application, read from it in a process of its own with its own interpreter."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Final

import orjson

from passerelle.config.models.values import METHODS
from passerelle.migration.found_routes import FoundRoute, RefusedRoute, SourceError, Variable, to_pattern
from passerelle.migration.openapi import routes_of_document
from passerelle.routing.paths import PatternError

MOST_BYTES: Final = 32 * 2**20
"""Longest description that an application may print."""
_CHILD = Path(__file__).with_name("url_map_child.py")
_REFUSED = 3  # exit code of the child
_LINES = 40  # of stderr that are kept
_DRAIN = 2.0  # seconds to read what is left in a pipe
_VARIABLE = re.compile(
    r"<(?:(?P<converter>[A-Za-z_][A-Za-z0-9_]*)(?:\((?:\"[^\"]*\"|'[^']*'|[^()\"'])*\))?:)?(?P<name>[A-Za-z_]\w*)>"
)


def read_application(app: str, python: str, folder: Path, limit: float) -> tuple[list[FoundRoute], list[RefusedRoute]]:
    """Return the routes of ``app`` (``module:attribute`` or ``module:factory()``), imported in ``folder``.

    The process is ended after ``limit`` seconds, with all that it started in its session.

    :raises SourceError: if there is no such application, or it cannot be imported.
    """
    described = _run([python, str(_CHILD), app], folder, limit, app)
    if "openapi" in described:
        return routes_of_document(described["openapi"], Path(app))
    return _flask_routes(described["rules"])


def _run(command: list[str], folder: Path, limit: float, app: str) -> Any:
    try:
        process = subprocess.Popen(  # noqa: S603 - the interpreter that the user names, with fixed arguments
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise SourceError(f"cannot run {command[0]}: {(error.strerror or str(error)).lower()}") from None
    output: deque[bytes] = deque()
    errors: deque[bytes] = deque(maxlen=_LINES)
    assert process.stdout is not None and process.stderr is not None
    readers = {
        process.stdout: threading.Thread(target=_read_all, args=(process.stdout, output), daemon=True),
        process.stderr: threading.Thread(target=_read_last, args=(process.stderr, errors), daemon=True),
    }
    for reader in readers.values():
        reader.start()
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        raise SourceError(f"{app} was not imported within {limit:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream, reader in readers.items():
            reader.join(_DRAIN)
            if not reader.is_alive():  # a process that left the session may still hold the other end
                stream.close()
    said = [line.decode("utf-8", "replace").strip() for line in errors if line.strip()]
    if code == _REFUSED and said:
        raise SourceError(said[-1])
    if code:
        raise SourceError(f"importing {app} failed: {said[-1][:500] if said else f'exit code {code}'}")
    try:
        return orjson.loads(b"".join(output))
    except orjson.JSONDecodeError:
        raise SourceError(f"{app} has a description of more than {MOST_BYTES // 2**20} MiB, or none") from None


def _read_all(stream: IO[bytes], into: deque[bytes]) -> None:
    """Read up to ``MOST_BYTES``, and drain the rest."""
    size = 0
    while chunk := stream.read(65536):
        size += len(chunk)
        if size <= MOST_BYTES:
            into.append(chunk)


def _read_last(stream: IO[bytes], into: deque[bytes]) -> None:
    while line := stream.readline(4096):
        into.append(line)


def _flask_routes(rules: Iterable[dict[str, Any]]) -> tuple[list[FoundRoute], list[RefusedRoute]]:
    found: list[FoundRoute] = []
    refused: list[RefusedRoute] = []
    for rule in rules:
        text = rule["rule"]
        try:
            path, notes = to_pattern(_pieces(text, frozenset(rule["rest"])))
        except PatternError as error:
            refused.append(RefusedRoute(text, str(error)))
            continue
        host = rule["host"] or None
        if rule["subdomain"] or (host and "<" in host):
            notes.append(f"for {'the subdomain ' + rule['subdomain'] if rule['subdomain'] else host} only")
            host = None
        methods = set(rule["methods"] or ()) & set(METHODS)
        if len(methods) > 1 and not rule["own_options"]:
            methods.discard("OPTIONS")  # which Flask adds to each rule
        ordered = tuple(method for method in METHODS if method in methods)
        found.append(FoundRoute(path, () if rule["websocket"] else ordered, host, text, tuple(notes)))
    return found, refused


def _pieces(rule: str, rest: frozenset[str]) -> list[str | Variable]:
    """Split a rule of Werkzeug, such as ``/user/<int:user_id>``; ``rest`` names the variables with slashes."""
    pieces: list[str | Variable] = []
    end = 0
    for match in _VARIABLE.finditer(rule):
        pieces += [rule[end : match.start()], Variable(match["name"], match["name"] in rest)]
        end = match.end()
    if "<" in rule[end:]:
        raise PatternError(f"found {rule!r}, whose variables cannot be read")
    return [*pieces, rule[end:]]
