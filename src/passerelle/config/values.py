"""The small values of a configuration: durations, sizes, addresses, names. Each says what is allowed when refused.

Parsers take what YAML gave (text, number, bool, None) and raise ``ValueError`` with a message made of what was found
and what is allowed; :mod:`passerelle.config.loader` adds file, line, column and key.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
)
from pydantic.json_schema import JsonSchemaValue, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from passerelle.errors import Failure
from passerelle.paths import Pattern, Template, canonical_path

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
BYTES = {"B": 1, "KB": 10**3, "KiB": 2**10, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}

METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"),
    *("COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK", "REPORT", "PURGE"),
)
"""Methods that a route may name; CONNECT is not among them (the gateway is no tunnel)."""

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)").fullmatch


def describe(found: object) -> str:
    """What was found, in the words of an error message."""
    if found is None:
        return "nothing"
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, int | float):
        return str(found)
    if isinstance(found, str):
        return repr(found if len(found) <= 60 else found[:57] + "...")
    if isinstance(found, dict):
        return "a mapping"
    if isinstance(found, list | tuple):
        return "a list"
    return f"a {type(found).__name__}"


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that ``word`` was probably meant to be, or None."""
    by_lower = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def hint(word: str, allowed: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing."""
    name = nearest(word, allowed)
    return f"; did you mean {name}?" if name else ""


def _quantity(found: object, units: dict[str, Any], example: str, what: str) -> tuple[float, str]:
    allowed = f"{what} has a unit ({', '.join(units)}), such as {example}"
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise ValueError(f"found {describe(found)}; {allowed}")
    match = _QUANTITY(str(found).strip())
    if not match:
        raise ValueError(f"found {describe(found)}; {allowed}")
    number, unit = match.groups()
    if not unit:
        raise ValueError(f"found {found} without a unit; {allowed}")
    if unit not in units:
        near = {name.lower(): name for name in units}.get(unit.lower())
        raise ValueError(f"found {describe(found)}; {allowed}" + (f"; did you mean {number}{near}?" if near else ""))
    return float(number), unit


def parse_duration(found: object) -> float:
    """Seconds, from text such as ``250ms``, ``3s``, ``1.5m``, ``1h``."""
    number, unit = _quantity(found, SECONDS, "250ms or 3s", "a duration")
    seconds = number * SECONDS[unit]
    if not 0 < seconds <= 86400 * 7:
        raise ValueError(f"found {describe(found)}; a duration is more than 0s and at most 168h")
    return seconds


def parse_size(found: object) -> int:
    """Bytes, from text such as ``512B``, ``32KiB``, ``1MB``."""
    number, unit = _quantity(found, BYTES, "32KiB or 10MiB", "a size")
    return math.floor(number * BYTES[unit])


def parse_limit(found: object) -> int | Literal["unlimited"]:
    """A size, or ``unlimited``."""
    if found == "unlimited":
        return "unlimited"
    try:
        return parse_size(found)
    except ValueError as error:
        raise ValueError(f"{error}, or unlimited") from None


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h)$", "examples": ["250ms", "3s", "1m"]}),
]
"""Seconds."""

_SIZE_SCHEMA = {"type": "string", "pattern": r"^\d+(\.\d+)?(B|KB|KiB|MB|MiB|GB|GiB)$", "examples": ["32KiB", "10MiB"]}
Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema(_SIZE_SCHEMA)]
"""Bytes."""

Limit = Annotated[
    int | Literal["unlimited"],
    BeforeValidator(parse_limit),
    WithJsonSchema({"anyOf": [_SIZE_SCHEMA, {"const": "unlimited"}]}),
]
"""Bytes, or ``unlimited``."""


@dataclass(frozen=True, slots=True)
class Whole:
    """Annotation of an ``int``: a whole number from ``low`` to ``high``."""

    low: int
    high: int

    def check(self, found: object) -> int:
        """The number, or ``ValueError``."""
        allowed = f"allowed is a whole number from {self.low} to {self.high}"
        if isinstance(found, bool) or not isinstance(found, int):
            quoted = "; remove the quotes" if isinstance(found, str) and found.isdigit() else ""
            raise ValueError(f"found {describe(found)}; {allowed}{quoted}")
        if not self.low <= found <= self.high:
            raise ValueError(f"found {found}; {allowed}")
        return found

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


class Address(BaseModel):
    """A host (name, IPv4, or IPv6 without brackets) and a TCP port."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?").fullmatch


