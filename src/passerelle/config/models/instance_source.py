"""Where the instances of a service, or of a version of one, come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from passerelle.config.models.application import ApplicationKeys
from passerelle.config.models.base import Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.instances import Instances
from passerelle.config.models.target import Target, Zone
from passerelle.config.models.units import Duration
from passerelle.config.models.values import Command, EnvName, File, Name, Text


class InstanceSource(ApplicationKeys):
    """The instances of a service or of a version of one: exactly one of `app`, `run`, `targets` and `zones`."""

    run: Command | None = Field(
        default=None,
        description="A command that serves HTTP on `{port}`: a list of words, or text split like a shell command.",
    )
    targets: Annotated[tuple[Target, ...], OneOrMore, Takes("list of [targets](#a-target)")] | None = Field(
        default=None, min_length=1, description="Instances that already run, or sources of them."
    )
    zones: Annotated[dict[Name, Zone], Takes("mapping of names to [zones](#a-zone)")] | None = Field(
        default=None, min_length=1, description="Groups of running instances, balanced as groups."
    )
    near: Annotated[Text, Takes("name of a zone")] | None = Field(
        default=None,
        description="The zone that gets all requests it can carry; other zones get the rest. With `zones` only.",
    )
    instances: Annotated[Instances, Takes("number, 1 to 1000, or [mapping](#instances)")] = Field(
        default=Instances.model_construct(min=1, max=1),
        description="Number of processes to start, `1` by default, or the range in which it follows the load. With "
        "`app` or `run` only.",
    )
    env: Annotated[dict[EnvName, Text], Takes("mapping of names to text")] = Field(
        default={}, description="Environment variables to add. With `app` or `run` only."
    )
    cwd: File | None = Field(
        default=None,
        description="Working directory, relative to the file; by default the folder of the file. With `app` "
        "or `run` only.",
    )
    grace: Duration | None = Field(
        default=None,
        description="Time that an instance has for running requests between SIGTERM and SIGKILL; by default "
        "10s. With `app` or `run` only.",
    )
