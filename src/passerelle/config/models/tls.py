"""TLS of the listener, and TLS to the instances of a service."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from passerelle.config.models.addresses import HOST
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.values import File, Flag, RouteHost, Text


def _version(found: object) -> object:
    """Convert a number to text: YAML reads ``1.3`` without quotes as a number."""
    return str(found) if isinstance(found, float) else found


def _server_name(found: object) -> object:
    if isinstance(found, str) and not HOST(found):
        raise ValueError(f"found {found!r}; allowed is a host name, such as users.internal")
    return found


def _certificate_name(host: str) -> str:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host
    raise ValueError(f"found {host!r}; a server name (SNI) is never an address")


class Certificate(Model):
    """A certificate of the listener for certain server names."""

    names: tuple[Annotated[RouteHost, AfterValidator(_certificate_name)], ...] = Field(
        min_length=1, description="Server names (SNI) that select this certificate: a name, or `*.example.com`."
    )
    certificate: File = Field(description="The certificate in PEM, followed by its chain.")
    key: File = Field(description="The private key of the certificate in PEM, without a password.")


class ListenerTls(Model):
    """TLS of the listener: clients connect with `https://`."""

    certificate: File = Field(description="The certificate in PEM, followed by its chain.")
    key: File = Field(description="The private key of the certificate in PEM, without a password.")
    certificates: Annotated[tuple[Certificate, ...], Takes("list of [certificates](#certificates)")] = Field(
        default=(),
        min_length=1,
        description="Further certificates for certain server names; `certificate` is for all others.",
    )
    client_ca: File | None = Field(
        default=None, description="Mutual TLS: the authorities in PEM that client certificates must be issued by."
    )
    client: Literal["required", "optional"] = Field(
        default="required", description="Whether clients must present a certificate. With `client_ca` only."
    )
    minimum: Annotated[Literal["1.2", "1.3"], BeforeValidator(_version)] = Field(
        default="1.2", description="The oldest accepted version of TLS."
    )


class ServiceTls(Model):
    """TLS from the gateway to the `https://` targets of a service."""

    verify: Flag = Field(
        default=True, description="Whether the certificate of the instance is verified; `false` accepts any."
    )
    ca: File | None = Field(default=None, description="The trusted authorities in PEM; by default those of the system.")
    server_name: Annotated[Text, BeforeValidator(_server_name), Takes("name")] | None = Field(
        default=None,
        description="The server name to send (SNI) and to verify; by default the `host` of the "
        "service if that is a name, otherwise the host of the target.",
    )
    certificate: File | None = Field(
        default=None, description="The gateway's own certificate in PEM, for instances that require one."
    )
    key: File | None = Field(default=None, description="The private key of `certificate` in PEM, without a password.")
