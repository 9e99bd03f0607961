"""Certificates that the gateway orders itself, from an authority that speaks ACME (RFC 8555)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, model_validator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.addresses import HOST
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.values import File, Text
from passerelle.config.reading.wording import describe

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
MOST_NAMES = 100
STATE = ".passerelle"  # the folder for state beside the configuration file

_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,190}").fullmatch
_BASE64URL = re.compile(r"[A-Za-z0-9_-]{16,}={0,2}").fullmatch


def is_address(host: str) -> bool:
    """Whether ``host``, in lower case, is an IP address, as a route has it."""
    return host.startswith("[") or re.fullmatch(r"[0-9.]+", host) is not None


def _name(text: str) -> str:
    name = text.lower().removesuffix(".")
    if name.startswith("*."):
        raise ValueError(f"found {text!r}; a certificate for a wildcard needs DNS-01, which passerelle does not have")
    if not HOST(name) or is_address(name):
        raise ValueError(f"found {text!r}; allowed is a host name, such as www.example.com")
    return name


def _mail(text: str) -> str:
    if not _MAIL(text):
        raise ValueError(f"found {text!r}; allowed is a mail address, such as ops@example.com")
    return text


def _directory(text: str) -> str:
    if not re.fullmatch(r"https://[^\s/@?#]+(/[^\s?#]*)?(\?[^\s#]*)?", text):
        raise ValueError(f"found {text!r}; allowed is an https:// address, such as {LETS_ENCRYPT}")
    return text


def _hmac(text: str) -> str:
    if not _BASE64URL(text):
        raise ValueError("found no key in base64url; copy it as the authority shows it")
    return text


class ExternalAccount(Model):
    """The account with the authority that an ACME account is bound to (RFC 8555 §7.3.4)."""

    key_id: Text = Field(description="The identifier of the key, from the authority.")
    hmac_key: Annotated[Text, AfterValidator(_hmac)] = Field(
        repr=False, description="The key in base64url, from the authority; preferably as `${file:…}`."
    )


class AutomaticTls(Model):
    """Which certificates are ordered, where, and how the control of names is proved."""

    names: Annotated[tuple[Annotated[Text, AfterValidator(_name), Takes("name", "names")], ...], OneOrMore] | None = (
        Field(
            default=None,
            min_length=1,
            max_length=MOST_NAMES,
            description="The names; by default the hosts of routes.",
        )
    )
    contact: Annotated[
        tuple[Annotated[Text, AfterValidator(_mail), Takes("mail address", "mail addresses")], ...], OneOrMore
    ] = Field(default=(), min_length=1, max_length=10, description="Where the authority may write about problems.")
    directory: Annotated[
        Text,
        AfterValidator(_directory),
        WithJsonSchema({"type": "string", "pattern": "^https://"}),
        Takes("`https://` address"),
    ] = Field(default=LETS_ENCRYPT, description="The directory of the authority; by default that of Let's Encrypt.")
    directory_ca: File | None = Field(
        default=None,
        description="The trusted authorities in PEM for the connection to `directory`; by default those of the system.",
    )
    challenge: Literal["tls-alpn-01", "http-01"] = Field(
        default="tls-alpn-01",
        description="How the control of a name is proved: by TLS on port 443, or by plain HTTP on port 80.",
    )
    key_type: Literal["p256", "p384", "rsa2048", "rsa4096"] = Field(
        default="p256", description="The kind of key of new certificates: ECDSA or RSA."
    )
    external_account: Annotated[ExternalAccount, Takes("[mapping](#external_account)")] | None = Field(
        default=None, description="Binding to an account with the authority, where that requires one."
    )

    _folder: Path = PrivateAttr(default=Path(STATE))

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        if found is True:
            return {}
        if not isinstance(found, dict | AutomaticTls):
            raise ValueError(f"found {describe(found)}; allowed: true, or a mapping")
        if isinstance(found, dict) and "on_demand" in found:
            raise ValueError(
                "found on_demand; certificates are ordered for `names` or the hosts of routes only, "
                "because orders for any name that a client sends exhaust the limits of the authority"
            )
        return found

    @model_validator(mode="after")
    def _place(self, info: ValidationInfo) -> AutomaticTls:
        self._folder = Path((info.context or {}).get("folder", "."), STATE)
        return self

    def ordered(self, hosts: Iterable[str], covered: Collection[str]) -> tuple[str, ...]:
        """Return the names to order certificates for: `names`, or the ``hosts`` of routes without addresses.

        Names that the files of ``covered`` names are for are left out.
        """
        names = dict.fromkeys(self.names if self.names is not None else hosts)
        return tuple(
            name
            for name in names
            if not is_address(name) and name not in covered and f"*.{name.partition('.')[2]}" not in covered
        )

    @property
    def default_state(self) -> Path:
        """The folder for state, unless the file names one."""
        return self._folder
