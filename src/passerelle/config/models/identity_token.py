"""The signed token that identifies the client to services."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.jwt import SECRET_OCTETS
from passerelle.config.models.units import Duration
from passerelle.config.models.values import File, Text

_NAME = re.compile(r"(?i:x-consumer-)[A-Za-z0-9-]{1,64}").fullmatch
_TAKEN = ("x-consumer-auth", "x-consumer-roles", "x-consumer-scopes")


def _header(text: str) -> str:
    if _NAME(text) and text.lower() not in _TAKEN:
        return text
    raise ValueError(
        f"found {text!r}; allowed is X-Consumer-… (except -Auth, -Roles and -Scopes), which no client can set"
    )


def _secret(text: str) -> str:
    found, least = len(text.encode()), SECRET_OCTETS["HS256"]
    if found < least:
        raise ValueError(f"found {found} octets; HS256 needs at least {least} (RFC 7518 §3.2)")
    return text


class IdentityToken(Model):
    """A short-lived JSON web token that the gateway signs for services."""

    key: File | None = Field(
        default=None, description="A file with a private Ed25519 key in PEM: tokens are signed with `EdDSA`."
    )
    secret: Annotated[Text, AfterValidator(_secret)] | None = Field(
        default=None, repr=False, description="In place of `key`: a secret for `HS256`; preferably as `${file:…}`."
    )
    header: Annotated[Text, AfterValidator(_header), Takes("name of a field")] = Field(
        default="X-Consumer-Token", description="The header that carries the token to services."
    )
    issuer: Text = Field(default="passerelle", description="Value of `iss`.")
    audience: Text | None = Field(default=None, description="Value of `aud`; by default the services of the route.")
    lifetime: Duration = Field(
        default=60.0, description="Lifetime of a token; at least half of it is left when a service receives it."
    )

    @model_validator(mode="after")
    def _one(self) -> IdentityToken:
        if (self.key is None) == (self.secret is None):
            raise ValueError("identity_token has exactly one of key, secret")
        if self.lifetime < 2:
            raise ValueError("lifetime is less than 2s, and the times in a token are whole seconds")
        return self
