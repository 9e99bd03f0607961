"""The JSON Schema of the configuration file (draft 2020-12), for editors."""

from __future__ import annotations

import re
from typing import Any

from pydantic.fields import FieldInfo

from passerelle.config.models import config as models
from passerelle.config.models.admin import AdminPort
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.config import Config
from passerelle.config.models.jwt import KEY_SOURCES
from passerelle.config.models.listeners import DEFAULT_LISTENERS
from passerelle.config.models.shapes import KINDS, SOURCES
from passerelle.config.models.tls import PAIR
from passerelle.config.models.units import PERCENT, duration_text, percent_text, size_text

_SUBSTITUTION = {
    "description": "`${VAR}`, `${VAR:-default}` or `${file:path}`.",
    "type": "string",
    "pattern": r"\$\{",
}
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)").sub
_LEAVES = ("type", "pattern", "enum", "const", "minimum", "maximum", "examples")


def json_schema() -> dict[str, Any]:
    """Build the schema. It constrains each key by itself; ``passerelle check`` also checks how keys combine."""
    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    for name, definition in {"Config": schema, **definitions}.items():
        definition.pop("title", None)
        for key, field in definition.get("properties", {}).items():
            _tidy(field, getattr(models, name), key)
    definitions["Service"]["oneOf"] = [{"required": [source]} for source in SOURCES]
    env = definitions["Service"]["properties"]["env"]
    env["additionalProperties"] = {"type": ["string", "number", "boolean", "null"]}
    definitions["Route"]["oneOf"] = [{"required": [kind]} for kind in KINDS]
    definitions["Target"]["type"] = ["object", "string"]
    for name in ("Route", "Defaults"):
        limits = definitions[name]["properties"]["rate_limit"]
        limits["anyOf"] = [{key: limits.pop(key) for key in ("type", "items")}, {"$ref": "#/$defs/RateLimit"}]
    peers = {"proxy_protocol": definitions["Listener"]["properties"]["proxy_protocol"]}
    for key, field in {**definitions["Route"]["properties"], **schema["properties"], **peers}.items():
        if key in ("methods", "host", "include", "listen", "proxy_protocol"):
            for wrong in ("minLength", "minItems"):
                field.pop(wrong, None)  # pydantic writes minLength in place of minItems
            several = {name: field.pop(name) for name in ("type", "items")} | {"minItems": 1}
            field["anyOf"] = [several, several["items"]]
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["include"]}]
    _allow_removal(definitions["Route"]["properties"], definitions["Defaults"]["properties"])
    definitions["Jwt"]["oneOf"] = [{"required": [source]} for source in KEY_SOURCES]
    definitions["AdminPort"] = {
        "anyOf": [{"const": "off"}, definitions["AdminPort"]["properties"]["listen"], definitions["AdminPort"]]
    }
    definitions["Listener"] = {"anyOf": [definitions["Listener"]["properties"]["address"], definitions["Listener"]]}
    definitions["Balance"] = {"anyOf": [definitions["Balance"]["properties"]["policy"], definitions["Balance"]]}
    definitions["Concurrency"] = {"anyOf": [{"const": "adaptive"}, definitions["Concurrency"]]}
    number = definitions["Instances"]["properties"]["max"]["anyOf"][0]
    definitions["Instances"] = {"anyOf": [number, definitions["Instances"]]}
    codings = definitions["Compress"]["properties"]["codings"]
    definitions["Compress"] = {"anyOf": [{"const": True}, codings, definitions["Compress"]]}
    definitions["SecurityHeaders"] = {"anyOf": [{"enum": [True, "off"]}, definitions["SecurityHeaders"]]}
    eject = definitions["Service"]["properties"]["eject"]
    eject["anyOf"] = [{"$ref": eject.pop("$ref")}, {"const": "off"}]
    _describe_tls(definitions)
    definitions["Substitution"] = _SUBSTITUTION
    schema["properties"]["limits"]["description"] = definitions["Limits"]["description"]
    _plain_descriptions(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "passerelle gateway.yaml", **schema}


def _describe_tls(definitions: dict[str, Any]) -> None:
    """Allow the short forms of ``tls``, one name in the place of a list, and either files or ``auto``."""
    for name, keys in (("AutomaticTls", ("names", "contact")), ("ListenerTls", ("ciphers",))):
        for key in keys:
            field = definitions[name]["properties"][key]
            several = {word: field.pop(word) for word in ("type", "items", "minItems", "maxItems") if word in field}
            field.pop("minLength", None)
            field.pop("maxLength", None)
            field["anyOf"] = [several, several["items"]]
    definitions["ListenerTls"]["oneOf"] = [{"required": list(PAIR)}, {"required": ["auto"]}]
    definitions["ListenerTls"] = {"anyOf": [{"const": "auto"}, definitions["ListenerTls"]]}
    definitions["AutomaticTls"] = {"anyOf": [{"const": True}, definitions["AutomaticTls"]]}


def _plain_descriptions(node: Any) -> None:
    """Write links to pages as their text: an editor does not know where the pages are."""
    if isinstance(node, dict):
        if isinstance(found := node.get("description"), str):
            node["description"] = _LINK(r"\1", " ".join(found.split()))
        for value in node.values():
            _plain_descriptions(value)
    elif isinstance(node, list):
        for value in node:
            _plain_descriptions(value)


def _allow_removal(route: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Let a route take a default away: with null, or with false."""
    for key in defaults:
        field = route[key]
        if field.get("type") == "boolean":
            continue  # whose false is the same
        options = field.pop("anyOf", None) or [
            {name: field.pop(name) for name in list(field) if name not in ("description", "default")}
        ]
        field["anyOf"] = [*options, {"enum": [None, False]}]


def _takes(field: FieldInfo, word: str) -> bool:
    """Whether the annotation of a field states that it takes ``word``, such as a size."""
    return any(isinstance(item, Takes) and item.one.startswith(word) for item in field.metadata)


def default_text(field: FieldInfo) -> str | float | None:
    """Format the default of a field as in the file; None if it is required, unset, or a collection."""
    default = field.default
    if default is DEFAULT_LISTENERS:
        return str(DEFAULT_LISTENERS[0].address)
    if isinstance(default, float) and PERCENT in field.metadata:
        return percent_text(default)
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, float):
        return default if _takes(field, "number") else duration_text(default)
    if isinstance(default, int):
        return size_text(default) if _takes(field, "size") else default
    if field.is_required() or default is None or (isinstance(default, tuple | dict | Model) and default != AdminPort()):
        return None
    return str(default)


def _tidy(field: dict[str, Any], model: type[Model], key: str) -> None:
    """Format the default as in the file, allow substitutions, and drop ``null``: a key is omitted, never null."""
    field.pop("title", None)
    field.pop("default", None)
    default = default_text(model.model_fields[key])
    if key != "on_error":
        if "anyOf" in field:
            options = [option for option in field.pop("anyOf") if option != {"type": "null"}]
            field.update(options[0] if len(options) == 1 else {"anyOf": options})
        _allow_substitution(field)
        _allow_substitution(field.get("items", {}))
    if default is not None:
        field["default"] = model.model_fields[key].default if field.get("type") == "boolean" else default


def _allow_substitution(field: dict[str, Any]) -> None:
    options = field.get("anyOf", [])
    if not options and ("minimum" in field or "pattern" in field or "enum" in field):
        options = [{name: field.pop(name) for name in _LEAVES if name in field}]
    if options:
        field["anyOf"] = [*options, {"$ref": "#/$defs/Substitution"}]