def split_address(text: str, example: str, default_port: int | None = None, lowest_port: int = 0) -> Address:
    """Parse ``host:port`` or ``[ipv6]:port``."""
    allowed = f"allowed is host:port, such as {example}"
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ValueError(f"found {text!r}; {allowed}, with IPv6 as [::1]:8080")
        colon, port = tail[:1], tail[1:]
        try:
            host = str(ipaddress.IPv6Address(host))
        except ValueError:
            raise ValueError(f"found {text!r}; {host!r} is not an IPv6 address") from None
    else:
        host, colon, port = text.rpartition(":")
        if not colon:
            host, port = text, ""
        if ":" in host:
            raise ValueError(f"found {text!r}; an IPv6 address stands in brackets: [{host}]:{port}")
        if host.replace(".", "").isdigit():
            if host == text and default_port is None and "." not in host:
                raise ValueError(f"found {text!r} without a host; {allowed}")
            try:
                host = str(ipaddress.IPv4Address(host))
            except ValueError:
                raise ValueError(f"found {text!r}; {host!r} is not an IPv4 address") from None
        elif not host:
            raise ValueError(f"found {text!r} without a host; {allowed}, or 0.0.0.0{text} for every interface")
        elif not _HOST(host):
            raise ValueError(f"found {text!r}; {host!r} is not a host name")
    if not colon and default_port is not None:
        return Address(host=host, port=default_port)
    if not port:
        raise ValueError(f"found {text!r} without a port; {allowed}")
    if not port.isascii() or not port.isdigit() or not lowest_port <= int(port) <= 65535:
        raise ValueError(f"found port {port!r} in {text!r}; a port is a number from {lowest_port} to 65535")
    return Address(host=host, port=int(port))


def parse_listen(found: object) -> object:
    """An address to listen at; port 0 lets the system choose one."""
    if isinstance(found, Address):
        return found
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; allowed is host:port, such as 127.0.0.1:8080")
    return split_address(found, "127.0.0.1:8080")


def parse_admin(found: object) -> object:
    """An address to listen at, or ``off``."""
    if found == "off" or found is False:
        return None
    if isinstance(found, Address):
        return found
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; allowed is host:port, such as 127.0.0.1:9900, or off")
    return split_address(found, "127.0.0.1:9900, or off")


def parse_url(found: object) -> object:
    """The address of ``http://host:port`` (port 80 if there is none)."""
    if isinstance(found, Address):
        return found
    allowed = "allowed is http://host:port, such as http://127.0.0.1:5000"
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; {allowed}")
    scheme, separator, rest = found.partition("://")
    if not separator:
        raise ValueError(f"found {found!r} without a scheme; {allowed}; did you mean http://{found}?")
    if scheme != "http":
        raise ValueError(f"found scheme {scheme!r}; {allowed}")
    authority = rest.removesuffix("/")
    if any(c in authority for c in "/?#"):
        raise ValueError(f"found {found!r} with a path; {allowed}; a path belongs into a route's rewrite")
    if "@" in authority:
        raise ValueError(f"found a user name in a target; {allowed}")
    return split_address(authority, "http://127.0.0.1:5000", default_port=80, lowest_port=1)


Listen = Annotated[
    Address, BeforeValidator(parse_listen), WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8080"]})
]
Admin = Annotated[
    Address | None,
    BeforeValidator(parse_admin),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:9900", "off"]}),
]
Url = Annotated[
    Address,
    BeforeValidator(parse_url),
    WithJsonSchema({"type": "string", "pattern": "^http://", "examples": ["http://127.0.0.1:5000"]}),
]


def parse_network(found: object) -> object:
    """An address range such as ``10.0.0.0/8``, or one address."""
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; allowed is an address range, such as 10.0.0.0/8")
    try:
        network = ipaddress.ip_network(found, strict=False)
    except ValueError:
        raise ValueError(f"found {found!r}; allowed is an address range, such as 10.0.0.0/8 or ::1/128") from None
    if "/" in found and ipaddress.ip_interface(found).ip != network.network_address:
        raise ValueError(f"found {found!r}, an address inside a range; did you mean {network}?")
    return network


Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(parse_network),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "::1/128"]}),
]


def parse_file(found: object, info: ValidationInfo) -> Path:
    """A path, relative to the folder of the configuration file (``info.context["folder"]``)."""
    if not isinstance(found, str) or not found or "\0" in found:
        raise ValueError(f"found {describe(found)}; allowed is a path")
    return Path((info.context or {}).get("folder", "."), found)


