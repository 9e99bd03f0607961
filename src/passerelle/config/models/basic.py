"""Basic authentication: user names and passwords of a file."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.units import Duration
from passerelle.config.models.values import File, Text, WholeNumber

# A quoted string without escapes (RFC 9110 §5.6.4).
_REALM = re.compile(r"[ !#-\[\]-~]{1,128}").fullmatch


def _realm(text: str) -> str:
    if _REALM(text):
        return text
    raise ValueError(f"found {text!r}; allowed are 1 to 128 visible ASCII characters without quotes and backslashes")


class Basic(Model):
    """User names and passwords (RFC 7617), for routes with `auth: [basic]`."""

    file: File = Field(description="A file with a line `NAME:HASH` for each user; bcrypt and argon2 are accepted.")
    realm: Annotated[Text, AfterValidator(_realm), Takes("text")] = Field(
        default="passerelle", description="What browsers may show when they ask for a password."
    )
    remember: Duration = Field(
        default=300.0, description="How long a verified password is accepted without another verification."
    )
    attempts: Annotated[int, WholeNumber(1, 1000)] = Field(
        default=10,
        description="Wrong passwords for one user name before further ones are refused. Beyond it: 429.",
    )
    address_attempts: Annotated[int, WholeNumber(1, 100_000)] = Field(
        default=20,
        description="Wrong passwords from one client address (IPv6: /64) before further ones are refused. "
        "Beyond it: 429.",
    )
    forgiven: Duration = Field(
        default=60.0,
        description="Time after which one wrong password is forgiven, so that one more attempt is allowed.",
    )
