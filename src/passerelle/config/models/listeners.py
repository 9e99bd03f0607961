"""The addresses that clients connect to: TCP ports, Unix sockets, and sockets that systemd passes."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.addresses import Address, Network, parse_listen, parse_network, parse_socket
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.values import Flag, WholeNumber
from passerelle.config.reading.wording import describe

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}").fullmatch
_MODE = re.compile(r"0?[0-7]{3}").fullmatch

DEFAULT_MODE = "0660"
UNIX = "unix"


class PassedSocket(Address):
    """The sockets that systemd passes under a name (``FileDescriptorName=``), which is the host."""

    def __str__(self) -> str:
        return f"systemd:{self.host}"


def parse_listener_address(found: object) -> object:
    """Parse ``host:port``, ``unix:/path`` or ``systemd:name``; port 0 picks any free port."""
    if not isinstance(found, str):
        return parse_listen(found)
    if found.startswith("unix:"):
        return parse_socket(found)
    if found.startswith("systemd:"):
        name = found.removeprefix("systemd:")
        if not _NAME(name):
            raise ValueError(f"found {found!r}; allowed is systemd: and the FileDescriptorName of a socket unit")
        return PassedSocket(host=name, port=0)
    return parse_listen(found)


def _peer(found: object) -> object:
    return found if found == UNIX else parse_network(found)


def _mode(found: object) -> str:
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)} without quotes; write the octal digits in quotes, such as '0660'")
    if not _MODE(found):
        raise ValueError(f"found {found!r}; allowed are three octal digits, such as '0660'")
    return found


def _bounded(found: Literal["unix"] | Network) -> Literal["unix"] | Network:
    if not isinstance(found, str) and found.prefixlen == 0:
        raise ValueError(f"found {found}; every client could state any address")
    return found


Peer = Annotated[
    Literal["unix"] | ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(_peer),
    AfterValidator(_bounded),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "unix"]}),
    Takes("address range or `unix`", "address ranges or `unix`"),
]


class Listener(Model):
    """One address for clients. The short form is the address."""

    address: Annotated[
        Address,
        BeforeValidator(parse_listener_address),
        WithJsonSchema({"type": "string", "examples": ["0.0.0.0:443", "[::]:443", "unix:/run/passerelle.sock"]}),
        Takes("`host:port`, `unix:/path` or `systemd:name`"),
    ] = Field(description="Address and port, the path of a Unix socket, or sockets that systemd passes by that name.")
    tls: Flag | None = Field(
        default=None,
        description="Whether clients use TLS; by default if the file has `tls`, unless `https_redirect` is set.",
    )
    https_redirect: Annotated[Literal[301, 308], Takes("`301`, `308`")] | None = Field(
        default=None,
        description="The status of the redirect of all requests to `https`; `308` keeps the method and the body.",
    )
    https_port: Annotated[int, WholeNumber(1, 65535)] | None = Field(
        default=None, description="The port of the redirect; by default that of the first listener with TLS."
    )
    proxy_protocol: Annotated[tuple[Peer, ...], OneOrMore] | None = Field(
        default=None,
        min_length=1,
        description="The proxies that begin each connection with the PROXY protocol; all others are refused.",
    )
    mode: Annotated[str, BeforeValidator(_mode), Takes("octal digits in quotes")] | None = Field(
        default=None, description=f"The permissions of a Unix socket; by default `'{DEFAULT_MODE}'`."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        if isinstance(found, dict | Listener):
            return found
        return {"address": parse_listener_address(found)}

    def is_secure(self, has_tls: bool) -> bool:
        """Whether its clients use TLS; ``has_tls`` is whether the file has ``tls``."""
        return self.tls if self.tls is not None else has_tls and self.https_redirect is None

    @property
    def permissions(self) -> int:
        """The permissions of a Unix socket."""
        return int(self.mode or DEFAULT_MODE, 8)

    @property
    def plain(self) -> bool:
        """Whether it has nothing but its address."""
        return not self.model_fields_set - {"address"}


def parse_listeners(found: Any) -> Any:
    """Convert a single address or mapping to a list of one. An error in an address is one of the whole value."""
    if isinstance(found, list | tuple):
        return found
    return (found if isinstance(found, dict | Listener) else {"address": parse_listener_address(found)},)


def listening_at(address: Address) -> tuple[Listener, ...]:
    """Return the value of ``listen`` for one address."""
    return (Listener(address=address),)


Listeners = Annotated[
    tuple[Listener, ...],
    BeforeValidator(parse_listeners),
    Takes("`host:port`, or list of [listeners](#listeners)"),
]
_DEFAULT = Address.model_construct(host="127.0.0.1", port=8080)
DEFAULT_LISTENERS = (Listener.model_construct({"address"}, address=_DEFAULT),)