File = Annotated[Path, BeforeValidator(parse_file), WithJsonSchema({"type": "string"})]


def parse_access_log(found: object, info: ValidationInfo) -> object:
    """``stdout``, ``off`` or a path."""
    if found in ("stdout", "off"):
        return found
    if found is False:
        return "off"
    try:
        return parse_file(found, info)
    except ValueError as error:
        raise ValueError(f"{error}, stdout or off") from None


AccessLog = Annotated[
    Literal["stdout", "off"] | Path,
    BeforeValidator(parse_access_log),
    WithJsonSchema({"type": "string", "examples": ["stdout", "off", "var/access.log"]}),
]

_APP = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*").fullmatch


def parse_app(found: object) -> str:
    """``module:attribute``."""
    if isinstance(found, str) and _APP(found):
        return found
    raise ValueError(f"found {describe(found)}; allowed is module:attribute, such as users.app:app")


App = Annotated[str, BeforeValidator(parse_app), WithJsonSchema({"type": "string", "pattern": "^[^:]+:[^:]+$"})]


def parse_command(found: object) -> object:
    """A command as a list of words; text is split like a shell does, without a shell."""
    if isinstance(found, str):
        try:
            found = shlex.split(found)
        except ValueError as error:
            raise ValueError(f"the command cannot be split: {str(error).lower()}") from None
    if not isinstance(found, list | tuple) or not found or not all(isinstance(word, str) for word in found):
        raise ValueError(
            f"found {describe(found)}; allowed is a command, such as [python, serve.py, --port, '{{port}}']"
        )
    return tuple(found)


Command = Annotated[
    tuple[str, ...],
    BeforeValidator(parse_command),
    WithJsonSchema(
        {"anyOf": [{"type": "array", "items": {"type": ["string", "number"]}, "minItems": 1}, {"type": "string"}]}
    ),
]


def _text(found: object) -> object:
    if not isinstance(found, str):
        quotes = f"; put it in quotes: '{found}'" if isinstance(found, int | float) else ""
        raise ValueError(f"found {describe(found)}; allowed is text{quotes}")
    return found


def _pattern(text: str) -> str:
    return str(Pattern.parse(text))


def _template(text: str) -> str:
    return Template(text).text


def _plain_path(text: str) -> str:
    """A fixed path: canonical, without parameters."""
    try:
        canonical = canonical_path(text.encode("utf-8")).decode("ascii")
    except Failure as failure:
        raise ValueError(f"found {text!r}; {failure.detail}") from None
    if canonical != text:
        raise ValueError(f"found {text!r}; write it as {canonical!r}")
    return text


Text = Annotated[str, BeforeValidator(_text)]
PatternText = Annotated[Text, AfterValidator(_pattern), Field(json_schema_extra={"examples": ["/user/{user_id}"]})]
TemplateText = Annotated[
    Text, AfterValidator(_template), Field(json_schema_extra={"examples": ["/internal/{user_id}"]})
]
PlainPath = Annotated[Text, AfterValidator(_plain_path), Field(json_schema_extra={"examples": ["/healthz"]})]


def _route_host(text: str) -> str:
    host = text.lower().removesuffix(".")
    name = host.removeprefix("*.")
    if host.startswith("["):
        return f"[{split_address(host, '[::1]', default_port=80).host}]"
    if ":" in host:
        raise ValueError(f"found {text!r}; a host has no port here: write {host.partition(':')[0]!r}")
    if "*" in name:
        raise ValueError(f"found {text!r}; a star is allowed as the whole first label only, such as '*.example.com'")
    if not _HOST(name):
        raise ValueError(f"found {text!r}; allowed is a host name such as api.example.com or '*.example.com'")
    return host


RouteHost = Annotated[Text, AfterValidator(_route_host), Field(json_schema_extra={"examples": ["api.example.com"]})]


def _method(text: str) -> str:
    if text in METHODS:
        return text
    raise ValueError(f"found {describe(text)}; allowed: {', '.join(METHODS)}{hint(text, METHODS)}")


Method = Annotated[Text, AfterValidator(_method), WithJsonSchema({"enum": list(METHODS)})]


def _env_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError(f"found {text!r}; a variable's name is a letter or _, then letters, digits or _")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}", text):
        raise ValueError(f"found {text!r}; a name has letters, digits, _ and -, at most 63")
    return text


Name = Annotated[Text, AfterValidator(_name)]
EnvName = Annotated[Text, AfterValidator(_env_name)]
