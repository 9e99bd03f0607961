"""Substitution of ``${VAR}``, ``${VAR:-default}`` and ``${file:path}`` in values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from passerelle.config.reading.wording import hint

MAX_SECRET_BYTES = 64 * 1024
"""Largest file that ``${file:path}`` reads."""

REFERENCE = re.compile(r"\$(?:(\$)|\{([^{}]*)(\})?)")
"""A dollar sign of a value: ``$$`` (group 1), or a reference (group 2 is what stands in its braces, 3 the last one)."""

_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL).fullmatch


@dataclass(slots=True)
class Substituted:
    """The result: the text, whether it contains the content of a file, and failures as (nth ``$``, message)."""

    text: str
    secret: bool = False
    problems: list[tuple[int, str]] = field(default_factory=list)


def substitute(text: str, environ: Mapping[str, str], folder: Path) -> Substituted:
    """Substitute variables in ``text``. ``$$`` is a dollar sign; a ``$`` without a brace stays as it is."""
    result = Substituted("")
    done = 0
    pieces: list[str] = []
    for match in REFERENCE.finditer(text):
        pieces.append(text[done : match.start()])
        done = match.end()
        nth = text.count("$", 0, match.start())
        if match.group(1):
            pieces.append("$")
        elif not match.group(3):
            result.problems.append((nth, "found ${ without }; allowed are ${VAR}, ${VAR:-default} and ${file:path}"))
        else:
            pieces.append(_value(match.group(2), nth, environ, folder, result))
    pieces.append(text[done:])
    result.text = "".join(pieces)
    return result


def references(text: str) -> list[str]:
    """Return what ``text`` refers to, without braces: ``VAR``, ``VAR:-default`` or ``file:path``."""
    return [match.group(2) for match in REFERENCE.finditer(text) if match.group(3)]


def _value(inside: str, nth: int, environ: Mapping[str, str], folder: Path, result: Substituted) -> str:
    if inside.startswith("file:"):
        result.secret = True
        try:
            return _read(folder / inside[5:])
        except ValueError as error:
            result.problems.append((nth, str(error)))
            return ""
    match = _VARIABLE(inside)
    if not match:
        result.problems.append(
            (nth, f"found ${{{inside}}}; allowed are ${{VAR}}, ${{VAR:-default}} and ${{file:path}}; $$ is a plain $")
        )
        return ""
    name, default = match.groups()
    value = environ.get(name)
    # As in a shell, the default of ":-" also replaces an empty variable.
    if default is not None:
        return value or default
    if value is None:
        near = hint(name, environ)
        result.problems.append(
            (nth, f"the environment variable {name} is not set; set it or write ${{{name}:-default}}{near}")
        )
        return ""
    return value


def _read(path: Path) -> str:
    """Read a secret file. Returns its text without the last line end."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ValueError(f"the file {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_SECRET_BYTES:
        raise ValueError(f"the file {path} is larger than {MAX_SECRET_BYTES} bytes")
    try:
        return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"the file {path} is not UTF-8 text") from None
