"""The access log: where its lines go, and their format."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator, ValidationInfo
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Takes
from passerelle.config.models.values import parse_file
from passerelle.config.reading.wording import describe, hint

SYSLOG_PORT = 514
"""The port of a syslog server that is named without one (RFC 5426 §3.3)."""

JOURNALD = "/run/systemd/journal/socket"
"""The socket of journald, if none is named."""

FIELDS = (
    *("time", "request_id", "client", "method", "host", "user_agent", "target", "status", "attempts", "instance"),
    *("route", "service", "cache", "bytes_in", "bytes_out", "duration_us", "upstream_us", "consumer", "hedge"),
    *("trace_id", "failure", "side", "why", "time_clf", "duration_ms"),
)
"""The fields of a template: those of the JSON line, the time as in the Common Log Format, and milliseconds."""

_MOST = 1024  # characters of a template


def _is_network_target(found: object) -> bool:
    return isinstance(found, str) and (found == "journald" or found.startswith(("syslog+", "journald:")))


def split_target(target: str) -> tuple[str, str, int]:
    """Split a target that is no file: (``udp``, ``tcp``, ``unix`` or ``journald``; host or path; port or 0).

    :raises ValueError: if it is none.
    """
    if target == "journald":
        return "journald", JOURNALD, 0
    if target.startswith("journald:"):
        return "journald", _socket_path(target.removeprefix("journald:"), target), 0
    try:
        parts: SplitResult = urlsplit(target)
        kind, host, port = parts.scheme.removeprefix("syslog+"), parts.hostname, parts.port
    except ValueError:
        kind, host, port = "", None, None
    if kind == "unix":
        return kind, _socket_path(target.removeprefix("syslog+unix:").removeprefix("//"), target), 0
    if (
        kind in ("udp", "tcp")
        and host
        and port != 0
        and target == f"syslog+{kind}://{parts.netloc}"
        and "@" not in host
        and all(0 < len(label) < 64 for label in host.removesuffix(".").split("."))
    ):
        return kind, host, port or SYSLOG_PORT
    raise ValueError(
        f"found {target!r}; allowed is syslog+udp://host:port, syslog+tcp://host:port, syslog+unix:/path or journald"
    )


def _socket_path(path: str, target: str) -> str:
    if not path.startswith("/") or "\0" in path or len(path.encode()) > 107:  # sun_path of unix(7)
        raise ValueError(f"found {target!r}; the socket is an absolute path of at most 107 bytes")
    return path


def parse_access_log(found: object, info: ValidationInfo) -> object:
    """Parse ``stdout``, ``stderr``, ``off``, a syslog server, ``journald`` or a path."""
    if found in ("stdout", "stderr", "off"):
        return found
    if found is False:
        return "off"
    if isinstance(found, str) and _is_network_target(found):
        split_target(found)
        return found
    try:
        return parse_file(found, info)
    except ValueError as error:
        raise ValueError(f"{error}, stdout or off") from None


AccessLog = Annotated[
    Path | str,
    BeforeValidator(parse_access_log),
    WithJsonSchema({"type": "string", "examples": ["stdout", "off", "var/access.log", "syslog+udp://127.0.0.1:514"]}),
    Takes("`stdout`, `stderr`, `off`, a path, a [syslog server](access-log.md#syslog) or `journald`"),
]


def parse_format(found: object) -> object:
    """Check the name of a format, or the fields of a template."""
    if found in ("json", "combined", "text"):
        return found
    allowed = "json, combined, text, or a template such as '{client} {status} {target}'"
    if not isinstance(found, str) or "{" not in found:
        raise ValueError(f"found {describe(found)}; allowed is {allowed}")
    if len(found) > _MOST or not found.isprintable():
        raise ValueError(f"found a template with line breaks or more than {_MOST} characters; allowed is one line")
    try:
        pieces = list(string.Formatter().parse(found))
    except ValueError:
        raise ValueError(f"found {found!r}; a brace that is not of a field is written twice: {{{{ or }}}}") from None
    for _, name, options, conversion in pieces:
        if name is None:
            continue
        if name not in FIELDS:
            raise ValueError(f"found no field {name!r}; allowed: {', '.join(FIELDS)}{hint(name, FIELDS)}")
        if options or conversion:
            raise ValueError(f"found options after the name of a field; allowed is {{{name}}}")
    if all(name is None for _, name, _, _ in pieces):
        raise ValueError(f"found a template without a field; allowed: {', '.join(FIELDS)}")
    return found


LogFormat = Annotated[
    str,
    BeforeValidator(parse_format),
    WithJsonSchema({"type": "string", "examples": ["json", "combined", "text", "{client} {status} {target}"]}),
    Takes("`json`, `combined`, `text` or a [template](access-log.md#formats)"),
]


RouteLog = Literal["all", "errors", "off"]
