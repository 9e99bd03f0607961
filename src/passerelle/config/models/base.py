"""The base of the models, and what they share."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Model(BaseModel):
    """A mapping of the file: immutable, without unknown keys.

    Its validator is built when it is used. Defaults of fields are made by ``model_construct``, which needs none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, defer_build=True)


@dataclass(frozen=True, slots=True)
class Takes:
    """Annotation of a type or field: what it takes, for the column "takes" of the reference (Markdown).

    ``many`` is the plural, for lists. Where several annotations apply, the outermost one wins.
    """

    one: str
    many: str = ""


Shape = list[tuple[str | None, str]]
"""Findings about combinations of keys: (key, or None for the mapping itself; message)."""


def given(model: Model) -> set[str]:
    """Return the keys that are set to a value."""
    return {key for key in model.model_fields_set if getattr(model, key) is not None}


def raise_first(findings: Shape) -> None:
    """Raise the first finding, for models that are built in Python.

    The loader skips this type of error, because it reports all findings itself.
    """
    if findings:
        key, message = findings[0]
        raise PydanticCustomError("shape", "{message}", {"message": f"{key}: {message}" if key else message})
