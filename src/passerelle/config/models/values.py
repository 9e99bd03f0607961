"""The small values of a configuration: numbers, names, paths, commands. Each says what is allowed when refused.

Parsers take what YAML gave (text, number, bool, None) and raise ``ValueError`` with a message made of what was found
and what is allowed; :mod:`passerelle.config.loader` adds file, line, column and key.
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
from passerelle.config.reading.wording import describe, hint
from passerelle.errors import Failure
from passerelle.routing.paths import Pattern, Template, canonical_path

METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PURGE", "REPORT", "SEARCH"),
    *("COPY", "LOCK", "MKCALENDAR", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "UNLOCK"),
)
"""Methods that a route may name. The gateway refuses CONNECT and TRACE; a route without names takes any other."""


@dataclass(frozen=True, slots=True)
class WholeNumber:
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


def parse_file(found: object, info: ValidationInfo) -> Path:
    """A path, relative to the folder of the configuration file (``info.context["folder"]``)."""
    if not isinstance(found, str) or not found or "\0" in found:
        raise ValueError(f"found {describe(found)}; allowed is a path")
    return Path((info.context or {}).get("folder", "."), found)


File = Annotated[Path, BeforeValidator(parse_file), WithJsonSchema({"type": "string"})]


SHARED: Final = "redis"
"""What stands in the place of a file for what is kept in Redis."""


def parse_store(found: object, info: ValidationInfo) -> object:
    """``redis`` or a path."""
    return SHARED if found == SHARED else parse_file(found, info)


Store = Annotated[
    Literal["redis"] | Path,
    BeforeValidator(parse_store),
    WithJsonSchema({"type": "string", "examples": [SHARED, "var/passerelle.db"]}),
]


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

_APP = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\([^()]*\))?").fullmatch


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
        quotes = f"; put it in quotes: '{describe(found)}'" if isinstance(found, int | float) else ""
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
    if "/" in text:
        raise ValueError(f"found {text!r}; allowed is a host name alone, such as api.example.com")
    if text == "*":
        raise ValueError("found '*'; leave the key out for every host")
    host = text.lower().removesuffix(".")
    name = host.removeprefix("*.")
    if host.startswith("["):
        return f"[{split_address(host, '[::1]', default_port=80).host}]"
    if ":" in host:
        raise ValueError(f"found {text!r}; a host has no port here: write {host.partition(':')[0]!r}")
    if "*" in name:
        raise ValueError(f"found {text!r}; a star is allowed as the whole first label only, such as '*.example.com'")
    if not HOST(name):
        raise ValueError(f"found {text!r}; allowed is a host name such as api.example.com or '*.example.com'")
    return host


RouteHost = Annotated[Text, AfterValidator(_route_host), Field(json_schema_extra={"examples": ["api.example.com"]})]


def _method(text: str) -> str:
    if text in METHODS:
        return text
    raise ValueError(f"found {describe(text)}; allowed: {', '.join(METHODS)}{hint(text, METHODS)}")


Method = Annotated[Text, AfterValidator(_method), WithJsonSchema({"enum": list(METHODS)})]


def _flag(found: object) -> object:
    if not isinstance(found, bool):
        raise ValueError(f"found {describe(found)}; allowed: true, false")
    return found


Flag = Annotated[bool, BeforeValidator(_flag)]


# RFC 9110 §5.6.2: the name of a field, among others.
is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch


def _field_name(text: str) -> str:
    if not is_token(text):
        raise ValueError(f"found {text!r}; allowed is the name of a request field, such as Accept-Language")
    return text


def _tag(text: str) -> str:
    """Printable ASCII without blanks and commas, which separate tags in the fields that carry them."""
    plain = re.sub(r"\{[A-Za-z_][A-Za-z0-9_]*\}", "x", text)
    if not re.fullmatch(r"[!-~]{1,256}", plain) or set(plain) & set("{},"):
        raise ValueError(
            f"found {text!r}; a tag is text without blanks, commas and lone braces, such as 'user:{{user_id}}'"
        )
    return text


FieldName = Annotated[Text, AfterValidator(_field_name), Field(json_schema_extra={"examples": ["Accept-Language"]})]
TagText = Annotated[Text, AfterValidator(_tag), Field(json_schema_extra={"examples": ["user:{user_id}"]})]


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
