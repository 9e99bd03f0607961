"""TLS of the listener, and TLS to the instances of a service."""

from __future__ import annotations

import ipaddress
import ssl
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from passerelle.config.models.addresses import HOST
from passerelle.config.models.automatic_tls import AutomaticTls
from passerelle.config.models.base import Model, Shape, Takes, given, raise_first
from passerelle.config.models.guards import OneOrMore
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


def _suite(name: str) -> str:
    if name not in _suites():
        raise ValueError(f"found {name!r}; allowed are suites of TLS 1.2 such as ECDHE-ECDSA-AES256-GCM-SHA384")
    return name


@cache
def _suites() -> frozenset[str]:
    """The names of all suites of TLS 1.2 that authenticate and encrypt; those of TLS 1.3 cannot be chosen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:!aNULL:!eNULL:!PSK:!SRP")
    return frozenset(each["name"] for each in context.get_ciphers() if each["protocol"] != "TLSv1.3")


_ABOUT = {
    "certificate": "the certificate in PEM, followed by its chain",
    "key": "the private key of the certificate in PEM, without a password",
}
PAIR = tuple(_ABOUT)
"""The keys of a certificate that is a file."""


class ListenerTls(Model):
    """TLS of the listener: clients connect with `https://`."""

    certificate: File | None = Field(
        default=None, description="The certificate in PEM, followed by its chain. Required without `auto`."
    )
    key: File | None = Field(default=None, description="The private key of the certificate in PEM, without a password.")
    auto: Annotated[AutomaticTls, Takes("`true` or [mapping](#automatic-https)")] | None = Field(
        default=None,
        description="Certificates are ordered from an authority and renewed, in the place of `certificate` and `key`.",
    )
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
    ciphers: Annotated[
        tuple[Annotated[Text, AfterValidator(_suite), Takes("cipher suite", "cipher suites")], ...], OneOrMore
    ] = Field(
        default=(),
        min_length=1,
        description="The cipher suites of TLS 1.2 in order of preference, by their OpenSSL names; by default those "
        "with ECDHE and AES-GCM or ChaCha20-Poly1305. Those of TLS 1.3 are fixed.",
    )
    curve: Literal["X25519", "X448", "prime256v1", "secp384r1", "secp521r1"] | None = Field(
        default=None,
        description="The only curve of the key exchange; by default those of OpenSSL, of which the client picks one.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        return {"auto": {}} if found == "auto" else found

    @model_validator(mode="after")
    def _shape(self) -> ListenerTls:
        raise_first(tls_shape(given(self)))
        return self

    @property
    def pair(self) -> tuple[Path, Path] | None:
        """The files of the certificate and its key; None where certificates are ordered."""
        return (self.certificate, self.key) if self.certificate is not None and self.key is not None else None


def tls_shape(keys: set[str]) -> Shape:
    """Check which keys ``tls`` combines."""
    found = [key for key in PAIR if key in keys]
    if "auto" in keys:
        return [(key, "found together with auto, which orders the certificates") for key in found]
    if not found:
        return [(None, "found without certificate and key, or auto")]
    return [(key, f"missing; it is required ({_ABOUT[key]})") for key in PAIR if key not in keys]


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
