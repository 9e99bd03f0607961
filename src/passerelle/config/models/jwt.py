"""JSON web tokens as credentials."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Model, Shape, Takes, given, raise_first
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.units import Duration
from passerelle.config.models.values import File, Text, parse_file

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
SECRET_OCTETS = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The shortest secret of each HMAC algorithm, in octets (RFC 7518 §3.2)."""
KEY_SOURCES = ("secret", "key", "jwks")
"""The sources of keys. A `jwt` has exactly one of them."""

_URL = re.compile(r"https?://[!-~]+").fullmatch
_FORWARD = re.compile(r"(?i:x-consumer-)[A-Za-z0-9-]{1,64}").fullmatch
_OWN = ("x-consumer-scopes", "x-consumer-auth")


def _jwks(found: object, info: ValidationInfo) -> object:
    if isinstance(found, str) and "://" in found:
        if not _URL(found):
            raise ValueError(f"found {found!r}; allowed is an https:// address or a path")
        if "@" in found:
            raise ValueError(
                "found a user name or a password in the address; addresses are logged, and key sets are public"
            )
        return found
    return parse_file(found, info)


def _forward(text: str) -> str:
    if _FORWARD(text) and text.lower() not in _OWN:
        return text
    raise ValueError(
        f"found {text!r}; allowed is X-Consumer-… (except -Scopes and -Auth), which no client can set, "
        "such as X-Consumer-Email"
    )


class Jwt(Model):
    """How JSON web tokens are verified, for routes with `auth: [jwt]`."""

    algorithms: Annotated[tuple[Algorithm, ...], Takes("list of algorithms")] = Field(
        min_length=1, description="The accepted signature algorithms."
    )
    secret: Text | None = Field(
        default=None,
        repr=False,
        description="The shared secret of `HS256`, `HS384`, `HS512`; preferably as `${file:…}`.",
    )
    key: File | None = Field(default=None, description="A file with the public key in PEM.")
    jwks: (
        Annotated[str | Path, BeforeValidator(_jwks), WithJsonSchema({"type": "string"}), Takes("address or path")]
        | None
    ) = Field(default=None, description="The key set of the issuer: an `https://` address, or a file.")
    issuer: Text | None = Field(default=None, description="Required value of `iss`.")
    audience: Annotated[tuple[Text, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Accepted values of `aud`: a token must have one of them."
    )
    leeway: Duration = Field(default=10.0, description="Tolerated clock difference, for `exp` and `nbf`.")
    consumer_claim: Text = Field(default="sub", description="The claim that names the consumer.")
    scope_claim: Text = Field(
        default="scope", description="The claim with the scopes: text separated by blanks, or a list."
    )
    forward: Annotated[dict[Text, Annotated[Text, AfterValidator(_forward)]], Takes("mapping of claims to fields")] = (
        Field(
            default={},
            description="Claims to forward to services, with the header of each: `{email: X-Consumer-Email}`.",
        )
    )
    refresh: Duration = Field(default=3600.0, description="How often the key set is fetched. With `jwks` only.")
    cooldown: Duration = Field(
        default=30.0, description="Minimum time between fetches caused by an unknown key. With `jwks` only."
    )

    @model_validator(mode="after")
    def _shape(self) -> Jwt:
        raise_first(jwt_shape(given(self)))
        return self


def jwt_shape(keys: set[str]) -> Shape:
    """Check which keys a ``jwt`` combines."""
    sources = [key for key in KEY_SOURCES if key in keys]
    if not sources:
        return [(None, f"jwt needs one of {', '.join(KEY_SOURCES)}; found none of them")]
    findings: Shape = [
        (key, f"found together with {sources[0]}; allowed is one of {', '.join(KEY_SOURCES)}") for key in sources[1:]
    ]
    if "jwks" not in keys:
        wrong = [key for key in ("refresh", "cooldown") if key in keys]
        findings += [(key, f"found together with {sources[0]}; allowed with jwks only") for key in wrong]
    return findings
