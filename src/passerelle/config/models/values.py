"""Types of simple values: numbers, names, paths, commands.

Parsers take a value from YAML (text, number, bool or None). They raise ``ValueError`` with a message that states what
was found and what is allowed; :mod:`passerelle.config.loader` adds file, line, column and key.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
)
from pydantic.json_schema import JsonSchemaValue, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from passerelle.config.models.addresses import HOST, split_address
from passerelle.config.models.base import Takes
from passerelle.config.reading.wording import describe, hint
from passerelle.errors import Failure
from passerelle.routing.paths import Pattern, Template, canonical_path

METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PURGE", "REPORT", "SEARCH"),
    *("COPY", "LOCK", "MKCALENDAR", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "UNLOCK"),
)
"""Methods that a route may list. The gateway refuses CONNECT and TRACE; a route without a list accepts all others."""


@dataclass(frozen=True, slots=True)
class WholeNumber:
    """Annotation of an ``int``: a whole number from ``low`` to ``high``."""

    low: int
    high: int

    def check(self, found: object) -> int:
        """Return the number. Raises ``ValueError`` if it is not allowed."""
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


def parse_file(found: object, info: ValidationInfo) -> Path:
    """Parse a path, relative to the folder of the configuration file (``info.context["folder"]``)."""
    if not isinstance(found, str) or not found or "\0" in found:
        raise ValueError(f"found {describe(found)}; allowed is a path")
    return Path((info.context or {}).get("folder", "."), found)


File = Annotated[Path, BeforeValidator(parse_file), WithJsonSchema({"type": "string"}), Takes("path")]


SHARED: Final = "redis"
"""The value of a store that is kept in Redis instead of a file."""


def parse_store(found: object, info: ValidationInfo) -> object:
    """Parse ``redis`` or a path."""
    return SHARED if found == SHARED else parse_file(found, info)


Store = Annotated[
    Literal["redis"] | Path,
    BeforeValidator(parse_store),
    WithJsonSchema({"type": "string", "examples": [SHARED, "var/passerelle.db"]}),
    Takes("`redis` or a path"),
]


_APP = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\([^()]*\))?").fullmatch


def parse_app(found: object) -> str:
    """Parse ``module:attribute``."""
    if isinstance(found, str) and _APP(found):
        module, _, attribute = found.partition(":")
        if module.endswith(".py"):
            near = f"{module.removesuffix('.py')}:{attribute}"
            raise ValueError(f"found {describe(found)}; a module is named without .py: {near}")
        return found
    raise ValueError(f"found {describe(found)}; allowed is module:attribute, such as users.app:app")


App = Annotated[
    str,
    BeforeValidator(parse_app),
    WithJsonSchema({"type": "string", "pattern": "^[^:]+:[^:]+$"}),
    Takes("`module:attribute`"),
]


def parse_function(found: object) -> str:
    """Parse the name of a function, ``module:function``."""
    words = found.split(":") if isinstance(found, str) else []
    if len(words) == 2 and all(each.isidentifier() for word in words for each in word.split(".")):
        return ":".join(words)
    raise ValueError(f"found {describe(found)}; allowed is module:function, such as users.start:connect")


StartFunction = Annotated[
    str,
    BeforeValidator(parse_function),
    WithJsonSchema({"type": "string", "pattern": "^[^:()]+:[^:()]+$"}),
    Takes("`module:function`"),
]


def parse_command(found: object) -> object:
    """Parse a command: a list of words, or text that is split like a shell command, without a shell."""
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
    Takes("list of words, or text"),
]


def _text(found: object) -> object:
    if not isinstance(found, str):
        quotes = f"; put it in quotes: '{describe(found)}'" if isinstance(found, int | float) else ""
        raise ValueError(f"found {describe(found)}; allowed is text{quotes}")
    return found


def _pattern(text: str) -> str:
    return str(Pattern.parse(text))


def _template(text: str) -> str:
    return Template(text).text


def _plain_path(text: str) -> str:
    """Check a fixed path: canonical, without parameters."""
    try:
        canonical = canonical_path(text.encode("utf-8"), keep_slashes=True).decode("ascii")
    except Failure as failure:
        raise ValueError(f"found {text!r}; {failure.detail}") from None
    if canonical != text:
        raise ValueError(f"found {text!r}; write it as {canonical!r}")
    return text


Text = Annotated[str, BeforeValidator(_text), Takes("text", "texts")]
PatternText = Annotated[
    Text,
    AfterValidator(_pattern),
    Field(json_schema_extra={"examples": ["/user/{user_id}"]}),
    Takes("path pattern"),
]
TemplateText = Annotated[
    Text,
    AfterValidator(_template),
    Field(json_schema_extra={"examples": ["/internal/{user_id}"]}),
    Takes("path template"),
]
PlainPath = Annotated[
    Text, AfterValidator(_plain_path), Field(json_schema_extra={"examples": ["/healthz"]}), Takes("path")
]


def _route_host(text: str) -> str:
    if "/" in text:
        raise ValueError(f"found {text!r}; allowed is a host name only, such as api.example.com")
    if text == "*":
        raise ValueError("found '*'; omit the key to match every host")
    host = text.lower().removesuffix(".")
    name = host.removeprefix("*.")
    if host.startswith("["):
        return f"[{split_address(host, '[::1]', default_port=80).host}]"
    if ":" in host:
        raise ValueError(f"found {text!r}; a host has no port; write {host.partition(':')[0]!r}")
    if "*" in name:
        raise ValueError(f"found {text!r}; a star is allowed as the whole first label only, such as '*.example.com'")
    if not HOST(name):
        raise ValueError(f"found {text!r}; allowed is a host name such as api.example.com or '*.example.com'")
    return host


RouteHost = Annotated[
    Text,
    AfterValidator(_route_host),
    Field(json_schema_extra={"examples": ["api.example.com"]}),
    Takes("name or `*.suffix`", "names"),
]


def _method(text: str) -> str:
    if text in METHODS:
        return text
    if text.upper() in METHODS:
        raise ValueError(f"found {describe(text)}; a method is written in capitals: {text.upper()}")
    if text.lower() in ("*", "any", "all"):
        raise ValueError(f"found {describe(text)}; omit the key to match all methods")
    words = re.split(r"[\s,|]+", text.strip())
    if len(words) > 1 and all(word.upper() in METHODS for word in words):
        raise ValueError(f"found {describe(text)}; several methods are a list: [{', '.join(words).upper()}]")
    raise ValueError(f"found {describe(text)}{hint(text, METHODS) or '; allowed: ' + ', '.join(METHODS)}")


Method = Annotated[Text, AfterValidator(_method), WithJsonSchema({"enum": list(METHODS)}), Takes("method", "methods")]


def _flag(found: object) -> object:
    if not isinstance(found, bool):
        raise ValueError(f"found {describe(found)}; allowed: true, false")
    return found


Flag = Annotated[bool, BeforeValidator(_flag)]


# A token (RFC 9110 §5.6.2), such as a field name.
is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch


def _field_name(text: str) -> str:
    if not is_token(text):
        raise ValueError(f"found {text!r}; allowed is the name of a request field, such as Accept-Language")
    return text


def _tag(text: str) -> str:
    """Check a tag: printable ASCII without blanks and commas, which separate tags in header fields."""
    plain = re.sub(r"\{[A-Za-z_][A-Za-z0-9_]*\}", "x", text)
    if not re.fullmatch(r"[!-~]{1,256}", plain) or set(plain) & set("{},"):
        raise ValueError(
            f"found {text!r}; a tag is text without blanks, commas and lone braces, such as 'user:{{user_id}}'"
        )
    return text


FieldName = Annotated[
    Text,
    AfterValidator(_field_name),
    Field(json_schema_extra={"examples": ["Accept-Language"]}),
    Takes("name of a field", "field names"),
]
TagText = Annotated[Text, AfterValidator(_tag), Field(json_schema_extra={"examples": ["user:{user_id}"]})]


def _env_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError(f"found {text!r}; a variable's name is a letter or _, then letters, digits or _")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}", text):
        raise ValueError(f"found {text!r}; a name has letters, digits, _ and -, at most 63")
    return text


Name = Annotated[Text, AfterValidator(_name), Takes("name", "names")]
ServiceName = Annotated[Text, Takes("name of a service")]
EnvName = Annotated[Text, AfterValidator(_env_name)]


_SYSTEM_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?").fullmatch


def parse_system_name(found: object) -> str:
    """Parse the name of a user or group."""
    if isinstance(found, str) and _SYSTEM_NAME(found):
        return found
    raise ValueError(f"found {describe(found)}; allowed is a name of this system, such as www-data")


SystemName = Annotated[
    str,
    BeforeValidator(parse_system_name),
    WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?$"}),
    Takes("name"),
]
