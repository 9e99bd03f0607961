"""The admin port: its address, its token, and what is open without the token."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.addresses import HOST, Address, parse_admin
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.values import Text
from passerelle.config.reading.wording import describe

TOKEN_OCTETS = 16, 512

_TOKEN = re.compile(r"[!-~]+").fullmatch


def _listen(found: object) -> object:
    address = parse_admin(found)
    if address is None:
        raise ValueError(f"found {describe(found)}; allowed is host:port; for no admin port, write admin: off")
    return address


def check_token(text: str) -> str:
    """Return a valid token. :raises ValueError: for any other text, which is not shown."""
    least, most = TOKEN_OCTETS
    if not least <= len(text) <= most or not _TOKEN(text):
        raise ValueError(f"a token has {least} to {most} visible ASCII characters and no blanks (it is not shown)")
    return text


def _host(text: str) -> str:
    name = text.lower().removesuffix(".")
    if HOST(name):
        return name
    raise ValueError(f"found {text!r}; allowed is a host name without a port, such as gateway.internal")


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isascii() or not text.isprintable():
        raise ValueError(f"found {text!r}; allowed is an address such as http://127.0.0.1:9090")
    if parts.username is not None or parts.password is not None:
        raise ValueError("found a user name or password in the address; it would be shown on the dashboard")
    return text


class AdminPort(Model):
    """The admin port. The short form is its address."""

    listen: Annotated[
        Address,
        BeforeValidator(_listen),
        WithJsonSchema({"type": "string", "examples": ["127.0.0.1:9900"]}),
        Takes("`host:port`"),
    ] = Field(
        default=Address.model_construct(host="127.0.0.1", port=9900),
        description="Address of the admin port; beyond loopback, `token` is required.",
    )
    token: Annotated[Text, AfterValidator(check_token)] | None = Field(
        default=None,
        repr=False,
        description="Secret for changes, and beyond loopback for reading as well; preferably as `${file:…}`.",
    )
    open: Annotated[
        tuple[Literal["healthz", "readyz", "metrics"], ...], Takes("list of `healthz`, `readyz`, `metrics`")
    ] = Field(
        default=("healthz", "readyz"),
        description="What can be read without the token; by default `healthz` and `readyz`.",
    )
    hosts: Annotated[
        tuple[Annotated[Text, AfterValidator(_host), Takes("name of a host", "host names")], ...], OneOrMore
    ] = Field(
        default=(), description="Further host names under which requests without the token in `Authorization` arrive."
    )

    prometheus: Annotated[Text, AfterValidator(_web_address), Takes("URL")] | None = Field(
        default=None, description="Address of a Prometheus server, to which the dashboard links."
    )

    def __str__(self) -> str:
        return str(self.listen)

    @property
    def is_local(self) -> bool:
        """Whether the port listens on a loopback address, which other machines cannot reach."""
        host = self.listen.host.removesuffix(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach the port, and there is no token."""
        return self.token is None and not self.is_local


def parse_admin_port(found: Any) -> Any:
    """Convert ``off`` to None and an address to the mapping with it."""
    if found == "off" or found is False:
        return None
    return found if isinstance(found, dict | AdminPort) else {"listen": found}


Admin = Annotated[
    AdminPort | None,
    BeforeValidator(parse_admin_port),
    Takes("`host:port`, [mapping](#admin) or `off`"),
]
