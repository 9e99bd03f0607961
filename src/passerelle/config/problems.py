"""The problems of a configuration, each with file, line, column and key."""

from __future__ import annotations

import functools
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

from passerelle.config.models.base import Model
from passerelle.config.models.config import Config
from passerelle.config.reading.wording import describe, hint

Loc = tuple[str | int, ...]
"""A place in the configuration: keys and list indexes from the top level down."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem at ``loc``. With ``at_key``, its position is that of the key instead of the value. With ``here``, it
    concerns a file or folder of this machine, and may not exist on another machine."""

    loc: Loc
    message: str
    at_key: bool = False
    here: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One error or warning. Line and column are 1-based; ``key`` is empty for problems of the whole file."""

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}:{self.column}: {key}{self.message}"


class ConfigError(Exception):
    """Raised for an invalid configuration. Has all problems, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def key_of(loc: Loc) -> str:
    """Format a place: ``("routes", 2, "path")`` becomes ``routes[2].path``."""
    text = ""
    for step in loc:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            word = step if step.replace("-", "_").isidentifier() or step.isalnum() else repr(step)
            text += f".{word}" if text else word
    return text


def from_pydantic(error: ErrorDetails, keys: Sequence[str]) -> Finding:
    """Convert an error of pydantic. ``keys`` are the keys of the mapping in which it occurs."""
    loc: Loc = error["loc"]
    found = error.get("input")
    context: dict[str, Any] = error.get("ctx") or {}
    kind = error["type"]
    if loc and loc[-1] == "[key]":
        return Finding(loc[:-1], _text(error), at_key=True)
    if kind == "missing":
        return Finding(loc, f"missing; {_required(loc)}")
    if kind == "extra_forbidden":
        allowed = [name for name in allowed_keys(loc[:-1]) if name not in keys]
        near = hint(str(loc[-1]), allowed)
        return Finding(loc, f"unknown key; allowed: {', '.join(allowed_keys(loc[:-1]))}{near}", at_key=True)
    if kind == "literal_error":
        allowed = str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        near = hint(found, allowed) if isinstance(found, str) else ""
        return Finding(loc, f"found {describe(found)}; allowed: {', '.join(allowed)}{near}")
    if kind == "too_short":
        return Finding(
            loc, f"found an empty {'list' if isinstance(found, list) else 'mapping'}; at least one is needed"
        )
    if kind in ("tuple_type", "list_type"):
        return Finding(loc, f"found {describe(found)}; allowed is a list{_example(found)}")
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        names = allowed_keys(loc)
        keys_text = f" with the keys {', '.join(names)}" if names else ""
        return Finding(loc, f"found {describe(found)}; allowed is a mapping{keys_text}")
    if kind in ("bool_parsing", "bool_type"):
        return Finding(loc, f"found {describe(found)}; allowed: true, false")
    return Finding(loc, _text(error))


def _text(error: ErrorDetails) -> str:
    if error["type"] == "value_error":
        return str((error.get("ctx") or {}).get("error", error["msg"]))
    return f"found {describe(error.get('input'))}; {error['msg'][:1].lower()}{error['msg'][1:]}"


def _example(found: object) -> str:
    if isinstance(found, dict):
        return ", each item after '- '"
    return f", such as [{found}]" if isinstance(found, str | int) and not isinstance(found, bool) else ""


def _required(loc: Loc) -> str:
    model = model_at(loc[:-1])
    field = model.model_fields.get(str(loc[-1])) if model else None
    description = (field.description or "") if field else ""
    clause = re.split(r"[;:.]\s|\.$", description)[0].replace("`", "")
    return f"it is required ({clause[:1].lower()}{clause[1:]})" if clause else "it is required"


def allowed_keys(loc: Loc) -> list[str]:
    """Return the keys that the mapping at ``loc`` may have; empty if its keys are free."""
    model = model_at(loc)
    return list(model.model_fields) if model else []


def model_at(loc: Loc) -> type[Model] | None:
    """Return the model of the mapping at ``loc``, or None if it has no model."""
    annotation: Any = Config
    for step in loc:
        if isinstance(annotation, type) and issubclass(annotation, Model):
            if step not in annotation.model_fields:
                return None
            annotation = _bare(typing.cast(Any, annotation.model_fields[str(step)].annotation))
        else:
            arguments = typing.get_args(annotation)
            if not arguments:
                return None
            annotation = _bare(arguments[-1] if typing.get_origin(annotation) is dict else arguments[0])
    return annotation if isinstance(annotation, type) and issubclass(annotation, Model) else None


@functools.cache
def _bare(annotation: Any) -> Any:
    """Strip ``Annotated`` and ``| None`` from an annotation."""
    origin: Any = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _bare(typing.get_args(annotation)[0])
    if origin in (types.UnionType, typing.Union):
        rest = [argument for argument in typing.get_args(annotation) if argument is not types.NoneType]
        return _bare(rest[0]) if len(rest) == 1 else annotation
    return annotation
