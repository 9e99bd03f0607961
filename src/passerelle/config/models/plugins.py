"""Plugins: Python functions as guards and filters."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, PrivateAttr, ValidationInfo, model_validator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.headers import RequestName
from passerelle.config.models.units import Duration, Size
from passerelle.config.models.values import WholeNumber
from passerelle.config.reading.wording import describe

_REFERENCE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*").fullmatch

PLUGIN_KINDS = ("guard", "request", "response")
"""A plugin has exactly one of these keys."""


def _reference(found: object) -> str:
    if isinstance(found, str) and _REFERENCE(found):
        return found
    raise ValueError(f"found {describe(found)}; allowed is module:attribute, such as shop.plugins:check")


Reference = Annotated[
    str,
    BeforeValidator(_reference),
    WithJsonSchema({"type": "string", "pattern": "^[^:]+:[^:]+$"}),
    Takes("`module:attribute`"),
]


class Plugin(Model):
    """A Python function, or a class, that admits or refuses requests, or changes requests or responses."""

    guard: Reference | None = Field(default=None, description="A function that admits a request or refuses it.")
    request: Reference | None = Field(
        default=None, description="A function that changes the request that a service receives."
    )
    response: Reference | None = Field(
        default=None, description="A function that changes the response that a client receives."
    )
    timeout: Duration = Field(default=1.0, description="How long a call may take, with its wait for a thread.")
    failure: Literal["closed", "open"] = Field(
        default="closed",
        description="What an error or a timeout of a filter does: `closed` is 500 or 503, `open` changes nothing. "
        "Guards are always closed.",
    )
    sets: Annotated[tuple[RequestName, ...], OneOrMore] = Field(
        default=(),
        min_length=1,
        description="Fields for services that a guard or a request filter may set. Those of clients are not forwarded.",
    )
    body: Size | None = Field(
        default=None,
        description="A response filter receives bodies up to this size; by default none.",
    )
    threads: Annotated[int, WholeNumber(1, 64)] = Field(
        default=4, description="Number of calls of a plain function at the same time, per worker."
    )
    settings: Annotated[dict[str, JsonValue], Takes("mapping")] = Field(
        default={}, min_length=1, description="Values for the class of the plugin."
    )

    _folder: str = PrivateAttr(default=".")

    @model_validator(mode="after")
    def _remember_folder(self, info: ValidationInfo) -> Plugin:
        self._folder = str((info.context or {}).get("folder", "."))
        return self

    @property
    def folder(self) -> str:
        """The folder of the configuration file, from which the module may be imported."""
        return self._folder

    @property
    def kind(self) -> Literal["guard", "request", "response"]:
        """What the plugin does."""
        return "guard" if self.guard is not None else "request" if self.request is not None else "response"

    @property
    def reference(self) -> str:
        """The function or class."""
        return self.guard or self.request or self.response or ""

    def described(self) -> dict[str, Any]:
        """Return what :mod:`passerelle.plugin_host.inspection` loads it from."""
        return {
            "kind": self.kind,
            "reference": self.reference,
            "settings": self.settings,
            "folder": self.folder,
        }
