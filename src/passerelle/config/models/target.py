"""Targets: running instances, sources of them, and zones."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from passerelle.config.models.addresses import Lookup, Url
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.values import File, WholeNumber
from passerelle.config.reading.wording import describe


class Target(Model):
    """A running instance, or a source of running instances. The short form is its URL."""

    url: Url | None = Field(
        default=None,
        description="Address of the instance: `http://host:port` or `https://…`, a Unix socket, or a name to resolve. "
        "[A path](#paths-of-targets-and-unix-sockets) is put before the path of each request.",
    )
    file: File | None = Field(
        default=None, description="In place of `url`: a file with a list of targets, reloaded when it changes."
    )
    weight: Annotated[int, WholeNumber(1, 1000)] = Field(
        default=1, description="Share of the requests, relative to the other targets."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        if isinstance(found, str):
            return {"url": found}
        if not isinstance(found, dict | Target):
            raise ValueError(f"found {describe(found)}; allowed is http://host:port or a mapping with url and weight")
        return found

    @property
    def is_found(self) -> bool:
        """Whether its instances are discovered at run time."""
        return self.file is not None or isinstance(self.url, Lookup)

    @model_validator(mode="after")
    def _one(self) -> Target:
        if (self.url is None) == (self.file is None):
            raise ValueError("a target has exactly one of url, file")
        if self.file is not None and "weight" in self.model_fields_set:
            raise ValueError("found weight together with file; the weights are in that file")
        return self


class Zone(Model):
    """A group of instances that is balanced as one."""

    targets: Annotated[tuple[Target, ...], OneOrMore, Takes("list of [targets](#a-target)")] = Field(
        min_length=1, description="The instances of the zone."
    )
    weight: Annotated[int, WholeNumber(1, 1000)] = Field(
        default=1, description="Share of the requests, relative to the other zones of the same priority."
    )
    priority: Annotated[int, WholeNumber(0, 100)] = Field(
        default=0, description="Zones with a higher number get only what zones with a lower number cannot carry."
    )
