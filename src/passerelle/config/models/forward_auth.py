"""Forward authentication: a service decides whether a request may pass."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from passerelle.config.models.base import Model
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.headers import RequestName
from passerelle.config.models.units import Duration
from passerelle.config.models.values import PlainPath, ServiceName, Text

_BY = re.compile(r"address|host|method|uri|header:[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch


def _by(text: str) -> str:
    if _BY(text):
        return text
    raise ValueError(f"found {text!r}; allowed: address, host, method, uri, header:NAME")


class ForwardAuth(Model):
    """A service that authorizes requests, and the fields that are exchanged with it."""

    service: ServiceName = Field(description="The service that decides.")
    path: PlainPath = Field(description="Path of the authorization request, a `GET`. A 2xx lets the request pass.")
    send_headers: Annotated[tuple[RequestName, ...], OneOrMore] = Field(
        default=("Authorization", "Cookie"),
        min_length=1,
        description="Fields of the client that the request carries; by default `Authorization` and `Cookie`.",
    )
    copy_headers: Annotated[tuple[RequestName, ...], OneOrMore] = Field(
        default=(),
        min_length=1,
        description="Fields of the response that are forwarded to the service, in place of the client's own. "
        "`Set-Cookie` is sent to the client instead.",
    )
    consumer: RequestName | None = Field(
        default=None, description="The field of the response that names the consumer. Not with `auth`."
    )
    timeout: Duration = Field(default=2.0, description="Time for a response.")
    failure: Literal["closed", "open"] = Field(
        default="closed", description="Without a valid response: `closed` is 503, `open` lets the request pass."
    )
    cache: Duration | None = Field(
        default=None, description="How long a response (2xx, 401, 403) is reused for the same request; by default not."
    )
    cache_by: Annotated[tuple[Annotated[Text, AfterValidator(_by)], ...], OneOrMore] = Field(
        default=(),
        min_length=1,
        description="By which parts two requests are the same: `address`, `host`, `method`, `uri`, `header:NAME`; "
        "by default all.",
    )
