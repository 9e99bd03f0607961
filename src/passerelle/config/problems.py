"""The problems of a configuration, each with file, line, column and key."""

from __future__ import annotations

import functools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

from passerelle.config import foreign_words
from passerelle.config.foreign_words import Replacement
from passerelle.config.models.base import Model
from passerelle.config.models.config import Config
from passerelle.config.reading.wording import describe, hint, nearest

Loc = tuple[str | int, ...]
"""A place in the configuration: keys and list indexes from the top level down."""


_FEW = 8  # an error about an unknown key lists all keys if there are no more

_EXAMPLES = {
    "Service": "{targets: ['http://127.0.0.1:5000']}",
    "Route": "{path: '/user/{user_id}', service: user}",
    "Part": "{service: user, path: '/user/{user_id}'}",
    "RouteCache": "{ttl: 30s}",
    "RateLimit": "{rate: 10/s}",
    "Health": "{path: /healthz}",
    "Cors": "{origins: ['https://www.example.com']}",
}
_NAMED_EXAMPLES: dict[Loc, str] = {
    ("services",): "user: {app: 'users:app'}",
    ("compose",): "user: {service: user, path: '/user/{user_id}'}",
    ("env",): "DEBUG: '1'",
}


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


A_TARGET: Loc = ("services", "", "targets", 0)
"""The place of a target, for targets that are validated alone."""


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


def from_pydantic(error: ErrorDetails, around: Mapping[str, Any], *, show: bool = True, within: Loc = ()) -> Finding:
    """Convert an error of pydantic that occurs in the mapping ``around``, which was validated as the part ``within``.

    With ``show``, its value may be repeated.
    """
    loc: Loc = (*within, *error["loc"])
    found = error.get("input")
    context: dict[str, Any] = error.get("ctx") or {}
    kind = error["type"]
    if loc and loc[-1] == "[key]":
        return Finding(loc[:-1], _text(error), at_key=True)
    if kind == "missing":
        return Finding(loc, f"missing; {_required(loc)}")
    if kind == "extra_forbidden":
        return Finding(loc, f"unknown key; {_instead(loc, found if show else None, around)}", at_key=True)
    if kind == "literal_error":
        allowed = str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        near = hint(found, allowed) if isinstance(found, str) else ""
        if loc[-1:] == ("policy",) and isinstance(found, str) and (policy := foreign_words.policy_of(found)):
            near = f"; write {policy}"
        return Finding(loc, f"found {describe(found)}; allowed: {', '.join(allowed)}{near}")
    if kind == "too_short":
        return Finding(
            loc, f"found an empty {'list' if isinstance(found, list) else 'mapping'}; at least one is needed"
        )
    if kind in ("tuple_type", "list_type"):
        return Finding(loc, f"found {describe(found)}; allowed is a list{_example(found)}")
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return Finding(loc, f"found {describe(found)}; {_mapping_text(loc, found if show else None)}")
    if kind in ("bool_parsing", "bool_type"):
        return Finding(loc, f"found {describe(found)}; allowed: true, false")
    return Finding(loc, _text(error))


def _instead(loc: Loc, found: object, around: Mapping[str, Any]) -> str:
    """Return what to write in place of an unknown key: the closest name first, and all keys if they are few."""
    known = allowed_keys(loc[:-1])
    replacement = foreign(loc, found, around)
    if replacement is not None:
        return replacement.text
    listed = ", ".join(known)
    near = nearest(str(loc[-1]), [name for name in known if name not in around])
    if near is not None:
        return f"did you mean {near}?" + (f" Allowed: {listed}" if 1 < len(known) <= _FEW else "")
    if len(known) <= _FEW:
        return f"allowed: {listed}"
    return f"the keys of {_name_of(loc[:-1])} are listed in docs/reference/configuration.md"


def foreign(loc: Loc, found: object, around: Mapping[str, Any]) -> Replacement | None:
    """Return the replacement of the unknown key at ``loc``, if it is a key of another gateway."""
    model = model_at(loc[:-1])
    return foreign_words.replacement(model.__name__, str(loc[-1]), found, around) if model is not None else None


def _name_of(loc: Loc) -> str:
    """Return the name of the mapping at ``loc`` for a sentence."""
    if not loc:
        return "the file"
    if len(loc) == 2 and loc[0] in ("services", "routes"):
        return f"a {str(loc[0])[:-1]}"
    return next((step for step in reversed(loc) if isinstance(step, str)), "the file")


def _text(error: ErrorDetails) -> str:
    if error["type"] == "value_error":
        return str((error.get("ctx") or {}).get("error", error["msg"]))
    return f"found {describe(error.get('input'))}; {error['msg'][:1].lower()}{error['msg'][1:]}"


def _example(found: object) -> str:
    if isinstance(found, dict):
        return ", each item after '- '"
    return f", such as [{found}]" if isinstance(found, str | int) and not isinstance(found, bool) else ""


def _mapping_text(loc: Loc, found: object) -> str:
    """Return what is allowed where ``found`` was found in place of a mapping."""
    model, names = model_at(loc), allowed_keys(loc)
    key, colon, rest = found.partition(":") if isinstance(found, str) else ("", "", "")
    if colon and key in names and not rest.startswith((" ", "//")):
        return f"a key is followed by a colon and a blank: {key}: {rest}"
    if len(loc) == 2 and loc[0] == "services" and loc[1] in allowed_keys((*loc[:1], "")):
        return f"{loc[1]} is a key of a service: indent it below the name of its service"
    if model is not None and model.__name__ in _EXAMPLES:
        return f"allowed is a mapping, such as {_example_of(model.__name__, found)}"
    if loc[-1:] in _NAMED_EXAMPLES:
        return f"allowed is a mapping, such as {_NAMED_EXAMPLES[loc[-1:]]}"
    return "allowed is a mapping" + (f" with the keys {', '.join(names)}" if 0 < len(names) <= _FEW else "")


def _example_of(model: str, found: object) -> str:
    """Return an example of a mapping, with the value ``found`` where it is certainly meant."""
    if model == "Service" and isinstance(found, str):
        if re.fullmatch(r"https?://[\w.-]+(:\d+)?/?", found):
            return f"{{targets: [{found!r}]}}"
        if re.fullmatch(r"[\w.]+:\w+", found):
            return f"{{app: {found!r}}}"
    return _EXAMPLES[model]


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
