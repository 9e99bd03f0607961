"""Compression of responses."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.units import Size
from passerelle.config.models.values import Text
from passerelle.config.reading.wording import describe

_MEDIA_TYPE = re.compile(r"[!#$&^_.+\-0-9A-Za-z]+/(?:\*|[!#$&^_.+\-0-9A-Za-z]+)").fullmatch


def _media_type(text: str) -> str:
    if not _MEDIA_TYPE(text):
        raise ValueError(f"found {text!r}; allowed is a media type such as application/json, or text/*")
    return text.lower()


class Compress(Model):
    """Which responses are compressed for clients that accept it. Short forms: `true`, or a list of codings."""

    codings: Annotated[tuple[Literal["zstd", "br", "gzip"], ...], Takes("list of codings")] = Field(
        default=("zstd", "br", "gzip"),
        min_length=1,
        description="Offered codings in order of preference: `zstd`, `br`, `gzip`; by default all that are installed.",
    )
    types: tuple[Annotated[Text, AfterValidator(_media_type), Takes("media type", "media types")], ...] | None = Field(
        default=None,
        min_length=1,
        description="Media types to compress, such as `text/*`; by default text, JSON, XML, scripts, fonts.",
    )
    min_size: Size = Field(default=256, description="Shortest body that is compressed, if its length is known.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        if found is True:
            return {}
        if isinstance(found, list | tuple):
            return {"codings": found}
        if not isinstance(found, dict | Compress):
            raise ValueError(f"found {describe(found)}; allowed: true, a list of codings, or a mapping")
        return found
