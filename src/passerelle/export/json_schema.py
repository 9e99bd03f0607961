"""Validation by the part of JSON Schema that the schemas of Kubernetes use.

The package ``jsonschema`` would be a dependency of every installation, for one command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def problems(
    value: object, schema: Mapping[str, Any], definitions: Mapping[str, Any], place: str = ""
) -> Iterator[str]:
    """Yield what is wrong with ``value``: the place in it and the reason. ``definitions`` has what `$ref` names."""
    if "$ref" in schema:
        yield from problems(value, definitions[schema["$ref"].rpartition("/")[2]], definitions, place)
        return
    wanted = schema.get("type", [])
    kinds = wanted if isinstance(wanted, list) else [wanted]
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{place or '.'}: found {_shown(value)}; allowed: {', '.join(kinds)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place or '.'}: found {_shown(value)}; allowed: {', '.join(map(str, schema['enum']))}"
    if "oneOf" in schema and sum(not any(problems(value, each, definitions)) for each in schema["oneOf"]) != 1:
        yield f"{place or '.'}: found {_shown(value)}, which is none of the allowed kinds"
    if isinstance(value, str):
        yield from _of_text(value, schema, place)
    elif isinstance(value, dict):
        yield from _of_object(value, schema, definitions, place)
    elif isinstance(value, list):
        yield from _of_size(len(value), schema, "Items", place)
        for index, item in enumerate(value):
            yield from problems(item, schema.get("items", {}), definitions, f"{place}[{index}]")
    elif isinstance(value, int | float) and not _in_range(value, schema):
        yield f"{place}: found {value}, which is out of range"


def _of_text(value: str, schema: Mapping[str, Any], place: str) -> Iterator[str]:
    yield from _of_size(len(value), schema, "Length", place)
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{place or '.'}: found {_shown(value)}; it does not match {schema['pattern']}"


def _of_object(
    value: dict[str, Any], schema: Mapping[str, Any], definitions: Mapping[str, Any], place: str
) -> Iterator[str]:
    yield from _of_size(len(value), schema, "Properties", place)
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{place}.{key}: missing"
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, item in value.items():
        if key in known:
            yield from problems(item, known[key], definitions, f"{place}.{key}")
        elif others is False:
            yield f"{place}.{key}: unknown key"
        elif isinstance(others, dict):
            yield from problems(item, others, definitions, f"{place}.{key}")


def _of_size(size: int, schema: Mapping[str, Any], what: str, place: str) -> Iterator[str]:
    if not schema.get(f"min{what}", size) <= size <= schema.get(f"max{what}", size):
        yield f"{place or '.'}: has {size} {what.lower()}, which is out of range"


def _in_range(value: float, schema: Mapping[str, Any]) -> bool:
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    return bool(low <= value <= high)


def _is(value: object, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _shown(value: object) -> str:
    return f"{type(value).__name__}" if isinstance(value, dict | list) else repr(value)
