"""Discovery of instances by DNS."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.addresses import Address, split_address
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.units import Duration
from passerelle.config.reading.wording import describe


def parse_server(found: object) -> object:
    """Parse the address of a DNS server; the default port is 53."""
    if isinstance(found, Address):
        return found
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; allowed is an address, such as 10.0.0.10 or 127.0.0.1:5353")
    address = split_address(found, "127.0.0.1:5353", default_port=53, lowest_port=1)
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        raise ValueError(f"found {found!r}; a DNS server is an address, such as 10.0.0.10, not a name") from None
    return address


Server = Annotated[
    Address,
    BeforeValidator(parse_server),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:5353"]}),
    Takes("address, or address and port"),
]


class Dns(Model):
    """How the names of `dns+http` targets are resolved."""

    server: Server | None = Field(default=None, description="The DNS server; by default those of the system.")
    timeout: Duration = Field(default=2.0, description="Time for one reply.")
    min_ttl: Duration = Field(
        default=5.0,
        description="Shortest time until a name is resolved again, whatever its TTL; also after a failure.",
    )
    max_ttl: Duration = Field(default=60.0, description="Longest time until a name is resolved again.")
