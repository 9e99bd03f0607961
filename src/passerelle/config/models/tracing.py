"""Traces: which requests are recorded, and where their spans are sent."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.headers import ProbeField, Value
from passerelle.config.models.units import Percent
from passerelle.config.models.values import Text

_URL = re.compile(r"https?://[!-~]+").fullmatch
_ATTRIBUTE = re.compile(r"[a-z0-9_.-]{1,128}").fullmatch


def _endpoint(text: str) -> str:
    allowed = "allowed is http://host:port/v1/traces or https://…, such as http://127.0.0.1:4318/v1/traces"
    if not _URL(text):
        raise ValueError(f"found {text!r}; {allowed}")
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise ValueError("found a user name or a password in the address; use headers with ${file:…} instead")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise ValueError(f"found {text!r}; {allowed}")
    return text if parts.path not in ("", "/") else f"{parts.scheme}://{parts.netloc}/v1/traces"


def _attribute(text: str) -> str:
    if not _ATTRIBUTE(text):
        raise ValueError(f"found {text!r}; allowed are small letters, digits, dots, dashes and underscores")
    return text


class Tracing(Model):
    """Traces of requests: W3C Trace Context, and spans that are exported over OTLP."""

    endpoint: Annotated[
        Text, AfterValidator(_endpoint), WithJsonSchema({"type": "string", "pattern": "^https?://"}), Takes("address")
    ] = Field(
        description="Where spans are sent by OTLP/HTTP in JSON: the address of a collector; the default path is "
        "`/v1/traces`.",
    )
    sample: Percent = Field(default=0.01, description="The share of requests that are recorded.")
    follow_clients: bool = Field(
        default=False,
        description="`true`: the sampled flag of any client decides, not only of `trusted_proxies`.",
    )
    service: Text = Field(default="passerelle", min_length=1, description="The `service.name` of the spans.")
    attributes: Annotated[
        dict[Annotated[Text, AfterValidator(_attribute)], Text], Takes("mapping of names to text")
    ] = Field(
        default={},
        min_length=1,
        description="Further attributes of the resource, such as `deployment.environment.name`.",
    )
    headers: Annotated[dict[ProbeField, Value], Takes("mapping of fields to values")] = Field(
        default={},
        min_length=1,
        repr=False,
        description="Header fields of each export, such as `Authorization`; secrets as `${file:…}`.",
    )
