"""Addresses to listen on and to connect to, and address ranges."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Takes
from passerelle.config.reading.wording import describe


class Address(BaseModel):
    """A host (name, IPv4, or IPv6 without brackets) and a TCP port, or a Unix socket, whose path is the host."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    host: str
    port: int
    secure: bool = False  # over TLS; for targets
    path: str = ""  # the beginning of the path of requests, without a slash at its end; for targets

    def __str__(self) -> str:
        if self.is_socket:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as written in a configuration."""
        return str(self) if self.is_socket else f"{'https' if self.secure else 'http'}://{self}{self.path}"

    @property
    def is_socket(self) -> bool:
        """Whether it is a Unix socket."""
        return self.host.startswith("/")


class Lookup(Address):
    """A name that is resolved repeatedly. With ``srv``, the ports are resolved as well, and ``port`` is 0."""

    srv: bool = False

    @property
    def url(self) -> str:
        """The address as written in a configuration."""
        return f"dns+http://{self.host if self.srv else self}{self.path}"


_SOCKET = re.compile(r"/[A-Za-z0-9._/+-]{1,106}").fullmatch  # sun_path has 108 octets, the last one is zero
_TARGET_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)*/?").fullmatch
HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?").fullmatch


def split_address(text: str, example: str, default_port: int | None = None, lowest_port: int = 0) -> Address:
    """Parse ``host:port`` or ``[ipv6]:port``."""
    allowed = f"allowed is host:port, such as {example}"
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ValueError(f"found {text!r}; {allowed}, with IPv6 as [::1]:8080")
        colon, port = tail[:1], tail[1:]
        try:
            host = str(ipaddress.IPv6Address(host))
        except ValueError:
            raise ValueError(f"found {text!r}; {host!r} is not an IPv6 address") from None
    else:
        host, colon, port = text.rpartition(":")
        if not colon:
            host, port = text, ""
        scheme, separator, rest = text.partition("://")
        if separator and scheme.isalnum():
            raise ValueError(f"found {text!r}; {allowed}, without {scheme}://: {rest.partition('/')[0]}")
        if ":" in host:
            raise ValueError(f"found {text!r}; write an IPv6 address in brackets: [{host}]:{port}")
        if host.replace(".", "").isdigit():
            if host == text and default_port is None and "." not in host:
                raise ValueError(f"found {text!r} without a host; {allowed}")
            try:
                host = str(ipaddress.IPv4Address(host))
            except ValueError:
                raise ValueError(f"found {text!r}; {host!r} is not an IPv4 address") from None
        elif not host:
            every = f", or 0.0.0.0{text} for every interface" if lowest_port == 0 else ""
            raise ValueError(f"found {text!r} without a host; {allowed}{every}")
        elif not HOST(host):
            raise ValueError(f"found {text!r}; {host!r} is not a host name")
    if not colon and default_port is not None:
        return Address(host=host, port=default_port)
    if not port:
        raise ValueError(f"found {text!r} without a port; {allowed}")
    if not port.isascii() or not port.isdigit() or not lowest_port <= int(port) <= 65535:
        raise ValueError(f"found port {port!r} in {text!r}; a port is a number from {lowest_port} to 65535")
    return Address(host=host, port=int(port))


def parse_listen(found: object) -> object:
    """Parse an address to listen on; port 0 picks any free port."""
    if isinstance(found, Address):
        return found
    if not isinstance(found, str):
        near = f"; did you mean 127.0.0.1:{found}?" if type(found) is int else ""
        raise ValueError(f"found {describe(found)}; allowed is host:port, such as 127.0.0.1:8080{near}")
    return split_address(found, "127.0.0.1:8080")


def parse_admin(found: object) -> object:
    """Parse an address to listen on, or ``off``."""
    if found == "off" or found is False:
        return None
    if isinstance(found, Address):
        return found
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; allowed is host:port, such as 127.0.0.1:9900, or off")
    return split_address(found, "127.0.0.1:9900, or off")


def parse_url(found: object) -> object:
    """Parse ``http://host:port`` or ``https://host:port`` (default ports 80 and 443).

    A path is kept without the slash at its end. ``unix:/path`` is a Unix socket. Returns a :class:`Lookup` for
    ``dns+http://``.
    """
    if isinstance(found, Address):
        return found
    allowed = "allowed is http://host:port or https://host:port, such as http://127.0.0.1:5000"
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; {allowed}")
    if found.startswith("unix:"):
        return parse_socket(found)
    scheme, separator, rest = found.partition("://")
    if not separator:
        raise ValueError(f"found {found!r} without a scheme; {allowed}; did you mean http://{found}?")
    if scheme not in ("http", "https", "dns+http"):
        raise ValueError(f"found scheme {scheme!r}; {allowed}, or dns+http://name:port")
    authority, slash, tail = rest.partition("/")
    if any(c in rest for c in "?#"):
        raise ValueError(f"found {found!r} with a query or a fragment; {allowed}, with a path at most")
    if not _TARGET_PATH(slash + tail):
        raise ValueError(f"found {found!r} with a malformed path; {allowed}/api")
    path = (slash + tail).removesuffix("/")
    if "@" in authority:
        raise ValueError(f"found a user name in a target; {allowed}")
    secure = scheme == "https"
    example = f"{'https' if secure else 'http'}://127.0.0.1:5000"
    address = split_address(authority, example, default_port=443 if secure else 80, lowest_port=1)
    if scheme == "dns+http":
        return _lookup(address, found).model_copy(update={"path": path})
    return address.model_copy(update={"secure": secure, "path": path})


def parse_socket(found: str) -> Address:
    """Parse ``unix:/path``."""
    path = found.removeprefix("unix:")
    path = "/" + path.lstrip("/") if path.startswith("//") else path
    if not _SOCKET(path):
        raise ValueError(
            f"found {found!r}; allowed is unix: and an absolute path of at most 107 letters, digits and ._/+-, such as "
            "unix:/run/app.sock"
        )
    return Address(host=path, port=0)


def _lookup(address: Address, found: str) -> Lookup:
    host = address.host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        raise ValueError(f"found {found!r}: {host} is already an address; write http://{address}")
    if not host.startswith("_"):
        return Lookup(host=host, port=address.port)
    labels = host.split(".")
    if len(labels) < 3 or labels[1] != "_tcp":
        raise ValueError(f"found {found!r}; allowed is a name such as _http._tcp.{labels[-1]}")
    if not found.endswith((host, host + "/")):
        raise ValueError(f"found {found!r} with a port; the ports of {host} come from its SRV records")
    return Lookup(host=host, port=0, srv=True)


def parse_authority(found: object) -> str:
    """Parse the value of a Host field: a name or an address, with an optional port."""
    allowed = "allowed is a host with an optional port, such as shop.example.com"
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; {allowed}")
    if "://" in found:
        raise ValueError(f"found {found!r} with a scheme; {allowed}")
    address = split_address(found, "shop.example.com", default_port=0, lowest_port=1)
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}" if address.port else host


Authority = Annotated[
    str,
    BeforeValidator(parse_authority),
    WithJsonSchema({"type": "string", "examples": ["shop.example.com"]}),
    Takes("host, with an optional port"),
]
ServiceHost = Annotated[
    str,
    BeforeValidator(lambda found: found if found in ("client", "upstream") else parse_authority(found)),
    WithJsonSchema({"type": "string", "examples": ["client", "upstream", "shop.example.com"]}),
    Takes("`client`, `upstream`, or a host with an optional port"),
]
Url = Annotated[
    Address,
    BeforeValidator(parse_url),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^((https?|dns\\+http)://|unix:/)",
            "examples": [
                "http://127.0.0.1:5000",
                "unix:/run/app.sock",
                "dns+http://user.internal:5000",
                "dns+http://_http._tcp.user.internal",
            ],
        }
    ),
    Takes("`http://host:port`, `https://…`, `unix:/…`, `dns+http://…`"),
]


def parse_network(found: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Parse an address range such as ``10.0.0.0/8``, or a single address."""
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; allowed is an address range, such as 10.0.0.0/8")
    try:
        network = ipaddress.ip_network(found, strict=False)
    except ValueError:
        raise ValueError(f"found {found!r}; allowed is an address range, such as 10.0.0.0/8 or ::1/128") from None
    if "/" in found and ipaddress.ip_interface(found).ip != network.network_address:
        raise ValueError(f"found {found!r}, an address inside a range; did you mean {network}?")
    return network


Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(parse_network),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "::1/128"]}),
    Takes("address range", "address ranges"),
]
