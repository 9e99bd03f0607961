"""Shadow requests: which requests of a route a second service receives too, and how its responses are compared."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.headers import ProbeField
from passerelle.config.models.units import Duration, Percent, Size, parse_percent
from passerelle.config.models.values import Flag, Method, ServiceName, Text, WholeNumber
from passerelle.config.reading.wording import describe
from passerelle.crossing.paths import parse_pattern


def _path(text: str) -> str:
    parse_pattern(text)
    if len(text) > 500:
        raise ValueError(f"found a path of {len(text)} characters; allowed are 500")
    return text


def _tolerance(found: object) -> float | str:
    """Parse a number, which is absolute, or a percentage of the old number."""
    if isinstance(found, str) and found.endswith("%"):
        parse_percent(found)
        return found
    if isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < float("inf"):
        return float(found)
    raise ValueError(f"found {describe(found)}; allowed is a number such as 0.01, or a percentage such as 1%")


JsonPath = Annotated[Text, AfterValidator(_path), Takes("path in a JSON document", "paths in a JSON document")]
ToleranceText = Annotated[
    Any,
    BeforeValidator(_tolerance),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?%$"}]}),
    Takes("number, or a percentage"),
]


class Compare(Model):
    """What counts as the same response. Paths are JSON Pointers; `*` is any one segment, `**` any number of them."""

    ignore: Annotated[tuple[JsonPath, ...], OneOrMore] = Field(
        default=(), min_length=1, max_length=100, description="Values that are not compared, such as `/**/updated_at`."
    )
    unordered: Annotated[tuple[JsonPath, ...], OneOrMore] = Field(
        default=(), min_length=1, max_length=100, description="Arrays whose order does not matter."
    )
    tolerance: Annotated[dict[JsonPath, ToleranceText], Takes("mapping of paths to a number or a percentage")] = Field(
        default={}, min_length=1, max_length=100, description="How much numbers may differ: `0.01`, or `1%` of the old."
    )
    numbers_as_text: Flag = Field(default=False, description='`true`: the text `"1.50"` equals the number 1.5.')
    null_is_absent: Flag = Field(default=False, description="`true`: a member that is null equals one that is absent.")
    headers: Annotated[tuple[ProbeField, ...], OneOrMore] = Field(
        default=("Content-Type", "Location"),
        min_length=1,
        max_length=20,
        description="Header fields that are compared; by default `Content-Type` and `Location`.",
    )


class Shadow(Model):
    """A second service that receives a share of the requests of a route. Clients never receive its responses."""

    service: ServiceName = Field(description="The service whose responses are compared with those of the route.")
    sample: Percent = Field(default=1.0, description="The share of requests that the second service receives.")
    methods: tuple[Method, ...] = Field(
        default=("GET", "HEAD"),
        min_length=1,
        description="Methods of these requests. Methods other than safe ones must not change data that clients see.",
    )
    credentials: Flag = Field(
        default=False,
        description="`true`: the second service receives `Authorization`, `Cookie` and the header of API keys, too.",
    )
    control: Percent = Field(
        default=0.1,
        description="The share of them that the service of the route receives twice, to find which differences "
        "are noise. Safe methods only.",
    )
    timeout: Duration = Field(default=10.0, description="Time for a response of the second service.")
    concurrency: Annotated[int, WholeNumber(1, 1000)] = Field(
        default=4,
        description="Largest number of shadow requests at once, in each worker. Further ones wait, or are "
        "dropped and counted.",
    )
    max_body: Size = Field(
        default=262_144, description="Largest response body that is compared. Longer ones are counted only."
    )
    compare: Annotated[Compare, Takes("[mapping](#shadow)")] = Field(
        default=Compare.model_construct(), description="What counts as the same response."
    )
